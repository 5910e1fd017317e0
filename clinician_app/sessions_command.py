"""``imaging sessions``: which launches of the app are running, and their end."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime

import click
from rich.console import Console
from rich.table import Table

from imaging_core.database import open_pool
from imaging_core.errors import Permanent, Retryable
from imaging_core.settings import Settings, operator_settings
from smart_launch import (
    Keyring,
    LaunchError,
    OpenLaunch,
    SessionStore,
    SmartConfigurationError,
    SmartLaunch,
    load_registrations,
)

__all__ = ["sessions"]

_TIME = click.DateTime(["%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M", "%Y-%m-%d"])


@click.group()
def sessions() -> None:
    """Running launches of the clinician app."""


@sessions.command("list")
@click.option("--ehr", help="Only those of this EHR.")
@click.option("--user", help="Only those of this user (`sub` of the EHR's id_token).")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def list_sessions(ehr: str | None, user: str | None, as_json: bool) -> None:
    """Show who has the app open: never a patient, never a secret."""
    with _store(operator_settings()) as store:
        found = store.open_launches(ehr=ehr, subject=user)
    if as_json:
        click.echo(json.dumps([asdict(item) for item in found], default=lambda value: value.isoformat()))
        return
    Console().print(_table(found) if found else "no launch is running")


@sessions.command()
@click.argument("launch_ids", nargs=-1)
@click.option("--ehr", help="All of this EHR.")
@click.option("--user", help="All of this user (`sub` of the EHR's id_token).")
@click.option("--before", type=_TIME, help="All that were opened before this time (UTC).")
@click.option("--all", "everything", is_flag=True, help="All.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def revoke(
    launch_ids: Sequence[str], ehr: str | None, user: str | None, before: datetime | None, everything: bool, yes: bool
) -> None:
    """End launches: here at once, and at the EHR where it lets tokens be revoked."""
    if not (launch_ids or ehr or user or before or everything):
        raise click.UsageError("name launches, or choose them by --ehr, --user, --before or --all")
    settings = operator_settings()
    with _store(settings) as store:
        chosen = store.open_launches(ehr=ehr, subject=user, before=before.replace(tzinfo=UTC) if before else None)
        if launch_ids:
            chosen = [item for item in chosen if item.launch_id in launch_ids]
        if not chosen:
            click.echo("no such launch is running")
            return
        if not yes:
            Console().print(_table(chosen))
            click.confirm(f"End {len(chosen)}?", abort=True)
        ids = [item.launch_id for item in chosen]
        smart = _smart(settings, store)
        reason = "revoked by an administrator"
        ended = smart.revoke(ids, reason) if smart else store.end(ids, reason)
    where = (
        "here and, where offered, at the EHR" if smart else "here; at the EHR only with SMART_REGISTRATIONS, APP_KEYS"
    )
    click.echo(f"{ended} ended {where}")


@sessions.command()
def reseal() -> None:
    """Seal all tokens anew with the first key of APP_KEYS, so that older keys can be taken out of it."""
    settings = operator_settings()
    settings.require("app_keys")
    with _store(settings) as store:
        click.echo(f"{store.reseal()} resealed with key {store.keys.current}")


@contextmanager
def _store(settings: Settings) -> Iterator[SessionStore]:
    settings.require("database_url")
    text = settings.app_keys.get_secret_value() or Keyring.new_key("none")  # to list and to end, none has to open
    try:
        with open_pool(settings, size=1) as pool:
            yield SessionStore(pool, Keyring.parse(text))
    except SmartConfigurationError as error:
        raise Permanent("bad-setting", str(error)) from error
    except LaunchError as error:
        raise Retryable("database-unavailable", error.detail) from error


def _smart(settings: Settings, store: SessionStore) -> SmartLaunch | None:
    """Return what can revoke tokens at the EHRs; None where registrations or keys are not at hand."""
    if not settings.smart_registrations or not settings.app_keys.get_secret_value():
        return None
    registrations = load_registrations(settings.smart_registrations, key_vault_url=settings.key_vault_url)
    return SmartLaunch(registrations, store, settings.app_base_url)


def _table(found: Sequence[OpenLaunch]) -> Table:
    table = Table(box=None)
    table.add_column("launch", min_width=22)  # whole: it is what `revoke` takes
    for title in ("EHR", "user", "opened", "last used"):
        table.add_column(title, overflow="fold")
    for item in found:
        user = item.fhir_user or item.subject or "not told"
        times = (f"{time:%Y-%m-%d %H:%M}" for time in (item.created_at, item.last_seen_at))
        table.add_row(item.launch_id, item.ehr, user, *times)
    return table

"""Subcommands of `imaging` over the ledger: ``intake check``, ``intake quarantine`` and ``redrive``."""

from __future__ import annotations

import getpass
import json
import sys
import uuid
from contextlib import ExitStack
from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table

from fhir_adapter.client import client_from_settings
from imaging_core.blobs import BlobStore
from imaging_core.database import open_pool, unit_of_work
from imaging_core.dicom.child import DecodePool
from imaging_core.errors import Permanent
from imaging_core.ledger import quarantine as files
from imaging_core.ledger import rendition
from imaging_core.ledger import study as ledger
from imaging_core.ledger.quarantine import Decision
from imaging_core.queues import STUDIES, Queues
from imaging_core.settings import operator_settings
from ingestion_functions.check import Account
from ingestion_functions.check import check as prove
from ingestion_functions.quarantine import record_decision

__all__ = ["intake", "redrive"]


@click.group()
def intake() -> None:
    """Account for what came in."""


@intake.command()
@click.option("--deep", is_flag=True, help="Read every image and compare its hash with that of its delivery.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(deep: bool, as_json: bool) -> None:
    """Prove that deliveries add up, and that every accepted image is stored, registered and reported where analysable.

    Exit 1 where something is missing, failed, or still on its way; each such thing is named.
    """
    settings = operator_settings()
    settings.require("fhir_base_url")
    with ExitStack() as opened:
        pool = opened.enter_context(open_pool(settings, size=4))
        fhir = opened.enter_context(client_from_settings(settings))
        decoder = opened.enter_context(DecodePool.from_settings(settings)) if deep else None
        account = prove(pool, BlobStore.from_settings(settings), fhir, deep=decoder)
        with unit_of_work(pool) as connection:
            renditions = rendition.saved(connection)
    if as_json:
        said = {
            "good": account.good,
            "numbers": account.numbers,
            "renditions": asdict(renditions),
            "differences": [asdict(difference) for difference in account.differences],
            "by_code": dict(account.by_code),
        }
        click.echo(json.dumps(said, indent=1))
    else:
        _print(account, renditions)
    sys.exit(0 if account.good else 1)


def _print(account: Account, renditions: rendition.Saved) -> None:
    table = Table("what", "number", show_header=False)
    for name, number in account.numbers.items():
        table.add_row(name, str(number))
    table.add_row("renditions", f"{renditions.stored} ({renditions.waiting} waiting, {renditions.failed} failed)")
    table.add_row("bytes saved by renditions", f"{renditions.saved_bytes:,} of {renditions.original_bytes:,}")
    Console().print(table)
    for difference in account.differences:
        detail = f" ({difference.detail})" if difference.detail else ""
        click.echo(f"{difference.code}: {difference.name}{detail}", err=True)
    unnamed = sum(account.by_code.values()) - len(account.differences)
    if unnamed:
        click.echo(f"and {unnamed} more", err=True)
    if account.by_code["failed"]:
        click.echo("Failed studies are sent back by `imaging redrive`.", err=True)


@intake.group()
def quarantine() -> None:
    """Files that wait for a person's decision."""


@quarantine.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(as_json: bool) -> None:
    """Show the files that nobody has decided about, the oldest first."""
    with open_pool(operator_settings(), size=1) as pool, unit_of_work(pool) as connection:
        rows = files.quarantined(connection)
    if as_json:
        click.echo(json.dumps([dict(row) for row in rows], default=str))
        return
    table = Table("delivery", "since", "client", "reason", "bytes")
    for row in rows:
        since = f"{row['received_at']:%Y-%m-%d %H:%M}"
        table.add_row(str(row["intake_id"]), since, row["client"], row["reason"], str(row["bytes"]))
    Console().print(table)


@quarantine.command()
@click.argument("intake_id", type=click.UUID)
@click.option("--discard", "action", flag_value="discard", help="Keep what is stored; the file stays in quarantine.")
@click.option("--release", "action", flag_value="release", help="Try the file again, after a limit was raised.")
@click.option("--reason", required=True, help="Why; recorded.")
@click.option("--who", default="", help="Who decides; default: the login name.")
def decide(intake_id: uuid.UUID, action: Decision | None, reason: str, who: str) -> None:
    """Decide about one file; a released one is tried again by the service within half a minute."""
    if action is None:
        raise Permanent("bad-field", "choose one of --discard and --release")
    with open_pool(operator_settings(), size=1) as pool:
        record_decision(pool, intake_id, action, who=who or getpass.getuser(), reason=reason, client="imaging-command")
    click.echo(f"{action}: recorded")


@click.command()
@click.argument("study_uid", required=False)
def redrive(study_uid: str | None) -> None:
    """Send failed work back: one study, or all."""
    settings = operator_settings()
    queues = Queues.from_settings(settings)
    with open_pool(settings, size=1) as pool, unit_of_work(pool) as connection:
        studies = ledger.redrive(connection, study_uid, who=getpass.getuser())
    for uid in studies:
        queues.send(STUDIES, {"study_uid": uid})
    click.echo(f"{len(studies)} studies sent back")

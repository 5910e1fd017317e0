"""``imaging holds``: the studies that wait for a person, and the person's decision."""

from __future__ import annotations

import getpass
import json

import click
from rich.console import Console
from rich.table import Table

from fhir_adapter.client import client_from_settings
from imaging_core.database import open_pool, unit_of_work
from imaging_core.errors import Permanent, Retryable
from imaging_core.ledger import holds as ledger
from imaging_core.ledger.holds import Action
from imaging_core.queues import Queues
from imaging_core.settings import operator_settings
from imaging_core.sites import Sites
from ingestion_functions.hold_decisions import choices, said
from ingestion_functions.hold_decisions import resolve as decide

__all__ = ["holds"]

_CLIENT = "imaging-command"


@click.group()
def holds() -> None:
    """Studies whose patient is not resolved."""


@holds.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(as_json: bool) -> None:
    """Show the hold list, the oldest first."""
    with open_pool(operator_settings(), size=1) as pool, unit_of_work(pool) as connection:
        rows = ledger.held(connection)
    if as_json:
        click.echo(json.dumps([dict(row) for row in rows], default=str))
        return
    table = Table("study", "site", "reason", "since", "images")
    for row in rows:
        since = f"{row['held_at']:%Y-%m-%d %H:%M}"
        table.add_row(row["study_uid"], row["site"], row["hold_reason"], since, str(row["images"]))
    Console().print(table)


@holds.command()
@click.argument("study_uid")
def show(study_uid: str) -> None:
    """Show what the headers of a held study say, and who has its number (this prints patient data)."""
    settings = operator_settings()
    with open_pool(settings, size=1) as pool, unit_of_work(pool) as connection:
        row, headers = ledger.held_study(connection, study_uid)
    console = Console()
    console.print(f"{row['hold_reason']}: {row['hold_detail']}")
    table = Table("attribute", "values", show_header=False)
    for name, values in said(headers).items():
        table.add_row(name, " | ".join(values))
    console.print(table)
    try:
        with client_from_settings(settings) as fhir:
            found = choices(fhir, Sites.from_settings(settings), row["site"], headers)
    except Retryable as error:
        console.print(f"Patients with this number: not known ({error.code})")
        return
    people = Table("patient", "name", "birth date", "sex", title="Patients with this number")
    for person in found:
        people.add_row(person["patient"], person["name"], person["birth_date"], person["sex"])
    console.print(people)


@holds.command()
@click.argument("study_uid")
@click.option("--link", "patient", default="", help="Link to this Patient (its id on the FHIR service).")
@click.option("--create", is_flag=True, help="Make a Patient from the header.")
@click.option("--reject", is_flag=True, help="Never link; the images stay stored.")
@click.option("--reason", default="", help="Why; recorded.")
@click.option("--who", default="", help="Who decides; default: the login name.")
def resolve(study_uid: str, patient: str, create: bool, reject: bool, reason: str, who: str) -> None:
    """Decide about a held study; it flows on by itself."""
    chosen: list[Action] = []
    if patient:
        chosen.append("link")
    if create:
        chosen.append("create")
    if reject:
        chosen.append("reject")
    if len(chosen) != 1:
        raise Permanent("bad-field", "choose one of --link, --create and --reject")
    settings = operator_settings()
    with open_pool(settings, size=1) as pool, client_from_settings(settings) as fhir:
        decide(
            pool,
            Queues.from_settings(settings),
            fhir,
            study_uid,
            chosen[0],
            who=who or getpass.getuser(),
            client=_CLIENT,
            patient=patient,
            reason=reason,
        )
    click.echo(f"{chosen[0]}: recorded")

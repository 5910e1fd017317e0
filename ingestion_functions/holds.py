"""``imaging holds``: the studies that wait for a person, and the person's decision."""

from __future__ import annotations

import getpass

import click
from rich.console import Console
from rich.table import Table

from imaging_core.database import open_pool, unit_of_work
from imaging_core.errors import Permanent
from imaging_core.ledger import holds as ledger
from imaging_core.ledger.holds import Action
from imaging_core.queues import STUDIES, Queues
from imaging_core.settings import operator_settings

__all__ = ["holds"]

_SHOWN = {
    "00100020": "patient id",
    "00100021": "issuer",
    "00100010": "name",
    "00100030": "birth date",
    "00100040": "sex",
    "00080050": "accession",
    "00080020": "study date",
    "00080060": "modality",
    "00081030": "description",
}


@click.group()
def holds() -> None:
    """Studies whose patient is not resolved."""


@holds.command("list")
def list_() -> None:
    """Show the hold list, the oldest first."""
    with open_pool(operator_settings(), size=1) as pool, unit_of_work(pool) as connection:
        rows = ledger.held(connection)
    table = Table("study", "site", "reason", "since", "images")
    for row in rows:
        since = f"{row['held_at']:%Y-%m-%d %H:%M}"
        table.add_row(row["study_uid"], row["site"], row["hold_reason"], since, str(row["images"]))
    Console().print(table)


@holds.command()
@click.argument("study_uid")
def show(study_uid: str) -> None:
    """Show what the headers of a held study say (this prints patient data)."""
    with open_pool(operator_settings(), size=1) as pool, unit_of_work(pool) as connection:
        row, headers = ledger.held_study(connection, study_uid)
    console = Console()
    console.print(f"{row['hold_reason']}: {row['hold_detail']}")
    table = Table("attribute", "values", show_header=False)
    for tag, name in _SHOWN.items():
        values = sorted({_value(header.get(tag, {})) for header in headers} - {""})
        table.add_row(name, " | ".join(values))
    console.print(table)


def _value(element: dict[str, object]) -> str:
    values = element.get("Value")
    first = values[0] if isinstance(values, list) and values else ""
    return str(first.get("Alphabetic", "")) if isinstance(first, dict) else str(first)


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
    subject = f"Patient/{patient.removeprefix('Patient/')}" if patient else None
    with open_pool(settings, size=1) as pool, unit_of_work(pool) as connection:
        ledger.resolve(connection, study_uid, chosen[0], who=who or getpass.getuser(), subject=subject, reason=reason)
    if chosen[0] != "reject":
        Queues.from_settings(settings).send(STUDIES, {"study_uid": study_uid})
    click.echo(f"{chosen[0]}: recorded")

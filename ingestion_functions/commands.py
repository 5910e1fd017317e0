"""Subcommands of `imaging` over the ledger: ``intake check`` and ``redrive``."""

from __future__ import annotations

import sys

import click
from rich.console import Console
from rich.table import Table

from imaging_core.database import open_pool, unit_of_work
from imaging_core.ledger import rendition
from imaging_core.ledger import study as ledger
from imaging_core.ledger.counts import counts
from imaging_core.queues import STUDIES, Queues
from imaging_core.settings import operator_settings

__all__ = ["intake", "redrive"]

_OUTCOMES = ("accepted", "duplicate", "rejected", "quarantined", "held")


@click.group()
def intake() -> None:
    """Account for what came in."""


@intake.command()
def check() -> None:
    """Prove that deliveries add up, and that every accepted image is registered and, where analysable, reported.

    Exit 1 where something is failed, or still on its way.
    """
    with open_pool(operator_settings(), size=1) as pool, unit_of_work(pool) as connection:
        found = counts(connection)
        strays = connection.execute(
            """
            SELECT count(*) FROM ledger.intake i
            WHERE i.outcome = 'accepted' AND NOT EXISTS (SELECT 1 FROM ledger.instance n WHERE n.sop_uid = i.sop_uid)
            """
        ).fetchone()
        renditions = rendition.saved(connection)
    table = Table("what", "number", show_header=False)
    for name, number in found.items():
        table.add_row(name, str(number))
    table.add_row("renditions", f"{renditions.stored} ({renditions.waiting} waiting, {renditions.failed} failed)")
    table.add_row("bytes saved by renditions", f"{renditions.saved_bytes:,} of {renditions.original_bytes:,}")
    Console().print(table)
    total = sum(found[name] for name in _OUTCOMES)
    faults = []
    if total != found["deliveries"]:
        faults.append(f"{found['deliveries']} deliveries, but {total} outcomes")
    if strays and strays[0]:
        faults.append(f"{strays[0]} accepted deliveries without an instance")
    if found["failed"]:
        faults.append(f"{found['failed']} images of failed studies: see `imaging redrive`")
    if found["pending"]:
        faults.append(f"{found['pending']} images still on their way")
    for fault in faults:
        click.echo(fault, err=True)
    sys.exit(1 if faults else 0)


@click.command()
@click.argument("study_uid", required=False)
def redrive(study_uid: str | None) -> None:
    """Send failed work back: one study, or all."""
    settings = operator_settings()
    queues = Queues.from_settings(settings)
    with open_pool(settings, size=1) as pool, unit_of_work(pool) as connection:
        studies = ledger.redrive(connection, study_uid)
    for uid in studies:
        queues.send(STUDIES, {"study_uid": uid})
    click.echo(f"{len(studies)} studies sent back")

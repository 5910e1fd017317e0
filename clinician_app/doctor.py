"""``imaging doctor``: settings, connections and the FHIR service; ``imaging doctor ehr NAME``: a registered EHR."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence

import click
from psycopg import Error as DatabaseError
from rich.console import Console
from rich.table import Table

from fhir_adapter.azure_service import check_service
from fhir_adapter.capability import lacking
from fhir_adapter.client import client_from_settings
from imaging_core.blobs import BlobStore
from imaging_core.database import open_pool, unit_of_work
from imaging_core.errors import ImagingError, Permanent
from imaging_core.queues import STUDIES, Queues
from imaging_core.settings import Settings, operator_settings
from smart_launch import load_registrations
from smart_launch.checkup import Check, check_ehr

__all__ = ["doctor"]

_MARKS = {True: "[green]ok[/]", None: "[yellow]note[/]", False: "[red]wrong[/]"}


@click.group(invoke_without_command=True)
@click.pass_context
def doctor(context: click.Context) -> None:
    """Check settings, connections and the FHIR service; exit 1 where something is wrong."""
    if context.invoked_subcommand is None:
        _show(list(_installation(operator_settings())))


@doctor.command()
@click.argument("name")
def ehr(name: str) -> None:
    """Check discovery, keys and metadata of a registered EHR; no user is needed."""
    settings = operator_settings()
    settings.require("smart_registrations")
    registrations = {item.name: item for item in load_registrations(settings.smart_registrations)}
    if name not in registrations:
        raise Permanent("not-found", f"no EHR of that name; there are {', '.join(sorted(registrations)) or 'none'}")
    _show(list(check_ehr(registrations[name], settings.app_base_url)))


def _installation(settings: Settings) -> Iterator[Check]:
    def database() -> None:
        with open_pool(settings, size=1) as pool, unit_of_work(pool) as connection:
            connection.execute("SELECT 1 FROM ledger.study LIMIT 1")

    yield _tried("PostgreSQL, schema ledger", database)
    yield _tried("Blob Storage", lambda: BlobStore.from_settings(settings).check())
    yield _tried("Queue Storage", lambda: Queues.from_settings(settings).depth(STUDIES))
    if settings.fhir_resource_id:
        for found in check_service(settings):
            yield Check(found.subject, found.passed, found.detail)
    try:
        with client_from_settings(settings) as client:
            missing = lacking(client.capabilities())
    except ImagingError as error:
        yield Check("FHIR service", False, error.detail)
        return
    yield Check("FHIR service", True, "answers")
    for line in missing:
        yield Check("FHIR service lacks", False, line)
    if not missing:
        yield Check("FHIR capabilities", True, "everything that is needed")


def _tried(subject: str, call: Callable[[], object]) -> Check:
    try:
        call()
    except (ImagingError, DatabaseError) as error:
        return Check(subject, False, str(error))
    return Check(subject, True, "answers")


def _show(checks: Sequence[Check]) -> None:
    table = Table("", "what", "found", box=None)
    for check in checks:
        table.add_row(_MARKS[check.passed], check.subject, check.detail)
    Console().print(table)
    if any(check.passed is False for check in checks):
        sys.exit(1)

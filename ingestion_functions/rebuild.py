"""``imaging rebuild``: the ledger anew from blobs, journal, FHIR service and sign-off copies, with the same counts.

Each phase may be cut short and done again; a rebuild that was killed is gone on with by the next call. Until it is done
the ledger is closed: intake answers 503, steps wait. What the rebuild writes to the FHIR service is one thing only: a
signature that the service has lost. Everything else that differs is closed afterwards by the steps themselves.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby, islice
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from fhir_adapter import verified_sr
from fhir_adapter.client import FhirClient, Resource, client_from_settings
from fhir_adapter.diagnostic_report import is_open, report_id
from fhir_adapter.identity import IMAGING_STUDY, resource_id
from fhir_adapter.signoff import restore
from imaging_core.blobs import BlobStore
from imaging_core.database import Pool, open_pool, unit_of_work
from imaging_core.dicom.child import DecodePool
from imaging_core.ledger import journal as history
from imaging_core.ledger import rebuild as ledger
from imaging_core.ledger import signed_object
from imaging_core.ledger.counts import counts
from imaging_core.ledger.signed_object import SignedObject
from imaging_core.settings import Settings, operator_settings
from imaging_core.sites import Sites
from ingestion_functions import journal, recovery

__all__ = ["Rebuilt", "Stores", "rebuild", "run"]

_STUDIES = 20  # in one call to the FHIR service
_VOID = ".void"
_FIRST = frozenset({"intake", "upload"})  # what other rows of the journal refer to
_OF_STUDY = frozenset({"hold_resolution", "analysis", "act"})
_PHASES = ("ship", "empty", "deliveries", "images", "renditions", "quarantine", "decisions", "fhir", "signatures")


@dataclass(frozen=True)
class Stores:
    """What a rebuild reads, and the ledger that it fills, with the owner's rights."""

    pool: Pool
    blobs: BlobStore
    decoder: DecodePool
    fhir: FhirClient
    sites: Sites
    settings: Settings


@dataclass
class Rebuilt:
    """What a rebuild brought.

    Parameters
    ----------
    history, instances, recovered, studies, signatures : int
        Rows from the journal; instances from their blobs; deliveries that only their blobs told of; studies that the
        FHIR service knows; signatures that it had lost.
    faults : list of (str, str)
        Code and name of what could not be taken back.
    """

    history: int = 0
    instances: int = 0
    recovered: int = 0
    studies: int = 0
    signatures: int = 0
    faults: list[tuple[str, str]] = field(default_factory=list)


Tell = Callable[[str, int], None]
"""Told the phase, and how many things of it were done."""


def run(stores: Stores, tell: Tell = lambda _phase, _number: None, *, restart: bool = False) -> Rebuilt:
    """Empty the ledger and fill it again, or go on with a rebuild that was cut short.

    Parameters
    ----------
    restart : bool
        Begin anew even where one was cut short.

    Raises
    ------
    Permanent
        The connection may not empty the ledger.
    Retryable
        A store is away; call again to go on.
    """
    with unit_of_work(stores.pool) as connection:
        ledger.require_owner(connection)
        begun = ledger.under_way(connection)
        if begun is None:
            ledger.close(connection)
        elif restart:
            ledger.move_to(connection, "empty")
    phase = "empty" if begun and restart else begun.phase if begun else "ship"
    result = Rebuilt()
    work: dict[str, Callable[[Stores, Rebuilt, Tell], None]] = {
        "ship": _ship,
        "empty": _empty,
        "deliveries": lambda *parts: _journal(*parts, first=True),
        "images": _images,
        "renditions": _renditions,
        "quarantine": _quarantine,
        "decisions": lambda *parts: _journal(*parts, first=False),
        "fhir": _fhir,
        "signatures": _signatures,
    }
    for name in _PHASES[_PHASES.index(phase) :]:
        if name != phase:
            with unit_of_work(stores.pool) as connection:
                ledger.move_to(connection, name)
        work[name](stores, result, tell)
    with unit_of_work(stores.pool) as connection:
        ledger.reopen(connection)
    return result


def _ship(stores: Stores, _result: Rebuilt, tell: Tell) -> None:
    """Bring into the journal what is not there yet, now that nobody adds to it."""
    tell("ship", journal.ship(stores.pool, stores.blobs))


def _empty(stores: Stores, _result: Rebuilt, tell: Tell) -> None:
    with unit_of_work(stores.pool) as connection:
        ledger.empty(connection)
        # in the same transaction: a second call must not empty what was filled since
        ledger.move_to(connection, "deliveries")
    tell("empty", 1)


def _journal(stores: Stores, result: Rebuilt, tell: Tell, *, first: bool) -> None:
    """Write the journal's rows; those that refer to others come after the images."""
    done = _position(stores)
    for name in journal.blobs_of(stores.blobs):
        if name <= done:
            continue
        rows = [(kind, row) for kind, row in journal.read(stores.blobs, name) if (kind in _FIRST) == first]
        with unit_of_work(stores.pool) as connection:
            segment = ledger.segment_of(connection, name, *_range(name), len(rows))
            if not first:
                ledger.stub_studies(
                    connection, sorted({str(row["study_uid"]) for kind, row in rows if kind in _OF_STUDY})
                )
            result.history += history.restore(connection, _referred_first(rows), segment)
            ledger.move_to(connection, "deliveries" if first else "decisions", name)
        tell("deliveries" if first else "decisions", 1)
    with unit_of_work(stores.pool) as connection:
        if first:
            ledger.continue_numbers(connection)
        else:
            ledger.restore_states(connection)


def _position(stores: Stores) -> str:
    with unit_of_work(stores.pool) as connection:
        progress = ledger.under_way(connection)
    return progress.position if progress else ""


def _range(name: str) -> tuple[int, int]:
    lowest, highest, _ = name.split("-", 2)
    return int(lowest), int(highest)


def _referred_first(rows: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    order = {kind: number for number, kind in enumerate(history.KINDS)}
    return sorted((row for row in rows if row[0] in order), key=lambda row: order[row[0]])


def _images(stores: Stores, result: Rebuilt, tell: Tell) -> None:
    found = recovery.images(
        stores.pool,
        stores.blobs,
        stores.decoder,
        stores.sites,
        threads=stores.settings.decode_workers,
        tell=lambda number: tell("images", number),
    )
    _note(result, found)


def _renditions(stores: Stores, _result: Rebuilt, tell: Tell) -> None:
    recovery.renditions(stores.pool, stores.blobs, tell=lambda number: tell("renditions", number))


def _quarantine(stores: Stores, result: Rebuilt, tell: Tell) -> None:
    def told(number: int) -> None:
        tell("quarantine", number)

    _note(result, recovery.quarantine(stores.pool, stores.blobs, stores.decoder, stores.sites, tell=told))


def _note(result: Rebuilt, found: recovery.Recovered) -> None:
    result.instances += found.instances
    result.recovered += found.deliveries
    result.faults += found.faults


def _fhir(stores: Stores, result: Rebuilt, tell: Tell) -> None:
    """Ask the FHIR service what it covers; nothing is written there."""
    position = _position(stores)
    while True:
        with unit_of_work(stores.pool) as connection:
            studies = ledger.studies_after(connection, position, _STUDIES)
        if not studies:
            return
        reports = [report for _, names in studies for report in names]
        urls = [f"ImagingStudy/{resource_id(uid, IMAGING_STUDY)}" for uid, _ in studies] + reports
        found = stores.fhir.read_many(urls)
        held = {f"{item['resourceType']}/{item['id']}" for item in found if item is not None}
        with unit_of_work(stores.pool) as connection:
            for (uid, names), stored in zip(studies, found, strict=False):
                if stored is None:
                    continue
                result.studies += 1
                ledger.fhir_says(
                    connection,
                    uid,
                    subject=str(stored["subject"]["reference"]),
                    sop_uids=[
                        str(instance["uid"])
                        for series in stored.get("series") or []
                        for instance in series.get("instance") or []
                    ],
                    registered_at=_instant(stored),
                    missing_reports=[name for name in names if name not in held],
                )
            position = studies[-1][0]
            ledger.move_to(connection, "fhir", position)
        tell("fhir", len(studies))


def _instant(resource: dict[str, Any]) -> datetime | None:
    text = str((resource.get("meta") or {}).get("lastUpdated") or "")
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _signatures(stores: Stores, result: Rebuilt, tell: Tell) -> None:
    """Give back signatures that the FHIR service has lost, and note their SRs; a signed report is not touched."""
    folders = _copies(stores.blobs)
    while chunk := list(islice(folders, _STUDIES)):
        stored = stores.fhir.read_many([f"DiagnosticReport/{_report_of(folder)}" for folder, _ in chunk])
        for (folder, copies), report in zip(chunk, stored, strict=True):
            _signed_objects(stores, folder, copies, report)
            if report is not None and not is_open(report):
                continue
            for name in copies:
                result.signatures += restore(stores.fhir, json.loads(stores.blobs.get("signoffs", name)))
        tell("signatures", len(chunk))


def _signed_objects(stores: Stores, folder: str, copies: Sequence[str], report: Resource | None) -> None:
    """Note the SRs of a report's signatures for the sweep, which takes in those that the study lacks."""
    study_uid = folder.partition("/")[0]
    held = [info.name for info in stores.blobs.list("results", f"{folder}/sr.signed.")]
    found = [SignedObject(study_uid, name) for name in held]
    if report is not None and len(held) < len(copies):
        # the database was lost before anybody made it
        version = str(report["meta"]["versionId"])
        name = verified_sr.blob_name(report, version)
        if name is not None and name not in held and name.startswith(f"{folder}/"):
            found.append(SignedObject(study_uid, name, copies[-1], version))
    with unit_of_work(stores.pool) as connection:
        for item in found:
            signed_object.note(connection, item)


def _copies(blobs: BlobStore) -> Iterator[tuple[str, list[str]]]:
    """Yield each report's path and its valid copies, the oldest first."""
    names = (info.name for info in blobs.list("signoffs"))
    for folder, group in groupby(names, key=lambda name: name.rpartition("/")[0]):
        held = set(group)
        copies = [name for name in held if not name.endswith(_VOID) and name + _VOID not in held]
        if copies:
            yield folder, sorted(copies, key=lambda name: name.rpartition("-")[2])


def _report_of(folder: str) -> str:
    parts = folder.split("/")
    return report_id(parts[0], parts[1], int(parts[2])) if len(parts) == 3 else parts[-1]


@click.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--restart", is_flag=True, help="Begin anew, even where a rebuild was cut short.")
def rebuild(yes: bool, restart: bool) -> None:
    """Empty the ledger and re-create it from blobs, journal, FHIR service and sign-off copies.

    Needs the database owner's URL (DATABASE_OWNER_URL). Intake answers 503 until it is done. Cut short, it is gone on
    with by the next call.
    """
    settings = operator_settings()
    settings.require("fhir_base_url")
    owner = settings.database_owner_url.get_secret_value()
    console = Console()
    with open_pool(settings, url=owner, size=2) as pool:
        with unit_of_work(pool) as connection:
            ledger.require_owner(connection)
            begun = ledger.under_way(connection)
        if begun is not None and not restart:
            console.print(f"Going on with the rebuild that was cut short in phase {begun.phase!r}.")
        elif not yes:
            click.confirm("Empty the ledger and re-create it? Intake is closed meanwhile.", abort=True)
        with DecodePool.from_settings(settings) as decoder, client_from_settings(settings) as fhir, _bars() as bars:
            stores = Stores(
                pool, BlobStore.from_settings(settings), decoder, fhir, Sites.from_settings(settings), settings
            )
            result = run(stores, _teller(bars), restart=restart)
        with unit_of_work(pool) as connection:
            found = counts(connection)
    for name in ("history", "instances", "recovered", "studies", "signatures"):
        console.print(f"{name}: {getattr(result, name)}")
    console.print(", ".join(f"{name} {number}" for name, number in found.items()))
    for code, name in result.faults:
        click.echo(f"{code}: {name}", err=True)
    sys.exit(1 if result.faults else 0)


def _bars() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(pulse_style="blue"),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )


def _teller(bars: Progress) -> Tell:
    tasks: dict[str, Any] = {}

    def tell(phase: str, number: int) -> None:
        if phase not in tasks:
            tasks[phase] = bars.add_task(phase, total=None)
        bars.advance(tasks[phase], number)

    return tell

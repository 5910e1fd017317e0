"""Patients that were merged on the FHIR service: their studies move to the surviving record by themselves (P6, D23).

Every few minutes one search asks for the Patients that changed since the last look. Those that a merge replaced
(``Patient.link`` of type replaced-by) and that the ledger has studies of are followed. The load on the FHIR service is
that one search and the studies that really move. The first look, also the one after a rebuild, is at every Patient that
the ledger has studies of, a hundred in one search.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from fhir_adapter.client import Resource
from fhir_adapter.patient import replaced_by
from imaging_core import telemetry
from imaging_core.database import unit_of_work
from imaging_core.ledger import study as ledger
from imaging_core.ledger import watermark
from ingestion_functions.register import relink
from ingestion_functions.services import Services

__all__ = ["follow_merges"]

_NAME = "merges"
_EVERY = timedelta(minutes=5)
# clocks of two services differ, and a transaction shows up a little after its time
_OVERLAP = timedelta(minutes=2)
_SUBJECTS = 100
log = telemetry.get_logger(__name__)


def follow_merges(parts: Services, *, every: timedelta = _EVERY) -> int:
    """Relink the studies of Patients that were merged since the last look; return how many studies were looked at.

    Raises
    ------
    Retryable, Permanent
        The FHIR service is away, or refuses; the same changes are looked at the next time.
    """
    now = datetime.now(UTC)
    with unit_of_work(parts.pool) as connection:
        last = watermark.read(connection, _NAME)
    if last is not None and now - last < every:
        return 0
    seen = 0
    complete = True
    for patient in _changed(parts, last):
        if patient.get("resourceType") != "Patient" or replaced_by(patient) is None:
            continue
        with unit_of_work(parts.pool) as connection:
            studies = ledger.studies_of(connection, f"Patient/{patient['id']}")
        for study_uid in studies:
            complete = relink(parts, study_uid) and complete
            seen += 1
    if complete:
        with unit_of_work(parts.pool) as connection:
            watermark.write(connection, _NAME, now)
    return seen


def _changed(parts: Services, last: datetime | None) -> Iterator[Resource]:
    """Yield the Patients that changed since the last look; at the first one, all that the ledger has studies of."""
    wanted = {"_elements": "id,link", "_count": "200"}
    if last is not None:
        since = (last - _OVERLAP).isoformat(timespec="seconds").replace("+00:00", "Z")
        yield from parts.fhir.search("Patient", {**wanted, "_lastUpdated": f"ge{since}"})
        return
    position = ""
    while True:
        with unit_of_work(parts.pool) as connection:
            subjects = ledger.subjects_after(connection, position, _SUBJECTS)
        if not subjects:
            return
        ids = ",".join(subject.rpartition("/")[2] for subject in subjects)
        yield from parts.fhir.search("Patient", {**wanted, "_id": ids})
        position = subjects[-1]

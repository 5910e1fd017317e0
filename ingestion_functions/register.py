"""The register step: a study is linked to its patient and its ImagingStudy covers every instance that is held."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from fhir_adapter.register import Hold, Registered, ensure_study
from imaging_core import telemetry
from imaging_core.database import unit_of_work
from imaging_core.errors import ImagingError, Permanent
from imaging_core.ledger import holds
from imaging_core.ledger import study as ledger
from imaging_core.ledger.study import MADE_HERE, StudyRow
from imaging_core.queues import ANALYSES, STUDIES
from ingestion_functions import audit
from ingestion_functions.services import Services
from ingestion_functions.settling import next_registration_s, registration_waits
from ingestion_functions.steps import failed, hint

__all__ = ["register", "relink"]

log = telemetry.get_logger(__name__)


@dataclass(frozen=True)
class _Next:
    """What is to be done after the step: look again, after a while; analyse."""

    look_again: bool = False
    delay_s: float = 0.0
    analyse: bool = False


def register(parts: Services, study_uid: str) -> None:
    """Close the difference between the instances that are held and those that FHIR covers.

    A held study is looked at again with each hint: the patient may have been registered meanwhile.
    """
    with unit_of_work(parts.pool) as connection:
        row = ledger.claim(connection, study_uid)
        if row is None or row.failed or row.rejected:
            return
        following = _step(parts, connection, row)
    if following.analyse and not following.look_again:
        # Looked at after the lock is gone: an instance that came in meanwhile found the study taken, and its hint is
        # spent.
        with unit_of_work(parts.pool) as connection:
            more = ledger.unregistered_count(connection, study_uid) > 0
        hint(parts, ANALYSES, study_uid)
        following = _Next(look_again=more)
    if following.look_again:
        hint(parts, STUDIES, study_uid, delay_s=following.delay_s)


def _step(parts: Services, connection: psycopg.Connection[Any], row: StudyRow) -> _Next:
    growth = ledger.arrivals(connection, row.study_uid)
    if row.hold_reason is None:
        if not growth.unregistered and not growth.own:
            return _Next(analyse=row.analysed_version < row.version)
        wait = registration_waits(row, growth)
        if wait:
            if row.hinted_in > 0:
                return _Next()  # somebody will look again by then
            ledger.expect_hint(connection, row.study_uid, wait)
            return _Next(look_again=True, delay_s=wait)
    try:
        # what was made here is no burst of a sender's
        burst = row.burst + 1 if growth.unregistered else row.burst
        # what the ledger noted and its audit stand or fall together (A2)
        with connection.transaction():
            return _Next(analyse=_register(parts, connection, row, burst))
    except ImagingError as error:
        delay = failed(connection, row, error)
        return _Next(look_again=delay > 0, delay_s=delay)


def _register(parts: Services, connection: psycopg.Connection[Any], row: StudyRow, burst: int) -> bool:
    instances = ledger.instances(connection, row.study_uid)
    result = _ensure(parts, connection, row, instances)
    uid = telemetry.hashed_uid(row.study_uid)
    if isinstance(result, Hold):
        ledger.hold(connection, row.study_uid, result.reason, Permanent(result.reason).detail)
        log.info("held", code=result.reason, study=uid)
        return False
    version = ledger.mark_registered(
        connection,
        row.study_uid,
        [item["sop_uid"] for item in instances],
        result.subject,
        burst=burst,
        next_s=next_registration_s(burst, parts.settings.settle_most_s),
    )
    study = f"ImagingStudy/{result.imaging_study_id}"
    if row.subject is not None and row.subject != result.subject and row.version:
        ledger.relinked(connection, row.study_uid, row.subject, result.subject)
        audit.note(connection, "study-relinked", client=MADE_HERE, what=study, patient=result.subject)
    known = {item["client"] for item in instances if item["registered"]} if burst > 1 else set()
    # one event for all that a client sends in one go
    for client in sorted({item["client"] for item in instances if not item["registered"]} - known - {MADE_HERE}):
        audit.note(connection, "image-received", client=client, what=study, patient=result.subject)
    log.info("registered", study=uid, version=version, written=len(result.written), burst=burst)
    return version > row.analysed_version


def _ensure(
    parts: Services, connection: psycopg.Connection[Any], row: StudyRow, instances: list[Any]
) -> Registered | Hold:
    settings = parts.settings

    @contextmanager
    def patient_lock(key: str) -> Iterator[None]:
        # Held to the end of the transaction: of several studies with one new patient, one makes the Patient.
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (key,))
        yield

    decided = holds.latest(connection, row.study_uid)
    return ensure_study(
        parts.fhir,
        [item["header"] for item in instances],
        parts.sites.named(row.site),
        settings.patient_match,
        subject=decided.subject if decided is not None else None,
        make_patient=decided is not None and decided.action == "create",
        endpoint_address=f"{settings.app_base_url}/dicomweb",
        trusted_hosts=settings.trusted_retrieve_hosts,
        patient_lock=patient_lock,
    )


def relink(parts: Services, study_uid: str) -> bool:
    """Move a registered study to the record that a merge left, and have its reports follow (P6, D23).

    Returns
    -------
    bool
        Whether it was looked at; False where another worker has it.
    """
    moved = False
    with unit_of_work(parts.pool) as connection:
        row = ledger.claim(connection, study_uid)
        if row is None:
            return False
        if row.failed or row.rejected or row.hold_reason:
            return True  # its own way ends with a look at the Patient
        instances = [item for item in ledger.instances(connection, study_uid) if item["registered"]]
        result = _ensure(parts, connection, row, instances)
        if isinstance(result, Hold):
            ledger.hold(connection, study_uid, result.reason, Permanent(result.reason).detail)
        elif result.subject != row.subject:
            ledger.relinked(connection, study_uid, row.subject, result.subject)
            log.info("relinked", study=telemetry.hashed_uid(study_uid))
            study = f"ImagingStudy/{result.imaging_study_id}"
            audit.note(connection, "study-relinked", client=MADE_HERE, what=study, patient=result.subject)
            moved = True
    if moved:
        hint(parts, ANALYSES, study_uid)
    return True

"""The register step: a study is linked to its patient and its ImagingStudy covers every instance that is held."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from fhir_adapter.register import Hold, ensure_study
from imaging_core import telemetry
from imaging_core.database import unit_of_work
from imaging_core.errors import ImagingError, Permanent
from imaging_core.ledger import holds
from imaging_core.ledger import study as ledger
from imaging_core.queues import ANALYSES, STUDIES
from ingestion_functions import audit
from ingestion_functions.services import Services
from ingestion_functions.steps import failed, hint

__all__ = ["register"]

log = telemetry.get_logger(__name__)


def register(parts: Services, study_uid: str) -> None:
    """Close the difference between the instances that are held and those that FHIR covers.

    A held study is looked at again with each hint: the patient may have been registered meanwhile.
    """
    delay = 0.0
    analyse = more = False
    with unit_of_work(parts.pool) as connection:
        row = ledger.claim(connection, study_uid)
        if row is None or row.failed or row.rejected:
            return
        instances = ledger.instances(connection, study_uid)
        if row.hold_reason or not all(item["registered"] for item in instances):
            try:
                analyse = _register(parts, connection, row.site, study_uid, instances, row.hold_reason is not None)
            except ImagingError as error:
                delay = failed(connection, row, error)
        else:
            analyse = row.analysed_version < row.version
    if delay:
        hint(parts, STUDIES, study_uid, delay_s=delay)
        return
    with unit_of_work(parts.pool) as connection:
        # Looked at after the lock is gone: an instance that came in meanwhile found the study taken, and its hint is
        # spent.
        more = analyse and ledger.unregistered_count(connection, study_uid) > 0
    if analyse:
        hint(parts, ANALYSES, study_uid)
    if more:
        hint(parts, STUDIES, study_uid)


def _register(
    parts: Services,
    connection: psycopg.Connection[Any],
    site: str,
    study_uid: str,
    instances: list[Any],
    held: bool,
) -> bool:
    settings = parts.settings

    @contextmanager
    def patient_lock(key: str) -> Iterator[None]:
        # Held to the end of the transaction: of several studies with one new patient, one makes the Patient.
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (key,))
        yield

    decided = holds.latest(connection, study_uid)
    result = ensure_study(
        parts.fhir,
        [item["header"] for item in instances],
        parts.sites.named(site),
        "create" if decided is not None and decided.action == "create" else settings.patient_match,
        subject=decided.subject if decided is not None else None,
        endpoint_address=f"{settings.app_base_url}/dicomweb",
        trusted_hosts=settings.trusted_retrieve_hosts,
        patient_lock=patient_lock,
    )
    uid = telemetry.hashed_uid(study_uid)
    if isinstance(result, Hold):
        ledger.hold(connection, study_uid, result.reason, Permanent(result.reason).detail)
        log.info("held", code=result.reason, study=uid)
        return False
    version = ledger.mark_registered(connection, study_uid, [item["sop_uid"] for item in instances], result.subject)
    study = f"ImagingStudy/{result.imaging_study_id}"
    for client in sorted({item["client"] for item in instances if not item["registered"]}):
        audit.note(connection, "image-received", client=client, what=study, patient=result.subject)
    if decided is not None and held:
        audit.note(connection, "hold-resolved", client="imaging", what=study, patient=result.subject, user=decided.who)
    log.info("registered", study=uid, version=version, written=len(result.written))
    return True

"""The DICOM SR of a signed report joins its study (R6, R8): it is stored, listed in the ImagingStudy, and served.

The app notes the SR with the signature and writes it a moment later. The sweep takes in what is noted; where the app
did not live to write it, it is made here of the signed copy.
"""

from __future__ import annotations

import json

from fhir_adapter import verified_sr
from imaging_core import telemetry
from imaging_core.blobs import BlobMissing
from imaging_core.database import unit_of_work
from imaging_core.errors import Permanent
from imaging_core.ledger import signed_object as ledger
from imaging_core.ledger import study as studies
from imaging_core.ledger.signed_object import Waiting
from imaging_core.queues import STUDIES
from ingestion_functions import own_objects
from ingestion_functions.services import Services
from ingestion_functions.steps import hint

__all__ = ["take_in"]

_MADE_BY_NOW_S = 90.0  # the app that signed would have written it
log = telemetry.get_logger(__name__)


def take_in(parts: Services) -> int:
    """Take in the SRs that wait; return how many instances there are more.

    Raises
    ------
    Retryable
        A store is away; what waits goes on waiting.
    """
    with unit_of_work(parts.pool) as connection:
        waiting = ledger.waiting(connection)
    return sum(_take(parts, item) for item in waiting)


def _take(parts: Services, item: Waiting) -> bool:
    with unit_of_work(parts.pool) as connection:
        row = studies.claim(connection, item.study_uid)
        if row is None:
            return False  # another worker has the study
        try:
            data = _document(parts, item)
        except Permanent as error:
            log.error("signed report without its SR", study=telemetry.hashed_uid(item.study_uid), code=error.code)
            ledger.settle(connection, item.blob, error.code)
            return False
        if data is None:
            return False
        header = own_objects.own_header(parts, data, item.study_uid, item.blob.rpartition("/")[2])
        fresh = header is not None and own_objects.store(parts, connection, row, header, data)
        ledger.settle(connection, item.blob, "" if header is not None else "not-dicom")
    if fresh:
        hint(parts, STUDIES, item.study_uid)
    return fresh


def _document(parts: Services, item: Waiting) -> bytes | None:
    """Return the SR, made now where need be; None while the app may still be at it.

    Raises
    ------
    Permanent
        There is none, nor anything to make it of.
    """
    try:
        return parts.blobs.get("results", item.blob)
    except BlobMissing:
        if item.age_s < _MADE_BY_NOW_S:
            return None
    try:
        copy = json.loads(parts.blobs.get("signoffs", item.copy)) if item.copy else None
    except BlobMissing:
        copy = None
    if copy is None or verified_sr.store_from_copy(parts.blobs, copy, item.version_id) != item.blob:
        raise Permanent("not-found", "the machine left no SR, or the signed copy is gone")
    return parts.blobs.get("results", item.blob)

"""Objects that an analysis makes join their study: DICOM SR and heatmap capture, beside the images they speak of (R8).

The AI container leaves them in container ``results``; here they become instances of the study like any other that is
stored, except that they are nobody's delivery and no new input: they start no analysis.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg

from imaging_core import telemetry
from imaging_core.blobs import BlobMissing
from imaging_core.dicom.header import DicomHeader
from imaging_core.errors import Permanent, Rejected, Retryable
from imaging_core.ledger import intake as ledger
from imaging_core.ledger.origin import MADE_HERE_MARK
from imaging_core.ledger.study import MADE_HERE, StudyRow
from ingestion_functions.services import Services

__all__ = ["add", "own_header", "store"]

_NAMES = ("sr.dcm", "sc.dcm")
log = telemetry.get_logger(__name__)


def add(parts: Services, connection: psycopg.Connection[Any], row: StudyRow, artifacts: Mapping[str, str]) -> list[str]:
    """Store the DICOM files among an answer's artifacts as instances of the study.

    Doing it again with the same artifacts adds nothing. Another object under a UID that is stored is not taken: what is
    in ``images`` is never changed.

    Returns
    -------
    list of str
        UIDs of what was added.

    Raises
    ------
    Retryable
        The store is away, or a file that the answer names is not there (yet).
    """
    added = []
    for name in _NAMES:
        if name not in artifacts:
            continue
        data = _read(parts, artifacts[name])
        header = own_header(parts, data, row.study_uid, name)
        if header is not None and store(parts, connection, row, header, data):
            added.append(header.sop_uid)
    return added


def _read(parts: Services, artifact: str) -> bytes:
    container, _, blob = artifact.partition("/")
    if container != "results":
        raise Permanent("ai-refused", "an artifact lies outside container results")
    try:
        return parts.blobs.get(container, blob)
    except BlobMissing as error:
        raise Retryable("ai-unavailable", "an artifact of the answer is not stored") from error


def own_header(parts: Services, data: bytes, study_uid: str, name: str) -> DicomHeader | None:
    """Return the header of a file that this system made of this study; None for any other, which stays where it is."""
    uid = telemetry.hashed_uid(study_uid)
    try:
        header = parts.decoder.header(data)
    except Rejected as error:
        log.error("own object unreadable", study=uid, file=name, code=error.code)
        return None
    if header.study_uid != study_uid or not header.own:
        log.error("own object of another origin", study=uid, file=name)
        return None
    return header


def store(
    parts: Services, connection: psycopg.Connection[Any], row: StudyRow, header: DicomHeader, data: bytes
) -> bool:
    """Store one object as an instance of the study that is claimed; return whether it is one more."""
    known = ledger.find_instance(connection, header.sop_uid)
    if known is not None:
        if known.dataset_sha256 != header.dataset_sha256:
            log.error("own object differs from what is stored", study=telemetry.hashed_uid(row.study_uid))
        return False
    blob = f"{header.study_uid}/{header.series_uid}/{header.sop_uid}.dcm"
    marks = {"datasetsha256": header.dataset_sha256, "traceparent": telemetry.traceparent(), **MADE_HERE_MARK}
    fresh = parts.blobs.put_new("images", blob, data, metadata=marks, content_type="application/dicom")
    if not fresh:
        stored = parts.blobs.info("images", blob).metadata.get("datasetsha256", "")
        if stored != header.dataset_sha256:
            # left by a run that was killed before the ledger knew of it; the report names this one
            log.error("own object differs from what is stored", study=telemetry.hashed_uid(row.study_uid))
            return False
    return ledger.add_instance(
        connection,
        header,
        blob=blob,
        size=len(data),
        site=row.site,
        client=MADE_HERE,
        traceparent=telemetry.traceparent(),
    )

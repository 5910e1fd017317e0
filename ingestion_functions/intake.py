"""Take in one file, however it came: the same for STOW-RS, image upload, direct drop and C-STORE.

The order makes a crash harmless: blob first (never overwritten), then ledger row and instance in one transaction, then
the queue's hint. A file that is sent again after a crash finds its blob, writes its row, and is accepted.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass, replace
from typing import Literal

from imaging_core import telemetry
from imaging_core.blobs import BlobMissing
from imaging_core.database import unit_of_work
from imaging_core.dicom.header import DicomHeader
from imaging_core.errors import ImagingError, Permanent, Rejected, Retryable
from imaging_core.ledger import intake as ledger
from imaging_core.ledger.intake import Delivery
from imaging_core.ledger.origin import metadata_of
from imaging_core.queues import STUDIES
from imaging_core.sites import Site
from ingestion_functions.auth import Caller
from ingestion_functions.services import IntakeServices

__all__ = ["Source", "TakenIn", "refuse", "site_of", "take_in"]

# What kills or exhausts a decode child may be an attack or the only copy of a real image: it is kept for a person to
# look at.
_POISON = frozenset({"decode-timeout", "decode-memory", "decode-crashed"})
log = telemetry.get_logger(__name__)


@dataclass(frozen=True)
class Source:
    """Where a file comes from.

    Parameters
    ----------
    kind : str
        The door.
    client : str
        The authenticated sender.
    site : Site
        The site that it sends for.
    study_uid : str
        Study of the request's address: another one in the file is an error (D9); empty: any.
    delivery_key : str or None
        Name under which a repeated event is recognised.
    """

    kind: Literal["stow", "image", "drop", "cstore"]
    client: str
    site: Site
    study_uid: str = ""
    delivery_key: str | None = None
    upload_id: uuid.UUID | None = None


@dataclass(frozen=True)
class TakenIn:
    """What became of a file: the ledger's row, and the SOP class for the answer."""

    delivery: Delivery
    sop_class_uid: str = ""

    @property
    def stored(self) -> bool:
        """Accepted, or there already: what counts as success for the sender (D15)."""
        return self.delivery.outcome in ("accepted", "duplicate")


def site_of(parts: IntakeServices, caller: Caller) -> Site:
    """Return the caller's site.

    Raises
    ------
    Permanent
        ``forbidden`` where the client sends for no site.
    """
    site = parts.sites.of_client(caller.client)
    if site is None:
        raise Permanent("forbidden", "this client is not listed with any site (SITES)")
    return site


def take_in(parts: IntakeServices, data: bytes, source: Source) -> TakenIn:
    """Read, store and register one DICOM Part 10 file in the ledger.

    Returns
    -------
    TakenIn
        Exactly one outcome, durable when this returns.

    Raises
    ------
    Retryable
        A store is away; nothing was acknowledged.
    """
    with telemetry.step("intake", bytes=len(data), source=source.kind):
        delivery = Delivery(
            intake_id=uuid.uuid4(),
            source=source.kind,
            client=source.client,
            site=source.site.name,
            outcome="rejected",
            sha256=hashlib.sha256(data).hexdigest(),
            bytes=len(data),
            upload_id=source.upload_id,
            trace_id=telemetry.trace_id(),
            delivery_key=source.delivery_key,
        )
        try:
            header = _header(parts, data, source)
        except Rejected as error:
            if error.code in _POISON:
                return TakenIn(_quarantine(parts, data, delivery, error))
            return TakenIn(_write(parts, replace(delivery, reason=error.code, detail=error.detail)))
        delivery = replace(delivery, sop_uid=header.sop_uid, study_uid=header.study_uid)
        return TakenIn(_store(parts, data, header, delivery), header.sop_class_uid)


def refuse(parts: IntakeServices, error: ImagingError, source: Source, *, size: int = 0, detail: str = "") -> Delivery:
    """Write the row of a delivery that never became a file: empty body, wrong media type, missing field."""
    return _write(
        parts,
        Delivery(
            intake_id=uuid.uuid4(),
            source=source.kind,
            client=source.client,
            site=source.site.name,
            outcome="rejected",
            reason=error.code,
            detail=detail or error.detail,
            bytes=size,
            upload_id=source.upload_id,
            trace_id=telemetry.trace_id(),
            delivery_key=source.delivery_key,
        ),
    )


def _header(parts: IntakeServices, data: bytes, source: Source) -> DicomHeader:
    limit = parts.settings.max_instance_bytes
    if len(data) > limit:
        raise Rejected("instance-too-large", f"{len(data)} bytes, MAX_INSTANCE_BYTES = {limit}")
    header = parts.decoder.header(data)
    if source.study_uid and header.study_uid != source.study_uid:
        raise Rejected("uid-mismatch", "the instance belongs to another study than the address names")
    return header


def _store(parts: IntakeServices, data: bytes, header: DicomHeader, delivery: Delivery) -> Delivery:
    name = f"{header.study_uid}/{header.series_uid}/{header.sop_uid}.dcm"
    with unit_of_work(parts.pool) as connection:
        known = ledger.find_instance(connection, header.sop_uid)
    if known is not None:
        return _known(parts, data, header, delivery, known.dataset_sha256, known.blob)
    fresh = parts.blobs.put_new(
        "images",
        name,
        data,
        metadata={
            "datasetsha256": header.dataset_sha256,
            "traceparent": telemetry.traceparent(),
            **metadata_of(delivery),
        },
        content_type="application/dicom",
    )
    if not fresh and _stored_hash(parts, name) != header.dataset_sha256:
        return _conflict(parts, data, delivery)
    accepted = replace(delivery, outcome="accepted", blob=f"images/{name}")
    with unit_of_work(parts.pool) as connection:
        added = ledger.add_instance(
            connection,
            header,
            blob=name,
            size=len(data),
            site=delivery.site,
            client=delivery.client,
            traceparent=telemetry.traceparent(),
        )
        if added:
            ledger.record(connection, accepted)
    if not added:  # another delivery of the same UID came first, between the look and the insert
        with unit_of_work(parts.pool) as connection:
            known = ledger.find_instance(connection, header.sop_uid)
        if known is None:
            raise Retryable("ledger-unavailable", "the instance's row is not readable")
        return _known(parts, data, header, delivery, known.dataset_sha256, known.blob)
    try:
        parts.queues.send(STUDIES, {"study_uid": header.study_uid})
    except Retryable:
        log.warning("hint lost; the sweep will find it", study=telemetry.hashed_uid(header.study_uid))
    log.info("accepted", step="intake", study=telemetry.hashed_uid(header.study_uid), bytes=len(data))
    return accepted


def _stored_hash(parts: IntakeServices, name: str) -> str:
    try:
        return parts.blobs.info("images", name).metadata.get("datasetsha256", "")
    except BlobMissing as error:
        raise Retryable("storage-unavailable", "the blob was deleted while it was looked at") from error


def _known(
    parts: IntakeServices, data: bytes, header: DicomHeader, delivery: Delivery, dataset_sha256: str, blob: str
) -> Delivery:
    """Same UID: the same content is a duplicate (D14), other content is never a silent overwrite (D15)."""
    if dataset_sha256 == header.dataset_sha256:
        return _write(parts, replace(delivery, outcome="duplicate", blob=f"images/{blob}"))
    return _conflict(parts, data, delivery)


def _conflict(parts: IntakeServices, data: bytes, delivery: Delivery) -> Delivery:
    error = Rejected(
        "conflicting-content", "this SOP Instance UID is stored with other content; an admin will look at it"
    )
    return _quarantine(parts, data, delivery, error)


def _quarantine(parts: IntakeServices, data: bytes, delivery: Delivery, error: Rejected) -> Delivery:
    name = f"{delivery.sha256}.dcm"
    kept = replace(delivery, outcome="quarantined", reason=error.code, detail=error.detail, blob=f"quarantine/{name}")
    parts.blobs.put_new("quarantine", name, data, metadata=metadata_of(kept))
    return _write(parts, kept)


def _write(parts: IntakeServices, delivery: Delivery) -> Delivery:
    with unit_of_work(parts.pool) as connection:
        ledger.record(connection, delivery)
    log.info(delivery.outcome, step="intake", code=delivery.reason, bytes=delivery.bytes)
    return delivery

"""A file has arrived in container ``incoming``: the same intake as for a request.

Event Grid repeats and reorders events and sends several per blob: the delivery's key is the blob's name and ETag, and
a second event finds its row. An accepted blob is deleted, for its content is in ``images``; a rejected one stays until
the container's lifecycle rule ends it, so that nothing a sender dropped is lost before somebody has looked.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import azure.functions as func
from psycopg.rows import class_row

from imaging_core import telemetry
from imaging_core.blobs import BlobMissing
from imaging_core.database import unit_of_work
from imaging_core.errors import Permanent, Rejected
from imaging_core.ledger import intake as ledger
from imaging_core.sites import Site
from ingestion_functions.image_upload import PatientFields, StudyFields, take_in_image
from ingestion_functions.intake import Source, refuse, take_in
from ingestion_functions.services import Services, services

__all__ = ["arrived"]

_CLIENT = "drop"
_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
log = telemetry.get_logger(__name__)


@dataclass(frozen=True)
class _Announced:
    """What ``POST /api/uploads`` said of a blob."""

    upload_id: uuid.UUID
    client: str
    site: str
    fields: dict[str, dict[str, str] | None]


def arrived(blob: func.InputStream) -> None:
    """Take in one dropped blob, once."""
    name = (blob.name or "").removeprefix("incoming/")
    parts = services()
    try:
        info = parts.blobs.info("incoming", name)
    except BlobMissing:
        return  # taken in already; the event is a repetition
    with telemetry.continue_trace(info.metadata.get("traceparent"), "drop", bytes=info.size):
        key = f"drop:{name}:{info.etag}"
        with unit_of_work(parts.pool) as connection:
            if ledger.delivery_by_key(connection, key):
                return
            announced = _announced(parts, name)
        source = _source(parts, key, announced)
        stored = _take_in(parts, blob, name, info.size, source, announced)
        if stored:
            parts.blobs.delete("incoming", name)


def _take_in(
    parts: Services, blob: func.InputStream, name: str, size: int, source: Source, announced: _Announced | None
) -> bool:
    limit = parts.settings.max_instance_bytes
    try:
        if size > limit:
            raise Rejected("instance-too-large", f"{size} bytes, MAX_INSTANCE_BYTES = {limit}")
        data = blob.read()
        if not data:
            raise Rejected("empty-body", "the blob is empty")
        if data.startswith(_PICTURES):
            fields = announced.fields.get("patient") if announced else None
            if announced is None or fields is None:
                raise Rejected("missing-field", "patient: a picture needs POST /api/uploads with patient fields")
            study = StudyFields.model_validate(announced.fields.get("study") or {})
            taken = take_in_image(parts, data, PatientFields.model_validate(fields), study, source)
        else:
            taken = take_in(parts, data, source)
    except Rejected as error:
        refuse(parts, error, source, size=size)
        return False
    return taken.stored or taken.delivery.outcome == "quarantined"


def _announced(parts: Services, name: str) -> _Announced | None:
    with unit_of_work(parts.pool) as connection, connection.cursor(row_factory=class_row(_Announced)) as cursor:
        cursor.execute(
            """
            SELECT u.upload_id, u.client, u.site, u.fields
            FROM ledger.upload_file f JOIN ledger.upload u USING (upload_id) WHERE f.blob = %s
            """,
            (name,),
        )
        return cursor.fetchone()


def _source(parts: Services, key: str, announced: _Announced | None) -> Source:
    if announced is not None:
        site = parts.sites.named(announced.site)
        return Source("drop", announced.client, site, delivery_key=key, upload_id=announced.upload_id)
    anonymous: Site | None = parts.sites.of_client(_CLIENT)
    if anonymous is None:
        raise Permanent("forbidden", "SITES lists no client `drop`: announce files by POST /api/uploads")
    return Source("drop", _CLIENT, anonymous, delivery_key=key)

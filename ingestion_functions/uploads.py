"""Direct drop: ``POST /api/uploads`` gives write-only addresses, ``GET /api/uploads/{id}`` the outcomes."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Annotated

import azure.functions as func
from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from imaging_core.database import unit_of_work
from imaging_core.errors import Permanent, Rejected
from imaging_core.ledger.intake import upload_progress
from ingestion_functions.auth import Caller
from ingestion_functions.http_api import json_answer
from ingestion_functions.image_upload import PatientFields, StudyFields
from ingestion_functions.intake import site_of
from ingestion_functions.services import Services

__all__ = ["open_upload", "upload_state"]

_MOST_FILES = 2000


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=255)]
    bytes: Annotated[int, Field(ge=0)]
    content_type: Annotated[str, Field(max_length=100)] = "application/octet-stream"


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")

    files: Annotated[list[_File], Field(min_length=1, max_length=_MOST_FILES)]
    patient: PatientFields | None = None
    study: StudyFields | None = None


def open_upload(parts: Services, caller: Caller, request: func.HttpRequest) -> func.HttpResponse:
    """Return one write-only SAS per file; names of blobs are random, patient fields stay in the ledger."""
    site = site_of(parts, caller)
    try:
        wanted = _Request.model_validate_json(request.get_body())
    except ValidationError as error:
        faults = error.errors(include_input=False, include_url=False)
        told = "; ".join(f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in faults)
        raise Rejected("bad-field", told) from error
    limit = parts.settings.max_drop_bytes
    for file in wanted.files:
        if file.bytes > limit:
            raise Rejected("body-too-large", f"a file of {file.bytes} bytes, MAX_DROP_BYTES = {limit}")
    life = timedelta(minutes=parts.settings.upload_url_minutes)
    expires = datetime.now(UTC) + life
    upload_id = uuid.uuid4()
    blobs = [f"{upload_id}/{uuid.uuid4()}" for _ in wanted.files]
    fields = {
        "patient": wanted.patient.model_dump(mode="json") if wanted.patient else None,
        "study": wanted.study.model_dump(mode="json") if wanted.study else None,
    }
    with unit_of_work(parts.pool) as connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO ledger.upload (upload_id, client, site, expires_at, fields) VALUES (%s, %s, %s, %s, %s)",
            (upload_id, caller.client, site.name, expires, Jsonb(fields)),
        )
        cursor.executemany(
            "INSERT INTO ledger.upload_file (blob, upload_id, name, bytes, content_type) VALUES (%s, %s, %s, %s, %s)",
            [
                (blob, upload_id, file.name.replace("\0", ""), file.bytes, file.content_type)
                for blob, file in zip(blobs, wanted.files, strict=True)
            ],
        )
    return json_answer(
        {
            "upload_id": upload_id,
            "files": [
                {
                    "name": file.name,
                    "url": parts.blobs.upload_url("incoming", blob, life),
                    "headers": {"x-ms-blob-type": "BlockBlob", "Content-Type": file.content_type},
                }
                for blob, file in zip(blobs, wanted.files, strict=True)
            ],
            "expires_at": expires.isoformat(),
        },
        201,
    )


def upload_state(parts: Services, caller: Caller, request: func.HttpRequest) -> func.HttpResponse:
    """Return each file's outcome; ``waiting`` until it has arrived and was taken in."""
    try:
        upload_id = uuid.UUID(request.route_params.get("upload_id", ""))
    except ValueError as error:
        raise Permanent("not-found", "the upload id is not a UUID") from error
    with unit_of_work(parts.pool) as connection:
        owner = connection.execute("SELECT client FROM ledger.upload WHERE upload_id = %s", (upload_id,)).fetchone()
        rows = upload_progress(connection, upload_id)
    if owner is None or owner[0] != caller.client:
        raise Permanent("not-found", "no such upload of this client")
    return json_answer(
        {
            "upload_id": upload_id,
            "files": [
                {
                    "name": row["name"],
                    "outcome": row["outcome"] or "waiting",
                    "reason": row["reason"],
                    "detail": row["detail"],
                    "intake_id": row["intake_id"],
                    "study_uid": row["study_uid"],
                    "sop_uid": row["sop_uid"],
                }
                for row in rows
            ],
        }
    )

"""Direct drop: ``POST /api/uploads`` gives write-only addresses, ``GET /api/uploads/{id}`` the outcomes."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import azure.functions as func
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from imaging_core.database import unit_of_work
from imaging_core.errors import Permanent, Rejected
from imaging_core.ledger import drop as ledger
from imaging_core.settings import Settings
from ingestion_functions.auth import Caller
from ingestion_functions.http_api import json_answer
from ingestion_functions.image_upload import PatientFields, StudyFields
from ingestion_functions.intake import site_of
from ingestion_functions.services import Services

__all__ = ["open_upload", "upload_state"]

_MOST_FILES = 2000
_SINGLE = frozenset({"application/dicom", "image/png", "image/jpeg"})
_OPEN = frozenset({"waiting"})
_LAST_BYTES = timedelta(minutes=10)  # a PUT that began in time may end after the address has
_MEMBERS = ("reason", "detail", "intake_id", "study_uid", "sop_uid")


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=255)]
    bytes: Annotated[int, Field(ge=0)]
    content_type: Annotated[str, Field(max_length=100)] = "application/octet-stream"


class UploadRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    files: Annotated[list[_File], Field(min_length=1, max_length=_MOST_FILES)]
    patient: PatientFields | None = None
    study: StudyFields | None = None


def open_upload(parts: Services, caller: Caller, request: func.HttpRequest) -> func.HttpResponse:
    """Return one write-only SAS per file; names of blobs are random, patient fields stay in the ledger."""
    site = site_of(parts, caller)
    try:
        wanted = UploadRequest.model_validate_json(request.get_body())
    except ValidationError as error:
        faults = error.errors(include_input=False, include_url=False)
        told = "; ".join(f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in faults)
        raise Rejected("bad-field", told) from error
    _check_sizes(wanted.files, parts.settings)
    life = timedelta(minutes=parts.settings.upload_url_minutes)
    expires = datetime.now(UTC) + life
    upload_id = uuid.uuid4()
    blobs = [f"{upload_id}/{uuid.uuid4()}" for _ in wanted.files]
    fields = {
        "patient": wanted.patient.model_dump(mode="json") if wanted.patient else None,
        "study": wanted.study.model_dump(mode="json") if wanted.study else None,
    }
    with unit_of_work(parts.pool) as connection:
        ledger.announce(
            connection,
            ledger.Announced(upload_id, caller.client, site.name, fields),
            expires,
            [(blob, file.name, file.bytes, file.content_type) for blob, file in zip(blobs, wanted.files, strict=True)],
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


def _check_sizes(files: Sequence[_File], settings: Settings) -> None:
    """Say before the bytes travel that they would be refused."""
    most, instance = settings.max_drop_bytes, settings.max_instance_bytes
    for file in files:
        if file.bytes > most:
            raise Rejected("body-too-large", f"a file of {file.bytes} bytes, MAX_DROP_BYTES = {most}")
        if file.content_type in _SINGLE and file.bytes > instance:
            raise Rejected("instance-too-large", f"a file of {file.bytes} bytes, MAX_INSTANCE_BYTES = {instance}")


def upload_state(parts: Services, caller: Caller, request: func.HttpRequest) -> func.HttpResponse:
    """Return each file's outcome: of a zip archive also each member's.

    A file is ``waiting`` until it was taken in, or ``expired`` once its address has ended and nothing has arrived.
    ``done`` says that no outcome is outstanding; the totals count deliveries: members, not the archive that held them.
    """
    try:
        upload_id = uuid.UUID(request.route_params.get("upload_id", ""))
    except ValueError as error:
        raise Permanent("not-found", "the upload id is not a UUID") from error
    with unit_of_work(parts.pool) as connection:
        found = ledger.upload(connection, upload_id)
    if found is None or found.client != caller.client:
        raise Permanent("not-found", "no such upload of this client")
    arrived = _arrived(parts, found)
    files = [_file_state(file, expired=arrived is not None and file.blob not in arrived) for file in found.files]
    single = [member for file in files for member in file.get("members", [file])]
    totals = Counter(str(file["outcome"]) for file in single)
    return json_answer(
        {
            "upload_id": upload_id,
            "expires_at": found.expires_at.isoformat(),
            "done": all(file["outcome"] not in _OPEN for file in (*files, *single)),
            "totals": dict(sorted(totals.items())),
            "files": files,
        }
    )


def _arrived(parts: Services, found: ledger.Upload) -> set[str] | None:
    """Return the blobs that are there, once no more can come; None while the addresses hold, or nothing is missing."""
    late = found.expires_at + _LAST_BYTES
    if datetime.now(UTC) < late or all(file.deliveries or file.archive for file in found.files):
        return None
    return {blob.name for blob in parts.blobs.list("incoming", f"{found.upload_id}/")}


def _file_state(file: ledger.UploadFile, *, expired: bool) -> dict[str, Any]:
    if file.archive is not None:
        return {"name": file.name, **_archive_state(file, file.archive)}
    if not file.deliveries:
        return {"name": file.name, **_delivery_state(None), "outcome": "expired" if expired else "waiting"}
    return {"name": file.name, **_delivery_state(file.deliveries[-1])}


def _archive_state(file: ledger.UploadFile, archive: ledger.Archive) -> dict[str, Any]:
    known = {delivery["delivery_key"]: delivery for delivery in file.deliveries}
    members = []
    for ordinal in range(archive.members):
        delivery = known.get(f"{archive.delivery_key}#{ordinal}")
        members.append({"name": archive.names.get(ordinal, f"#{ordinal}"), **_delivery_state(delivery)})
    return {
        **_delivery_state(None),
        "outcome": "unpacked" if archive.finished_at else "waiting",
        "members": members,
    }


def _delivery_state(delivery: Mapping[str, Any] | None) -> dict[str, Any]:
    if delivery is None:
        return {"outcome": "waiting", **dict.fromkeys(_MEMBERS)}
    state = {"outcome": delivery["outcome"], **{name: delivery[name] for name in _MEMBERS}}
    if state["reason"] and not state["detail"]:
        state["detail"] = Permanent(state["reason"]).detail
    return state

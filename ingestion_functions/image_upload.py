"""``POST /api/images``: one PNG or JPEG with patient and study fields becomes a Secondary Capture instance."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Annotated
from zoneinfo import ZoneInfo

import azure.functions as func
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from imaging_core.database import unit_of_work
from imaging_core.dicom.header import valid_uid
from imaging_core.dicom.secondary_capture import ImageFields, capture
from imaging_core.errors import Permanent, Rejected, Retryable
from imaging_core.ledger.intake import delivery_progress
from imaging_core.media_types import media_type
from imaging_core.sites import Site
from ingestion_functions.auth import Caller
from ingestion_functions.http_api import json_answer, problem
from ingestion_functions.intake import Source, TakenIn, refuse, site_of, take_in
from ingestion_functions.register import register
from ingestion_functions.services import Services

__all__ = ["PatientFields", "StudyFields", "parse_fields", "take_in_image", "upload"]

_LONG = 64  # LO, PS3.5 6.2
_SHORT = 16  # SH and CS
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}|\d{8}", re.ASCII)
_EARLIEST, _TOMORROW = date(1880, 1, 1), timedelta(days=1)
_CODE = re.compile(r"[A-Z0-9_ ]*")


def _plain_text(value: str) -> str:
    if "\\" in value or any(ord(character) < 32 for character in value):
        raise ValueError("holds a backslash or a control character")
    return value.strip()


def _name_part(value: str) -> str:
    if "^" in value or "=" in value:
        raise ValueError("holds ^ or =: send family and given apart")
    return _plain_text(value)


def _date(value: str) -> str:
    text = value.strip()
    if not _DATE.fullmatch(text):
        raise ValueError("is not YYYY-MM-DD")
    parsed = date.fromisoformat(text)
    if not _EARLIEST <= parsed <= datetime.now(UTC).date() + _TOMORROW:
        raise ValueError("is not a birth date of a person who lives")
    return parsed.strftime("%Y%m%d")


def _moment(value: datetime) -> datetime:
    now = datetime.now(value.tzinfo) if value.tzinfo is not None else datetime.now()  # as it was sent
    if value.date() < _EARLIEST or value > now + _TOMORROW:
        raise ValueError("is no moment at which a picture can have been taken")
    offset = value.utcoffset()
    if offset is not None and offset.total_seconds() % 60:
        raise ValueError("has an offset that is not whole minutes")
    return value


def _code(value: str) -> str:
    text = value.strip().upper()
    if not _CODE.fullmatch(text):
        raise ValueError("is not a DICOM code string (PS3.5 6.2, CS)")
    return text


def _uid_or_empty(value: str) -> str:
    if value and not valid_uid(value):
        raise ValueError("is not a DICOM UID")
    return value


def _as(kind: str, says: str) -> dict[str, JsonValue]:
    """Return what the OpenAPI document says of a text beyond its length: a format of this API's own."""
    return {"format": kind, "description": says}


_NAME = _as("name-part", "Without backslash, ^, = and control characters")
_TEXT = _as("plain-text", "Without backslash and control characters")
Name = Annotated[str, Field(min_length=1, max_length=_LONG, json_schema_extra=_NAME), AfterValidator(_name_part)]
Code = Annotated[
    str,
    Field(max_length=_SHORT, json_schema_extra=_as("dicom-code", "Letters, digits, blank, underscore (PS3.5 6.2, CS)")),
    AfterValidator(_code),
]


class PatientFields(BaseModel):
    """Who is on the picture: the number and two further items of identity."""

    model_config = ConfigDict(extra="ignore", str_strip_whitespace=True)

    patient_id: Annotated[
        str, Field(min_length=1, max_length=_LONG, json_schema_extra=_TEXT), AfterValidator(_plain_text)
    ]
    birth_date: Annotated[
        str,
        Field(min_length=8, max_length=10, json_schema_extra=_as("birth-date", "YYYY-MM-DD, from 1880 to today")),
        AfterValidator(_date),
    ]
    family: Name
    given: Annotated[str, Field(max_length=_LONG, json_schema_extra=_NAME), AfterValidator(_name_part)] = ""
    sex: Annotated[str, Field(pattern="^[MFO]?$")] = ""
    assigner: Annotated[str, Field(max_length=_LONG, json_schema_extra=_TEXT), AfterValidator(_plain_text)] = ""

    @model_validator(mode="after")
    def _name_fits(self) -> PatientFields:
        if len(f"{self.family}^{self.given}") > _LONG:
            raise ValueError(f"family and given together have more than {_LONG - 1} characters (PS3.5 6.2, PN)")
        return self


class StudyFields(BaseModel):
    """Of what study the picture is."""

    model_config = ConfigDict(extra="ignore", str_strip_whitespace=True)

    accession: Annotated[str, Field(max_length=_SHORT, json_schema_extra=_TEXT), AfterValidator(_plain_text)] = ""
    modality: Annotated[Code, Field(min_length=2)] = "DX"
    body_part: Code = ""
    view: Code = ""
    acquired_at: (
        Annotated[
            datetime,
            Field(json_schema_extra=_as("moment", "ISO 8601, with offset or in the site's zone; not in the future")),
            AfterValidator(_moment),
        ]
        | None
    ) = None
    study_uid: Annotated[str, Field(json_schema_extra=_as("dicom-uid", "PS3.5 9.1")), AfterValidator(_uid_or_empty)] = (
        ""
    )


def upload(parts: Services, caller: Caller, request: func.HttpRequest) -> func.HttpResponse:
    """Take in one picture; 201 with its identifiers and outcome.

    The patient is looked up at once, so that the sender learns of a hold now and not by asking later; where FHIR is
    away the study is registered from its queue like any other.
    """
    source = Source("image", caller.client, site_of(parts, caller))
    size = len(request.get_body())
    try:
        if size > parts.settings.max_request_bytes:
            raise Rejected("body-too-large", f"{size} bytes, MAX_REQUEST_BYTES = {parts.settings.max_request_bytes}")
        if size == 0:
            raise Rejected("empty-body", "send multipart/form-data with file and fields")
        if media_type(request.headers.get("Content-Type", ""))[0] != "multipart/form-data":
            raise Rejected("unsupported-media-type", "send multipart/form-data with file and fields")
        form, file = _form(request)
        patient, study = parse_fields(form)
        taken = take_in_image(parts, file, patient, study, source)
    except Rejected as error:
        delivery = refuse(parts, error, source, size=size)
        return problem(error, request, intake_id=str(delivery.intake_id))
    delivery = taken.delivery
    if not taken.stored:
        refusal = Rejected(delivery.reason or "internal", delivery.detail or "")
        return problem(refusal, request, intake_id=str(delivery.intake_id))
    register_now(parts, delivery.study_uid or "")
    with unit_of_work(parts.pool) as connection:
        row = delivery_progress(connection, delivery.intake_id) or {}
    body = {
        "intake_id": str(delivery.intake_id),
        "study_uid": delivery.study_uid,
        "sop_uid": delivery.sop_uid,
        "outcome": row.get("outcome", delivery.outcome),
    }
    if "acquired_at" not in form:
        body["warning"] = "without acquired_at the patient's age is unknown, and models for adults do not look at it"
    if row.get("reason"):
        body["reason"] = row["reason"]
        body["detail"] = Permanent(row["reason"]).detail
    return json_answer(body, 201)


def register_now(parts: Services, study_uid: str) -> None:
    """Try the register step at once; its queue message stands for the case that this does not come through."""
    try:
        register(parts, study_uid)
    except Retryable:
        return


def take_in_image(parts: Services, data: bytes, patient: PatientFields, study: StudyFields, source: Source) -> TakenIn:
    """Convert one picture and take it in.

    Raises
    ------
    Rejected
        The picture can't become an instance: see `imaging_core.dicom.secondary_capture.capture`.
    """
    fields = ImageFields(
        patient_id=patient.patient_id,
        birth_date=patient.birth_date,
        family=patient.family,
        given=patient.given,
        sex=patient.sex,
        issuer=patient.assigner,
        accession=study.accession,
        modality=study.modality,
        body_part=study.body_part,
        view=study.view,
        acquired_at=_with_zone(study.acquired_at, source.site),
        study_uid=study.study_uid,
        limit_pixels=parts.settings.max_image_pixels,
    )
    return take_in(parts, parts.decoder.run(capture, data, fields), source)


def _with_zone(when: datetime | None, site: Site) -> datetime | None:
    if when is None or when.tzinfo is not None or not site.time_zone:
        return when
    return when.replace(tzinfo=ZoneInfo(site.time_zone))


def _form(request: func.HttpRequest) -> tuple[dict[str, str], bytes]:
    try:
        files, form = request.files, request.form
    except ValueError as error:
        raise Rejected("bad-multipart", "the form can't be read") from error
    file = files.get("file")
    if file is None:
        raise Rejected("missing-field", "file: send the picture as form field `file`")
    return dict(form), bytes(file.read())


def parse_fields(form: dict[str, str]) -> tuple[PatientFields, StudyFields]:
    """Check patient and study fields.

    Raises
    ------
    Rejected
        ``missing-field`` or ``bad-field``, naming each field and never its value.
    """
    filled = {name: value for name, value in form.items() if value != ""}
    try:
        return PatientFields.model_validate(filled), StudyFields.model_validate(filled)
    except ValidationError as error:
        faults = error.errors(include_input=False, include_url=False)
        missing = [str(fault["loc"][0]) for fault in faults if fault["type"] == "missing"]
        if missing:
            raise Rejected("missing-field", ", ".join(missing)) from error
        told = "; ".join(": ".join((*(str(part) for part in fault["loc"]), fault["msg"])) for fault in faults)
        raise Rejected("bad-field", told) from error

"""What an admin sees and decides over HTTP (app role ``Images.Admin``): hold list and quarantine.

A decision names the state that the person saw (``revision``, or ``If-Match``): of two who decide at once one is told
412. Who decided is the person of the token; where the token is an application's own, the application; on the local
stack, whose one admin token is nobody's in particular, who the request names.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import azure.functions as func
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from imaging_core.database import unit_of_work
from imaging_core.dicom.header import valid_uid
from imaging_core.errors import Permanent, Rejected, Retryable
from imaging_core.ledger import holds as ledger
from imaging_core.ledger import quarantine as files
from imaging_core.ledger.intake import find_instance
from ingestion_functions import audit, hold_decisions, quarantine
from ingestion_functions.auth import Caller
from ingestion_functions.http_api import json_answer
from ingestion_functions.services import Services

__all__ = ["decide_quarantined", "list_holds", "list_quarantine", "resolve_hold", "show_hold", "show_quarantined"]

_MOST_DIFFERENCES = 200
B = TypeVar("B", bound=BaseModel)


class Resolution(BaseModel):
    model_config = ConfigDict(extra="forbid")

    action: Literal["link", "create", "reject"]
    patient: str = Field("", max_length=80, pattern=r"^((Patient/)?[A-Za-z0-9\-.]{1,64})?$")  # a FHIR id
    reason: str = Field("", max_length=1000)
    revision: int | None = None
    who: str = Field("", max_length=200)


class Decision(BaseModel):
    model_config = ConfigDict(extra="forbid")

    action: Literal["discard", "release"]
    reason: str = Field(min_length=1, max_length=1000)
    who: str = Field("", max_length=200)


def list_holds(parts: Services, caller: Caller, request: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/holds``: the hold list, the oldest first. No patient data is in it."""
    with unit_of_work(parts.pool) as connection:
        rows = ledger.held(connection)
    return json_answer({"holds": [_plain(row) for row in rows]})


def show_hold(parts: Services, caller: Caller, request: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/holds/{study}``: what the headers say, and which Patients carry the number; this look is audited."""
    study_uid = _study(request)
    with unit_of_work(parts.pool) as connection:
        row, headers = ledger.held_study(connection, study_uid)
        what = f"urn:oid:{study_uid}"
        audit.note(connection, "image-viewed", client=caller.client, what=what, patient=None, user=caller.user)
    try:
        found: list[dict[str, Any]] | None = hold_decisions.choices(parts.fhir, parts.sites, row["site"], headers)
    except Retryable:
        found = None  # the FHIR service is away; the rest can be seen all the same
    body = {**_plain(row), "images": len(headers), "says": hold_decisions.said(headers), "patients": found}
    answer = json_answer(body)
    answer.headers["ETag"] = f'"{row["revision"]}"'
    return answer


def resolve_hold(parts: Services, caller: Caller, request: func.HttpRequest) -> func.HttpResponse:
    """``POST /api/holds/{study}/resolution``: link, create or reject; the study flows on by itself."""
    study_uid = _study(request)
    wanted = _body(Resolution, request)
    hold_decisions.resolve(
        parts.pool,
        parts.queues,
        parts.fhir,
        study_uid,
        wanted.action,
        who=_who(parts, caller, wanted.who),
        client=caller.client,
        patient=wanted.patient,
        reason=wanted.reason,
        revision=wanted.revision if wanted.revision is not None else _if_match(request),
    )
    return json_answer({"study_uid": study_uid, "action": wanted.action})


def list_quarantine(parts: Services, caller: Caller, request: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/quarantine``: files that nobody has decided about, the oldest first."""
    with unit_of_work(parts.pool) as connection:
        rows = files.quarantined(connection)
    return json_answer({"quarantine": [{**_plain(row), "can": _can(row)} for row in rows]})


def show_quarantined(parts: Services, caller: Caller, request: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/quarantine/{intake_id}``: one file, and in what it differs from what is stored under its UID."""
    intake_id = _intake_id(request)
    with unit_of_work(parts.pool) as connection:
        row = files.quarantined_file(connection, intake_id)
        what = f"urn:uuid:{intake_id}"
        audit.note(connection, "image-viewed", client=caller.client, what=what, patient=None, user=caller.user)
    differs = _differences(parts, row) if row["reason"] == "conflicting-content" else None
    return json_answer({**_plain(row), "can": _can(row), "differs": differs})


def decide_quarantined(parts: Services, caller: Caller, request: func.HttpRequest) -> func.HttpResponse:
    """``POST /api/quarantine/{intake_id}/decision``: discard, or release for another try."""
    intake_id = _intake_id(request)
    wanted = _body(Decision, request)
    who = _who(parts, caller, wanted.who)
    quarantine.decide(parts, intake_id, wanted.action, who=who, reason=wanted.reason, client=caller.client)
    return json_answer({"intake_id": intake_id, "action": wanted.action})


def _can(row: Mapping[str, Any]) -> list[str]:
    if row["decision"]:
        return []
    return ["discard", "release"] if row["reason"] in files.RELEASABLE else ["discard"]


def _differences(parts: Services, row: Mapping[str, Any]) -> dict[str, Any] | None:
    """Compare a file with what is stored under its UID; None where it can't be read."""
    container, _, name = str(row["blob"]).partition("/")
    try:
        header = parts.decoder.header(parts.blobs.get(container, name))
    except Rejected:
        return None
    with unit_of_work(parts.pool) as connection:
        known = find_instance(connection, header.sop_uid)
        stored = connection.execute(
            "SELECT header FROM ledger.instance WHERE sop_uid = %s", (header.sop_uid,)
        ).fetchone()
    if known is None or stored is None:
        return None
    tags = sorted(stored[0].keys() | header.attributes.keys())
    attributes = {
        tag: {"stored": stored[0].get(tag), "file": header.attributes.get(tag)}
        for tag in tags
        if stored[0].get(tag) != header.attributes.get(tag)
    }
    return {
        "pixels": known.pixel_sha256 != header.pixel_sha256,
        "study": known.study_uid != header.study_uid,
        "attributes": dict(list(attributes.items())[:_MOST_DIFFERENCES]),
    }


def _study(request: func.HttpRequest) -> str:
    study_uid = str(request.route_params.get("study", ""))
    if not valid_uid(study_uid):
        raise Permanent("bad-uid", "the study in the address is not a UID")
    return study_uid


def _intake_id(request: func.HttpRequest) -> uuid.UUID:
    try:
        return uuid.UUID(request.route_params.get("intake_id", ""))
    except ValueError as error:
        raise Permanent("not-found", "the intake id is not a UUID") from error


def _body(kind: type[B], request: func.HttpRequest) -> B:
    try:
        return kind.model_validate_json(request.get_body())
    except ValidationError as error:
        faults = error.errors(include_input=False, include_url=False)
        told = "; ".join(f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in faults)
        raise Rejected("bad-field", told) from error


def _if_match(request: func.HttpRequest) -> int | None:
    tag = request.headers.get("If-Match", "").removeprefix("W/").strip('"')
    if not tag or tag == "*":
        return None
    if not tag.isdigit():
        raise Permanent("precondition-failed", "If-Match is not the tag of this hold")
    return int(tag)


def _who(parts: Services, caller: Caller, named: str) -> str:
    if parts.settings.ingest_auth == "developer" and named:
        return named
    return str(caller.user or caller.client)


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(dict(row), default=str))  # type: ignore[no-any-return]  # it was a dict

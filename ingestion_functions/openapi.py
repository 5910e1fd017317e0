"""``GET /api/openapi.json``: what this app's routes take and answer, as OpenAPI 3.1.

Bodies that a pydantic model checks are described by that model, and limits by the settings in force, so that the
document can't say anything else than the code does.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import azure.functions as func
from pydantic import BaseModel

from imaging_core import __version__, errors
from imaging_core.errors import ImagingError
from imaging_core.settings import Settings
from ingestion_functions import admin_api, uploads
from ingestion_functions.http_api import HEADERS, problem
from ingestion_functions.image_upload import PatientFields, StudyFields
from ingestion_functions.services import services

__all__ = ["document", "serve"]

Json = dict[str, Any]
_PROBLEM = "application/problem+json"
_REFERENCE = "#/components/schemas/{model}"
_OUTCOMES = ["accepted", "duplicate", "rejected", "quarantined", "held"]
_SAY = {
    400: "Nothing of the request can be read, or a field is missing or wrong",
    401: "No valid token",
    403: "The token lacks the role, or the client sends for no site",
    404: "There is nothing here for this client",
    406: "No offered answer format is accepted",
    409: "In conflict with what is stored",
    412: "Somebody else has decided meanwhile",
    413: "Larger than the limit that the detail names",
    415: "This media type or content encoding is not taken",
    422: "The picture or instance can't be decoded",
    429: "Too many requests without a valid token",
    500: "Unexpected failure; the trace id finds it in the logs",
    502: "The FHIR service refused",
    503: "A store is away; nothing was taken",
}
_RETRIED = (429, 503)


def serve() -> func.HttpResponse:
    """Answer with the document; it is open, for it says nothing of any installation but its limits."""
    try:
        text = _text()
    except ImagingError as error:
        return problem(error)
    return func.HttpResponse(text, mimetype="application/json", headers=dict(HEADERS))


@functools.cache
def _text() -> bytes:
    return json.dumps(document(services().settings)).encode()


def document(settings: Settings) -> Json:
    """Return the document.

    Parameters
    ----------
    settings : Settings
        Its limits and address appear in it.
    """
    schemas: Json = {}
    models: dict[str, type[BaseModel]] = {
        "Patient": PatientFields,
        "Study": StudyFields,
        "UploadRequest": uploads.UploadRequest,
        "Resolution": admin_api.Resolution,
        "Decision": admin_api.Decision,
    }
    for name, model in models.items():
        schemas |= _schema(name, model)
    schemas["File"]["properties"]["bytes"]["maximum"] = settings.max_drop_bytes
    schemas["Resolution"]["oneOf"] = _LINK_OR_NOT
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Imaging ingestion",
            "version": __version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "Takes in images: STOW-RS (PS3.18 10.5), pictures with patient fields, direct drop. "
            "Errors are problem documents (RFC 9457) with a code. " + _limits(settings),
        },
        "servers": [{"url": settings.ingest_url}],
        "security": [{"bearer": ["Images.Upload"]}],
        "tags": [{"name": name} for name in ("images", "drop", "progress", "admin", "operation")],
        "paths": {
            "/dicomweb/studies": {"post": _stow([])},
            "/dicomweb/studies/{study}": {"post": _stow([_study_parameter("Study that all instances must belong to")])},
            "/images": {"post": _images(schemas)},
            "/uploads": {"post": _open_upload()},
            "/uploads/{upload_id}": {"get": _upload_state()},
            "/intake/{intake_id}": {"get": _intake()},
            **_admin(),
            "/health": {"get": _probe("health", "The process answers", {200: "Health"})},
            "/ready": {"get": _probe("ready", "Whether each dependency answers", {200: "Readiness", 503: "Readiness"})},
            "/openapi.json": {"get": _probe("openapi", "This document", {200: "Document"})},
        },
        "components": {
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "Entra ID access token of the service's audience with app role Images.Upload "
                    "(Images.Admin for hold list and quarantine); on the local stack its developer token",
                }
            },
            "schemas": schemas | _answers(),
            "responses": {f"Problem{status}": _problem_response(status) for status in _SAY},
            "headers": {
                "RetryAfter": {"description": "Seconds to wait", "required": True, "schema": {"type": "integer"}},
            },
        },
    }


_LINK_OR_NOT = [
    {"properties": {"action": {"const": "link"}, "patient": {"minLength": 1}}, "required": ["action", "patient"]},
    {"properties": {"action": {"enum": ["create", "reject"]}, "patient": {"maxLength": 0}}},
]


def _limits(settings: Settings) -> str:
    names = ("max_request_bytes", "max_instance_bytes", "max_drop_bytes", "max_parts", "max_image_pixels")
    return "Limits: " + ", ".join(f"{name.upper()} = {getattr(settings, name)}" for name in names) + "."


def _schema(name: str, model: type[BaseModel]) -> Json:
    """Return a model's schema and those that it refers to, by their names here."""
    schema = model.model_json_schema(ref_template=_REFERENCE)
    inner = schema.pop("$defs", {})
    text = json.dumps({**inner, name: schema}).replace("schemas/_", "schemas/")
    found: Json = json.loads(text)
    return {inner_name.lstrip("_"): item for inner_name, item in found.items()}


def _operation(
    identifier: str, summary: str, tag: str, responses: Json, problems: tuple[int, ...], **more: Any
) -> Json:
    told = {str(status): {"$ref": f"#/components/responses/Problem{status}"} for status in problems}
    return {"operationId": identifier, "summary": summary, "tags": [tag], "responses": responses | told, **more}


def _content(schema: str, kind: str = "application/json") -> Json:
    return {kind: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _stow(parameters: list[Json]) -> Json:
    answer = {**_content("StoreInstancesResponse", "application/dicom+json"), "application/dicom+xml": {}}
    accept = {
        "name": "accept",
        "in": "query",
        "description": "For senders that can't set headers; goes before Accept (PS3.18 8.3.3.1)",
        "schema": {"type": "string", "format": "dicom-accept", "examples": ["application/dicom+xml"]},
    }
    followed = {"X-Intake-Id": {"description": "Of a single delivery", "schema": {"type": "string", "format": "uuid"}}}
    responses = {
        "200": {"description": "All instances are stored", "content": answer, "headers": followed},
        "202": {"description": "Some are stored, or some with a warning", "content": answer, "headers": followed},
        "409": {
            "description": "None is stored; the reasons are inside",
            "content": answer | _content("Problem", _PROBLEM),
        },
    }
    return _operation(
        f"stow{'_study' if parameters else ''}",
        "Store instances (STOW-RS)",
        "images",
        responses,
        (400, 401, 403, 406, 413, 415, 429, 500, 503),
        parameters=[*parameters, accept],
        requestBody={
            "required": True,
            "description": 'One Part 10 file, or several as multipart/related; type="application/dicom"; boundary=...',
            "content": {
                "multipart/related": {"schema": {"type": "string", "contentMediaType": "multipart/related"}},
                "application/dicom": {"schema": {"type": "string", "contentMediaType": "application/dicom"}},
            },
        },
    )


def _images(schemas: Json) -> Json:
    patient, study = schemas["Patient"], schemas["Study"]
    form = {
        "type": "object",
        "properties": {
            "file": {"type": "string", "contentMediaType": "application/octet-stream"},
            **patient["properties"],
            # a form has no null: what is not known is left out
            **{name: item.get("anyOf", [item])[0] for name, item in study["properties"].items()},
        },
        "required": ["file", *patient["required"]],
    }
    encoding = {"file": {"contentType": "image/png, image/jpeg"}}
    responses = {"201": {"description": "Taken in; the outcome may be `held`", "content": _content("ImageTaken")}}
    return _operation(
        "images",
        "Send a PNG or JPEG with the patient it shows",
        "images",
        responses,
        (400, 401, 403, 409, 413, 415, 422, 429, 500, 503),
        requestBody={"required": True, "content": {"multipart/form-data": {"schema": form, "encoding": encoding}}},
    )


def _open_upload() -> Json:
    responses = {"201": {"description": "One write-only address a file", "content": _content("Upload")}}
    body = {"required": True, "content": _content("UploadRequest")}
    return _operation(
        "uploads",
        "Announce files for direct drop",
        "drop",
        responses,
        (400, 401, 403, 413, 429, 500, 503),
        requestBody=body,
    )


def _upload_state() -> Json:
    responses = {"200": {"description": "Each file's outcome", "content": _content("UploadState")}}
    parameters = [_uuid_parameter("upload_id")]
    return _operation(
        "upload_progress", "What became of dropped files", "progress", responses, _READ, parameters=parameters
    )


def _intake() -> Json:
    responses = {"200": {"description": "The delivery", "content": _content("Delivery")}}
    parameters = [_uuid_parameter("intake_id")]
    return _operation(
        "intake_progress", "What became of a delivery", "progress", responses, _READ, parameters=parameters
    )


_LIST = (401, 403, 429, 500, 503)
_READ = (401, 403, 404, 429, 500, 503)


def _admin() -> Json:
    """Hold list and quarantine: app role Images.Admin."""
    study, intake = _study_parameter("Held study"), _uuid_parameter("intake_id")
    if_match = {"name": "If-Match", "in": "header", "schema": {"type": "string", "format": "hold-tag"}}
    routes: list[tuple[str, str, str, str, str, tuple[int, ...], Json]] = [
        ("/holds", "get", "holds", "Studies that wait for a person", "Holds", _LIST, {}),
        ("/holds/{study}", "get", "hold", "What a held study's headers say (audited)", "Hold", (400, *_READ),
         {"parameters": [study]}),
        ("/holds/{study}/resolution", "post", "hold_resolution", "Link, create or reject", "Resolved",
         (400, *_READ, 409, 412, 502), {"parameters": [study, if_match], "requestBody": _content("Resolution")}),
        ("/quarantine", "get", "quarantine", "Files that wait for a person", "Quarantine", _LIST, {}),
        ("/quarantine/{intake_id}", "get", "quarantined", "One file in quarantine (audited)", "Quarantined", _READ,
         {"parameters": [intake]}),
        ("/quarantine/{intake_id}/decision", "post", "quarantine_decision", "Discard or release", "Decided",
         (400, *_READ, 409, 412, 413, 415, 422), {"parameters": [intake], "requestBody": _content("Decision")}),
    ]  # fmt: skip
    paths: Json = {}
    for path, method, identifier, summary, schema, problems, more in routes:
        if "requestBody" in more:
            more["requestBody"] = {"required": True, "content": more["requestBody"]}
        responses = {"200": {"description": summary, "content": _content(schema)}}
        operation = _operation(identifier, summary, "admin", responses, problems, **more)
        paths[path] = {method: operation | {"security": [{"bearer": ["Images.Admin"]}]}}
    return paths


def _probe(identifier: str, summary: str, answers: dict[int, str]) -> Json:
    responses = {str(status): {"description": summary, "content": _content(name)} for status, name in answers.items()}
    return _operation(identifier, summary, "operation", responses, () if 503 in answers else (500,), security=[])


def _study_parameter(text: str) -> Json:
    schema = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)*$", "maxLength": 64}
    return {"name": "study", "in": "path", "required": True, "description": text, "schema": schema}


def _uuid_parameter(name: str) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}


def _problem_response(status: int) -> Json:
    answer: Json = {"description": _SAY[status], "content": _content("Problem", _PROBLEM)}
    if status in _RETRIED:
        answer["headers"] = {"Retry-After": {"$ref": "#/components/headers/RetryAfter"}}
    if status == 401:
        answer["headers"] = {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}}
    return answer


def _object(required: str, **properties: Json) -> Json:
    return {"type": "object", "required": required.split(), "properties": properties}


_TEXT: Json = {"type": "string"}
_MAYBE: Json = {"type": ["string", "null"]}
_UUID: Json = {"type": "string", "format": "uuid"}
_COUNT: Json = {"type": "integer", "minimum": 0}


def _list(item: Json) -> Json:
    return {"type": "array", "items": item}


def _answers() -> Json:
    element = {"type": "object", "required": ["vr"], "properties": {"vr": _TEXT, "Value": {"type": "array"}}}
    tags = ("00081190", "00081198", "00081199", "0008119A")
    outcome = {"type": "string", "enum": _OUTCOMES}
    any_object: Json = {"type": "object"}
    file_state = _object("name outcome", name=_TEXT, outcome=_TEXT, reason=_MAYBE, detail=_MAYBE, intake_id=_MAYBE,
                         study_uid=_MAYBE, sop_uid=_MAYBE)  # fmt: skip
    return {
        "Problem": _object(
            "type title status detail code trace_id", type=_TEXT, title=_TEXT, status=_COUNT, detail=_TEXT,
            code={"type": "string", "enum": sorted(errors.CODES)}, trace_id=_TEXT, intake_id=_UUID,
        ),
        "StoreInstancesResponse": {
            "type": "object",
            "description": "Store Instances Response Module (PS3.18 Annex I) in the DICOM JSON model",
            "required": ["00081190"],
            "properties": dict.fromkeys(tags, element),
        },
        "ImageTaken": _object("intake_id study_uid sop_uid outcome", intake_id=_UUID, study_uid=_TEXT, sop_uid=_TEXT,
                              outcome=outcome, warning=_TEXT, reason=_TEXT, detail=_TEXT),
        "Upload": _object(
            "upload_id files expires_at", upload_id=_UUID, expires_at={"type": "string", "format": "date-time"},
            files=_list(_object("name url headers", name=_TEXT, url=_TEXT, headers=any_object)),
        ),
        "UploadState": _object("upload_id files", upload_id=_UUID, files=_list(file_state)),
        "Delivery": _object(
            "intake_id outcome received_at trace_id study", intake_id=_UUID, outcome=outcome, reason=_MAYBE,
            detail=_MAYBE, sop_uid=_MAYBE, study_uid=_MAYBE, received_at={"type": "string", "format": "date-time"},
            trace_id=_TEXT, study={"type": ["object", "null"]},
        ),
        "Holds": _object("holds", holds=_list(any_object)),
        "Hold": _object("says images", says=any_object, images=_COUNT),
        "Resolved": _object("study_uid action", study_uid=_TEXT, action=_TEXT),
        "Quarantine": _object("quarantine", quarantine=_list(any_object)),
        "Quarantined": _object("can", can=_list(_TEXT)),
        "Decided": _object("intake_id action", intake_id=_UUID, action=_TEXT),
        "Health": _object("status version", status=_TEXT, version=_TEXT),
        "Readiness": _object("status", status=_TEXT, dependencies=any_object, settings=_TEXT),
        "Document": any_object,
    }  # fmt: skip

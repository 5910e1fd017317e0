"""``/api/results``: what the pages show, as JSON: of a launch's patient, or of a bearer token's; of nobody else."""

from __future__ import annotations

from datetime import date
from typing import Any

from flask import Blueprint, Response, abort, jsonify, request

from clinician_app.bearer_access import BearerCaller
from clinician_app.chart import FRESH_FOR_PAGES
from clinician_app.fhir_values import Moment
from clinician_app.launch_chart import LaunchChart, bearer_chart, open_chart
from clinician_app.refusals import launch_problem
from clinician_app.report import Finding, Report
from clinician_app.services import Services, current_services
from clinician_app.timeline import Entry
from imaging_core.errors import Permanent, Rejected
from smart_launch import LaunchError, LaunchSession

__all__ = ["results_api"]

results_api = Blueprint("results", __name__)
results_api.register_error_handler(LaunchError, launch_problem)

_PAGE = 50


@results_api.get("/api/results")
def results() -> Response:
    """Return the results of a token's patient, or of the launch that ``?launch=`` names."""
    services = current_services()
    launch_id = request.args.get("launch", "")
    if not launch_id:
        if services.bearer is None:
            raise Permanent("unauthenticated", "no tokens are accepted here")
        caller = services.bearer.caller(request.headers.get("Authorization", "")).about(_asked())
        return _results(services, caller, bearer_chart(services, caller, FRESH_FOR_PAGES))
    return launch_results(launch_id)


@results_api.get("/l/<launch_id>/api/results")
def launch_results(launch_id: str) -> Response:
    """Return the results of this launch."""
    services = current_services()
    launch = services.smart.require(launch_id)
    return _results(services, launch, open_chart(services, launch, FRESH_FOR_PAGES))


@results_api.get("/api/openapi.json")
def openapi() -> Response:
    """Describe the API (OpenAPI 3.1)."""
    return jsonify(_DESCRIPTION)


def _results(services: Services, actor: LaunchSession | BearerCaller, opened: LaunchChart) -> Response:
    asked = _asked()
    if asked and asked not in (actor.patient, opened.subject):
        abort(404)
    first, last = _day("from"), _day("to")
    status, finding = request.args.get("status", ""), request.args.get("finding", "")
    page = _page()
    found = [
        (entry, report)
        for entry in opened.entries(services)
        for report in entry.reports
        if (not status or report.status == status)
        and (
            not finding
            or any(item.state == "present" and item.name.casefold() == finding.casefold() for item in report.findings)
        )
        and _within(entry.when, first, last)
    ]
    services.audit.record("patient-searched", actor, opened.subject)
    shown = found[(page - 1) * _PAGE : page * _PAGE]
    return jsonify(
        patient=opened.subject,
        read_at=opened.chart.read_at.isoformat(timespec="seconds"),
        stale=opened.chart.stale,
        missing=opened.chart.missing,
        total=len(found),
        page=page,
        results=[_result(entry, report) for entry, report in shown],
    )


def _asked() -> str:
    return request.args.get("patient", "").removeprefix("Patient/")


def _day(name: str) -> date | None:
    raw = request.args.get(name, "")
    try:
        return date.fromisoformat(raw) if raw else None
    except ValueError as error:
        raise Rejected("bad-field", f"{name}: a date, YYYY-MM-DD") from error


def _page() -> int:
    raw = request.args.get("page", "1")
    if not (raw.isascii() and raw.isdigit() and len(raw) <= 7 and 1 <= int(raw) <= 1_000_000):
        raise Rejected("bad-field", "page: a number from 1")
    return int(raw)


def _within(when: Moment | None, first: date | None, last: date | None) -> bool:
    if first is None and last is None:
        return True
    return when is not None and (first is None or when.date >= first) and (last is None or when.date <= last)


def _result(entry: Entry, report: Report) -> dict[str, Any]:
    return {
        "report": report.id,
        "study_uid": entry.study.uid if entry.study else None,
        "modality": list(entry.study.modalities) if entry.study else [],
        "description": (entry.study.description if entry.study else "") or report.title,
        "when": _written(entry.when),
        "issued": _written(report.issued),
        "status": report.status,
        "automated": report.automated,
        "reviewed": report.reviewed,
        "conclusion": report.conclusion,
        "findings": [_finding(item) for item in report.findings],
    }


def _finding(item: Finding) -> dict[str, Any]:
    return {
        "name": item.name,
        "state": item.state,
        "value": item.value or None,
        "probability": item.probability,
        "threshold": item.threshold,
        "reason": item.absent_reason or None,
    }


def _written(when: Moment | None) -> str | None:
    if when is None:
        return None
    if when.precision == "time":
        return when.value.isoformat(timespec="seconds")
    return when.value.strftime({"day": "%Y-%m-%d", "month": "%Y-%m", "year": "%Y"}[when.precision])


_QUERY = {
    "launch": (
        "The launch whose session cookie comes with the request; without it, a bearer token.",
        {"type": "string"},
        False,
    ),
    "patient": (
        "Only this patient; another than the token's or launch's is not found. A system's token has to name one.",
        {"type": "string"},
        False,
    ),
    "from": ("Examined on this day or later.", {"type": "string", "format": "date"}, False),
    "to": ("Examined on this day or earlier.", {"type": "string", "format": "date"}, False),
    "status": ("FHIR status of the report.", {"type": "string"}, False),
    "finding": ("Reports in which this finding is present.", {"type": "string"}, False),
    "page": ("Page of 50 results, from 1.", {"type": "integer", "minimum": 1, "maximum": 1_000_000}, False),
}
_NULLABLE = ["string", "null"]
_DESCRIPTION: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "Imaging results", "version": "1"},
    "paths": {
        "/api/results": {
            "get": {
                "operationId": "results",
                "summary": "The reports of the one patient that the token, or the launch, is for",
                "security": [{"token": []}, {"session": []}],
                "parameters": [
                    {"name": name, "in": "query", "description": words, "schema": schema, "required": required}
                    for name, (words, schema, required) in _QUERY.items()
                ],
                "responses": {
                    "200": {
                        "description": "Results, newest examination first",
                        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Results"}}},
                    },
                    **{
                        status: {"$ref": "#/components/responses/Problem"}
                        for status in ("400", "401", "403", "404", "409", "502", "503")
                    },
                    "default": {
                        "description": "A problem (RFC 9457)",
                        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
                    },
                },
            }
        }
    },
    "components": {
        "securitySchemes": {
            "token": {
                "type": "http",
                "scheme": "bearer",
                "description": (
                    "Access token of a registered EHR, for one patient or a system's, with DiagnosticReport.rs."
                ),
            },
            "session": {
                "type": "apiKey",
                "in": "cookie",
                "name": "__Host-launch-{launch}",
                "description": "Cookie of a running launch; its id goes into `launch`.",
            },
        },
        "responses": {
            "Problem": {
                "description": "A problem (RFC 9457)",
                "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
            }
        },
        "schemas": {
            "Results": {
                "type": "object",
                "required": ["patient", "read_at", "stale", "missing", "total", "page", "results"],
                "properties": {
                    "patient": {"type": "string"},
                    "read_at": {"type": "string", "format": "date-time"},
                    "stale": {"type": "boolean"},
                    "missing": {"type": "object", "additionalProperties": {"type": "string"}},
                    "total": {"type": "integer"},
                    "page": {"type": "integer"},
                    "results": {"type": "array", "items": {"$ref": "#/components/schemas/Result"}},
                },
            },
            "Result": {
                "type": "object",
                "required": ["report", "status", "automated", "reviewed", "findings"],
                "properties": {
                    "report": {"type": "string"},
                    "study_uid": {"type": _NULLABLE},
                    "modality": {"type": "array", "items": {"type": "string"}},
                    "description": {"type": "string"},
                    "when": {"type": _NULLABLE},
                    "issued": {"type": _NULLABLE},
                    "status": {"type": "string"},
                    "automated": {"type": "boolean"},
                    "reviewed": {"type": "boolean"},
                    "conclusion": {"type": "string"},
                    "findings": {"type": "array", "items": {"$ref": "#/components/schemas/Finding"}},
                },
            },
            "Finding": {
                "type": "object",
                "required": ["name", "state"],
                "properties": {
                    "name": {"type": "string"},
                    "state": {"enum": ["present", "absent", "indeterminate", "not-analysed", "other"]},
                    "value": {"type": _NULLABLE},
                    "probability": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
                    "threshold": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
                    "reason": {"type": _NULLABLE},
                },
            },
            "Problem": {
                "type": "object",
                "properties": {
                    "type": {"type": "string"},
                    "title": {"type": "string"},
                    "status": {"type": "integer"},
                    "detail": {"type": "string"},
                    "code": {"type": "string"},
                    "trace_id": {"type": "string"},
                },
            },
        },
    },
}

"""The analyse step: the AI container looks at a registered study and publishes; the ledger notes what it covered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import psycopg

from fhir_adapter.identity import IMAGING_STUDY, resource_id
from imaging_core import telemetry
from imaging_core.database import unit_of_work
from imaging_core.errors import ImagingError, Permanent, Retryable
from imaging_core.ledger import study as ledger
from imaging_core.ledger.study import StudyRow
from imaging_core.queues import ANALYSES, ARCHIVES, STUDIES
from ingestion_functions import audit, own_objects
from ingestion_functions.services import Services, ai_headers
from ingestion_functions.settling import analysis_waits
from ingestion_functions.steps import failed, hint

__all__ = ["analyse"]

_NO_MODEL = "no-model"
_ARCHIVE_AFTER_S = 10.0  # what else is on its way goes first
log = telemetry.get_logger(__name__)


def analyse(parts: Services, study_uid: str) -> None:
    """Close the difference between the study's version and the version that its analyses cover."""
    delay = 0.0
    with unit_of_work(parts.pool) as connection:
        row = ledger.claim(connection, study_uid)
        if row is None or row.failed or row.hold_reason or row.analysed_version >= row.version:
            return
        growth = ledger.arrivals(connection, study_uid)
        delay = analysis_waits(row, growth, parts.settings.settle_most_s)
        if not delay:
            try:
                with connection.transaction():
                    _analyse(parts, connection, row)
            except ImagingError as error:
                delay = failed(connection, row, error)
        elif growth.unregistered:
            return  # the next registration sends a hint
    if delay:
        hint(parts, ANALYSES, study_uid, delay_s=delay)
        return
    with unit_of_work(parts.pool) as connection:
        # what came in while the study was taken, and what was made of it, have no hint left
        more = ledger.unregistered_count(connection, study_uid) > 0
    if more:
        hint(parts, STUDIES, study_uid)
    if parts.settings.archive_syntax != "none":
        hint(parts, ARCHIVES, study_uid, delay_s=_ARCHIVE_AFTER_S)


def _analyse(parts: Services, connection: psycopg.Connection[Any], row: StudyRow) -> None:
    images = [item for item in ledger.instances(connection, row.study_uid) if item["registered"] and not item["own"]]
    answer = _ask(parts, row.study_uid, images)
    analyses = _analyses(answer)
    for item in answer.get("analyses") or [answer]:
        own_objects.add(parts, connection, row, item.get("artifacts") or {})
    ledger.mark_analysed(connection, row.study_uid, row.version, analyses)
    for analysis in analyses:
        what = analysis["report"] or f"ImagingStudy/{resource_id(row.study_uid, IMAGING_STUDY)}"
        audit.note(connection, "ai-run", client=analysis["model"] or "ai", what=what, patient=row.subject)


def _ask(parts: Services, study_uid: str, images: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    body = {
        "study_uid": study_uid,
        "instances": [{"sop_uid": item["sop_uid"], "blob": item["blob"]} for item in images],
        "publish": True,
    }
    try:
        response = parts.ai.post("/v1/analyses", json=body, headers=ai_headers(parts.settings))
    except httpx.HTTPError as error:
        raise Retryable("ai-unavailable", type(error).__name__) from error
    if response.status_code == 200:
        try:
            answer: dict[str, Any] = response.json()
        except ValueError as error:
            raise Retryable("ai-unavailable", "the answer is not JSON") from error
        return answer
    detail = f"{response.status_code} {_problem_code(response)}".strip()
    if response.status_code in (408, 409, 425, 429) or response.status_code >= 500:
        wait = response.headers.get("Retry-After", "")
        raise Retryable("ai-unavailable", detail, float(wait) if wait.isdigit() else 0.0)
    raise Permanent("ai-refused", detail)


def _problem_code(response: httpx.Response) -> str:
    try:
        return str(response.json().get("code", ""))
    except (ValueError, AttributeError):
        return ""


def _analyses(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the ledger's row of each model that looked at the study; one that says so where none is there for it."""
    rows = [_analysis(item) for item in answer.get("analyses") or [answer]]
    return [row for row in rows if row["state"] != "no_model"] or rows[:1]


def _analysis(answer: dict[str, Any]) -> dict[str, Any]:
    reasons = sorted({str(item["reason"]) for item in answer.get("not_analysed", [])})
    report = next((name for name in answer.get("resources", []) if name.startswith("DiagnosticReport/")), "")
    model = answer.get("model") or ""
    name = f"{model['name']}:{model['version']}" if isinstance(model, dict) else str(model)
    if answer.get("findings"):
        state = "analysed"
    elif not reasons or reasons == [_NO_MODEL]:
        state = "no_model"
    else:
        state = "not_analysed"
    return {
        "task": "" if state == "no_model" else str(answer.get("task") or name.partition(":")[0]),
        "state": state,
        "model": name,
        "report": report,
        "reason": ", ".join(reasons),
        "answer": answer,
    }

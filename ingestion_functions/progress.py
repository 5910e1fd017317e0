"""``GET /api/intake/{intake_id}``: a delivery's outcome, its reason, and how far its study has come."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import azure.functions as func

from imaging_core.database import unit_of_work
from imaging_core.errors import Permanent
from imaging_core.ledger.intake import delivery_progress
from ingestion_functions.auth import Caller
from ingestion_functions.http_api import json_answer
from ingestion_functions.services import Services

__all__ = ["delivery", "study_state"]


def delivery(parts: Services, caller: Caller, request: func.HttpRequest) -> func.HttpResponse:
    """Answer for one delivery of the caller's own."""
    try:
        intake_id = uuid.UUID(request.route_params.get("intake_id", ""))
    except ValueError as error:
        raise Permanent("not-found", "the intake id is not a UUID") from error
    with unit_of_work(parts.pool) as connection:
        row = delivery_progress(connection, intake_id)
    if row is None or row["client"] != caller.client:
        raise Permanent("not-found", "no such delivery of this client")
    return json_answer(
        {
            "intake_id": row["intake_id"],
            "outcome": row["outcome"],
            "reason": row["reason"],
            "detail": row["detail"] or (Permanent(row["reason"]).detail if row["reason"] else None),
            "sop_uid": row["sop_uid"],
            "study_uid": row["study_uid"],
            "received_at": row["received_at"].isoformat(),
            "trace_id": row["trace_id"],
            "study": study_state(row),
        }
    )


def study_state(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the study's state in one word, its patient and its reports; None where nothing was stored."""
    if row["outcome"] in ("rejected", "quarantined") or row["study_uid"] is None:
        return None
    analyses = row["analyses"] or []
    if row["outcome"] == "held":
        state = "held"
    elif row["failed_at"] is not None:
        state = "failed"
    elif not row["registered"]:
        state = "pending"
    elif row["analysed_version"] < row["version"] or not analyses:
        state = "registered"
    else:
        state = min(str(item["state"]) for item in analyses)
    return {"state": state, "subject": row["subject"], "analyses": analyses, "last_error": row["last_error"]}

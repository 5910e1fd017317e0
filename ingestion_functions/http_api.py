"""HTTP requests and answers of the Functions app: trace, token, typed errors as problem+json (RFC 9457)."""

from __future__ import annotations

import json
import math
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import azure.functions as func

from imaging_core import errors, telemetry
from imaging_core.errors import ImagingError, Permanent, Retryable
from imaging_core.settings import Settings
from ingestion_functions.auth import UPLOAD_ROLE, Caller, authenticate
from ingestion_functions.rate_limit import RateLimit
from ingestion_functions.services import Services, services

__all__ = ["HEADERS", "Handler", "answer", "json_answer", "language", "problem"]

Handler = Callable[[Services, Caller, func.HttpRequest], func.HttpResponse]
_RETRY_AFTER_S = 5
_MOST_LANGUAGES = 20
_MOST_CALLS = 12
_CHALLENGE = 'Bearer realm="imaging"'
log = telemetry.get_logger(__name__)


def json_answer(body: object, status: int = 200, content_type: str = "application/json") -> func.HttpResponse:
    """Return `body` as JSON."""
    return func.HttpResponse(
        json.dumps(body, default=str), status_code=status, mimetype=content_type, headers=dict(HEADERS)
    )


HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def language(accept_language: str) -> str:
    """Return ``fr`` where French is preferred to English (RFC 9110 12.5.4), else ``en``."""
    weights = {"en": 0.0, "fr": 0.0}
    for element in accept_language.split(",")[:_MOST_LANGUAGES]:
        tag, _, parameters = element.strip().partition(";")
        primary = tag.strip().lower().split("-")[0]
        try:
            weight = float(parameters.strip().removeprefix("q=") or 1) if parameters else 1.0
        except ValueError:
            continue
        if primary in weights:
            weights[primary] = max(weights[primary], weight)
    return "fr" if weights["fr"] > weights["en"] else "en"


def problem(error: ImagingError, request: func.HttpRequest | None = None, **more: object) -> func.HttpResponse:
    """Return a typed error as ``application/problem+json``.

    Parameters
    ----------
    request : HttpRequest or None
        Its ``Accept-Language`` decides the title's language.
    more : object
        Further members.
    """
    entry = errors.code(error.code)
    spoken = language(request.headers.get("Accept-Language", "") if request is not None else "")
    headers: dict[str, str] = {**HEADERS, "Content-Language": spoken, "Vary": "Accept-Language"}
    if isinstance(error, Retryable) or entry.status in (429, 503):
        headers["Retry-After"] = str(math.ceil(getattr(error, "retry_after", 0)) or _RETRY_AFTER_S)
    if entry.status == 401:
        sent = request is not None and request.headers.get("Authorization")
        headers["WWW-Authenticate"] = f'{_CHALLENGE}, error="invalid_token"' if sent else _CHALLENGE  # RFC 6750 3.1
    elif entry.code == "forbidden":
        headers["WWW-Authenticate"] = f'{_CHALLENGE}, error="insufficient_scope"'  # RFC 6750 3.1
    body: dict[str, Any] = {
        "type": f"urn:imaging:error:{error.code}",
        "title": entry.fr if spoken == "fr" else entry.en,
        "status": entry.status,
        "detail": error.detail,
        "code": error.code,
        "trace_id": telemetry.trace_id(),
        **more,
    }
    return func.HttpResponse(
        json.dumps(body, default=str), status_code=entry.status, mimetype="application/problem+json", headers=headers
    )


def answer(
    request: func.HttpRequest, handler: Handler, context: func.Context | None = None, *, role: str = UPLOAD_ROLE
) -> func.HttpResponse:
    """Run one handler: continue the caller's trace, check the token, turn what it raises into a problem.

    Parameters
    ----------
    context : func.Context or None
        The invocation, whose trace is the host's; the request's own ``traceparent`` goes before it.
    role : str
        App role that the caller needs.
    """
    name = getattr(handler, "__name__", "request")
    parent = request.headers.get("traceparent") or (context.trace_context.trace_parent if context else None)
    with telemetry.continue_trace(parent, f"http {name}"):
        try:
            parts = services()
            caller = _caller(request, parts.settings, role)
            return handler(parts, caller, request)
        except ImagingError as error:
            log.info("refused", step=name, code=error.code)
            return problem(error, request)
        except Exception as error:
            log.error("failed", step=name, error=type(error).__name__, where=_where(error))
            return problem(Permanent("internal", "see the logs under this trace id"), request)


def _where(error: Exception) -> list[str]:
    """Return the last calls of a failure; not its text, which may repeat what a file or a form holds (D43)."""
    calls = traceback.extract_tb(error.__traceback__)[-_MOST_CALLS:]
    return [f"{Path(call.filename).name}:{call.lineno} {call.name}" for call in calls]


def _caller(request: func.HttpRequest, settings: Settings, role: str) -> Caller:
    try:
        return authenticate(request.headers.get("Authorization", ""), settings, role)
    except Permanent:
        address = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
        _refused.count(address, settings.rate_limit_per_address)
        raise


_refused = RateLimit()

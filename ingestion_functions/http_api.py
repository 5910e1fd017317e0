"""HTTP requests and answers of the Functions app: trace, token, typed errors as problem+json (RFC 9457)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import azure.functions as func

from imaging_core import errors, telemetry
from imaging_core.errors import ImagingError, Permanent, Retryable
from imaging_core.settings import Settings
from ingestion_functions.auth import Caller, authenticate
from ingestion_functions.rate_limit import RateLimit
from ingestion_functions.services import Services, services

__all__ = ["Handler", "answer", "json_answer", "problem"]

Handler = Callable[[Services, Caller, func.HttpRequest], func.HttpResponse]
_RETRY_AFTER_S = 5
log = telemetry.get_logger(__name__)


def json_answer(body: object, status: int = 200, content_type: str = "application/json") -> func.HttpResponse:
    """Return `body` as JSON."""
    return func.HttpResponse(
        json.dumps(body, default=str), status_code=status, mimetype=content_type, headers=dict(_HEADERS)
    )


_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def problem(error: ImagingError, **more: object) -> func.HttpResponse:
    """Return a typed error as ``application/problem+json``; `more` are further members."""
    entry = errors.code(error.code)
    headers: dict[str, str] = dict(_HEADERS)
    if isinstance(error, Retryable) or entry.status in (429, 503):
        headers["Retry-After"] = str(int(getattr(error, "retry_after", 0)) or _RETRY_AFTER_S)
    if entry.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    body: dict[str, Any] = {
        "type": f"urn:imaging:error:{error.code}",
        "title": entry.en,
        "status": entry.status,
        "detail": error.detail,
        "code": error.code,
        "trace_id": telemetry.trace_id(),
        **more,
    }
    return func.HttpResponse(
        json.dumps(body, default=str), status_code=entry.status, mimetype="application/problem+json", headers=headers
    )


def answer(request: func.HttpRequest, handler: Handler, context: func.Context | None = None) -> func.HttpResponse:
    """Run one handler: continue the caller's trace, check the token, turn what it raises into a problem.

    Parameters
    ----------
    context : func.Context or None
        The invocation, whose trace is the host's; the request's own ``traceparent`` goes before it.
    """
    name = getattr(handler, "__name__", "request")
    parent = request.headers.get("traceparent") or (context.trace_context.trace_parent if context else None)
    with telemetry.continue_trace(parent, f"http {name}"):
        try:
            parts = services()
            caller = _caller(request, parts.settings)
            return handler(parts, caller, request)
        except ImagingError as error:
            log.info("refused", step=name, code=error.code)
            return problem(error)
        except Exception:
            log.exception("failed", step=name)
            return problem(Permanent("internal", "see the logs under this trace id"))


def _caller(request: func.HttpRequest, settings: Settings) -> Caller:
    try:
        return authenticate(request.headers.get("Authorization", ""), settings)
    except Permanent:
        address = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
        _refused.count(address, settings.rate_limit_per_address)
        raise


_refused = RateLimit()

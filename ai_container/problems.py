"""Errors as ``application/problem+json`` (RFC 9457), with the code that the ledger and the logs also have."""

from __future__ import annotations

import json
import math

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from imaging_core import telemetry
from imaging_core.errors import ImagingError, Retryable, code

__all__ = ["register_problems"]

_HTTP_CODES = {
    404: "not-found",
    405: "not-found",
    413: "body-too-large",
    415: "unsupported-media-type",
    400: "bad-field",
}
log = telemetry.get_logger(__name__)


def _problem(name: str, status: int, detail: str, retry_after: float = 0.0) -> Response:
    entry = code(name)
    french = request.accept_languages.best_match(["en", "fr"]) == "fr"
    body = {
        "type": f"urn:imaging:error:{name}",
        "title": entry.fr if french else entry.en,
        "status": status,
        "detail": detail,
        "code": name,
        "trace_id": telemetry.trace_id(),
    }
    response = Response(
        json.dumps(body, ensure_ascii=False), status, content_type="application/problem+json; charset=utf-8"
    )
    if status in (409, 429, 503):
        response.headers["Retry-After"] = str(math.ceil(retry_after) or 2)
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _imaging_error(error: ImagingError) -> Response:
    status = code(error.code).status
    level = log.warning if status < 500 or isinstance(error, Retryable) else log.error
    level("request-refused", code=error.code, status=status)
    return _problem(error.code, status, error.detail, getattr(error, "retry_after", 0.0))


def _http_error(error: HTTPException) -> Response:
    status = error.code or 500
    return _problem(_HTTP_CODES.get(status, "internal"), status, error.description or "")


def _unexpected(error: Exception) -> Response:
    """Answer 500 without telling what failed; the log has it under the trace id."""
    log.error("unexpected", exc_info=error)
    return _problem("internal", 500, "an unexpected failure; the trace id finds it in the logs")


def register_problems(app: Flask) -> None:
    """Make every error of the app a problem."""
    app.register_error_handler(ImagingError, _imaging_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected)

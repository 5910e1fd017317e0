"""One span and one log line for each request: the route's rule, never the path, which names studies and launches."""

from __future__ import annotations

import time
from contextlib import ExitStack

from flask import Flask, Response, g, request

from imaging_core.telemetry import continue_trace, get_logger, hashed_uid

__all__ = ["init_request_log"]

_log = get_logger("clinician_app")
_QUIET = {"alive", "ready", "static"}


def init_request_log(app: Flask) -> None:
    """Open a span before each request, close it after; log what was answered."""
    app.before_request(_begin)
    app.after_request(_answered)
    app.teardown_request(_end)


def _begin() -> None:
    rule = request.url_rule.rule if request.url_rule else "unknown"
    g.request_began = time.perf_counter()
    g.request_span = ExitStack()
    g.request_span.enter_context(continue_trace(request.headers.get("traceparent"), f"{request.method} {rule}"))


def _answered(response: Response) -> Response:
    endpoint = (request.endpoint or "unknown").split(".")[-1]
    if endpoint not in _QUIET:
        study = (request.view_args or {}).get("study_uid")
        _log.info(
            "request",
            method=request.method,
            route=request.url_rule.rule if request.url_rule else "unknown",
            status=response.status_code,
            ms=round((time.perf_counter() - g.get("request_began", time.perf_counter())) * 1000, 1),
            **({"study": hashed_uid(str(study))} if study else {}),
        )
    return response


def _end(_: BaseException | None) -> None:
    span: ExitStack | None = g.pop("request_span", None)
    if span is not None:
        span.close()

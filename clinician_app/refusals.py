"""Pages and problem documents for what can't be answered: a plain sentence, what to do, a reference for support."""

from __future__ import annotations

import traceback
from http import HTTPStatus

from flask import Flask, Response, jsonify, make_response, render_template, request, url_for
from werkzeug.exceptions import HTTPException, NotFound

from clinician_app.patient_match import NoMatch, SeveralMatches
from clinician_app.translation import current_language, gettext
from clinician_app.wording import no_right
from imaging_core.errors import ImagingError, Retryable, code
from imaging_core.telemetry import get_logger, trace_id
from smart_launch import LaunchError
from smart_launch.errors import fault

__all__ = ["ContextMismatch", "NotASigner", "init_refusals", "launch_problem"]

_log = get_logger("clinician_app")
_DATA = {
    "images.rendered",
    "images.pixels",
    "images.heatmap",
    "results.results",
    "results.launch_results",
    "results.openapi",
}


class ContextMismatch(Exception):
    """The EHR named an examination that is not the launched patient's (S54)."""


class NotASigner(Exception):
    """The launch's user may not sign; it was put on record.

    Parameters
    ----------
    why_not : str
        As of `clinician_app.signing_right.SigningRight`.
    """

    def __init__(self, why_not: str) -> None:
        super().__init__(why_not)
        self.why_not = why_not


def init_refusals(app: Flask) -> None:
    """Register the handlers."""
    app.register_error_handler(ImagingError, _imaging_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(NoMatch, _no_match)
    app.register_error_handler(SeveralMatches, _several_matches)
    app.register_error_handler(ContextMismatch, _context_mismatch)
    app.register_error_handler(NotASigner, _not_a_signer)
    app.register_error_handler(Exception, _unexpected)


def _imaging_error(error: ImagingError) -> Response:
    entry = code(error.code)
    _log.warning("refused", code=error.code, detail=error.detail)
    words = entry.fr if current_language() == "fr" else entry.en
    response = _answer(
        entry.status, error.code, words, gettext("Try again in a minute.") if entry.status == 503 else ""
    )
    if entry.status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer error="invalid_token"'
    if isinstance(error, Retryable):
        response.headers["Retry-After"] = str(max(1, int(error.retry_after) or 5))
    return response


def launch_problem(error: LaunchError) -> Response:
    """Return a problem document for a launch that is over, for what is asked for by programs and not by people."""
    entry = fault(error.code)
    _log.warning("refused", code=error.code, detail=error.detail)
    what, then = entry.fr if current_language() == "fr" else entry.en
    response = _problem(entry.status, error.code, what, then)
    if error.retry_after:
        response.headers["Retry-After"] = str(error.retry_after)
    return response


def _http_error(error: HTTPException) -> Response:
    if error.response is not None and error.code is None:
        return make_response(error.response)
    status = error.code or 500
    if status < 400:
        return make_response(error.get_response())
    if isinstance(error, NotFound):
        return _answer(
            404,
            "not-found",
            gettext("There is nothing here."),
            gettext(
                "It may have been withdrawn, or it belongs to another patient than the one this window was opened for."
            ),
        )
    return _answer(status, "request-refused", gettext("This request can't be answered."), HTTPStatus(status).phrase)


def _no_match(_: NoMatch) -> Response:
    return _answer(
        404,
        "patient-not-found",
        gettext("This patient is not known to the imaging service."),
        gettext(
            "No imaging record carries one of the patient's numbers. Nothing is shown, lest it be another patient's."
        ),
    )


def _several_matches(_: SeveralMatches) -> Response:
    return _answer(
        409,
        "patient-ambiguous",
        gettext("Several imaging records carry this patient's number."),
        gettext(
            "Which one is right can't be said, so nothing is shown. Ask the imaging department to merge the records."
        ),
    )


def _context_mismatch(_: ContextMismatch) -> Response:
    return _answer(
        409,
        "context-mismatch",
        gettext("The EHR named an examination that does not belong to this patient."),
        gettext("It is not shown. Close this window and launch again from the right chart."),
    )


def _not_a_signer(error: NotASigner) -> Response:
    return _answer(403, "not-a-signer", gettext("You can't sign reports here."), no_right(error.why_not))


def _unexpected(error: Exception) -> Response:
    # the place, not the message: a database's or a parser's message may quote what a log must not hold
    frame = traceback.extract_tb(error.__traceback__)[-1]
    _log.error("unexpected", error=type(error).__name__, place=f"{frame.filename.rpartition('/')[2]}:{frame.lineno}")
    entry = code("internal")
    return _answer(500, "internal", entry.fr if current_language() == "fr" else entry.en, "")


def _answer(status: int, problem: str, heading: str, detail: str) -> Response:
    if request.endpoint in _DATA or (request.endpoint or "").split(".")[0].endswith("dicomweb"):
        return _problem(status, problem, heading, detail)
    reference = trace_id()
    launch_id = (request.view_args or {}).get("launch_id", "")
    inside = bool(launch_id) and (status not in (401, 403) or problem == "not-a-signer")
    back = url_for("pages.timeline_page", launch_id=launch_id) if inside else ""
    page = render_template("message.html", heading=heading, detail=detail, reference=reference, back_url=back)
    return make_response(page, status)


def _problem(status: int, problem: str, heading: str, detail: str) -> Response:
    response = jsonify(
        type="about:blank", title=heading, status=status, detail=detail or heading, code=problem, trace_id=trace_id()
    )
    response.mimetype = "application/problem+json"
    response.status_code = status
    return response

"""The few pages of the library itself: what went wrong, which EHR to use, and a form that sends itself."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

import structlog
from flask import Response, make_response, render_template, request
from opentelemetry import trace

from smart_launch.errors import LaunchError, fault
from smart_launch.registration import Registration

__all__ = ["authorize_form", "choose_ehr", "fault_page", "language"]

_log = structlog.get_logger("smart_launch")
_LANGUAGES = ("en", "fr")
_WORDS = {
    "en": {
        "reference": "Reference",
        "signed_out": "Signed out",
        "trouble": "The app can't be opened",
        "restart": "Open in a new window",
        "choose": "Choose your EHR",
        "choose_text": "Sign in through the electronic health record that you work with.",
        "sign_out_of_ehr": "Sign out of the EHR as well",
        "going": "Going on to your EHR …",
        "go": "Continue",
    },
    "fr": {
        "reference": "Référence",
        "signed_out": "Déconnecté",
        "trouble": "L'application ne peut s'ouvrir",
        "restart": "Ouvrir dans une nouvelle fenêtre",
        "choose": "Choisissez votre dossier médical",
        "choose_text": "Connectez-vous par le dossier médical informatisé avec lequel vous travaillez.",
        "sign_out_of_ehr": "Se déconnecter aussi du dossier médical",
        "going": "Passage à votre dossier médical …",
        "go": "Continuer",
    },
}


def language() -> str:
    """Return the language of the page, `en` or `fr`, as the browser prefers."""
    for tag, _ in request.accept_languages:  # by quality; `fr-CA` asks for French
        primary = tag.partition("-")[0].lower()
        if primary in _LANGUAGES:
            return primary
    return _LANGUAGES[0]


def reference() -> str:
    """Return a number that finds this request in the logs: the beginning of its trace id, if it is traced."""
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}"[:12] if context.is_valid else secrets.token_hex(6)


def fault_page(error: LaunchError, *, restart_ticket: str | None = None, further: str | None = None) -> Response:
    """Return the page for a fault, and log it under the page's reference number.

    Parameters
    ----------
    error : LaunchError
        What happened. Its detail goes into the log only.
    restart_ticket : str, optional
        Ticket with which the user may begin again in a new window.
    further : str, optional
        Address at which the user may sign out of the EHR as well.
    """
    entry = fault(error.code)
    number = reference()
    level = _log.info if entry.status < 400 else _log.warning
    level("smart.fault", fault=entry.code, detail=error.detail, reference=number, status=entry.status)
    if _wants_json():
        problem = {"type": "about:blank", "title": entry.en[0], "status": entry.status, "detail": entry.en[1]}
        response = make_response({**problem, "code": entry.code, "trace_id": number})
        response.mimetype = "application/problem+json"
    else:
        what, then = entry.fr if language() == "fr" else entry.en
        response = _render(
            "fault.html", what=what, then=then, number=number, code=entry.code, ticket=restart_ticket, further=further
        )
    response.status_code = entry.status
    if error.retry_after:
        response.headers["Retry-After"] = str(error.retry_after)
    return response


def _wants_json() -> bool:
    accepted = request.accept_mimetypes
    return accepted.accept_json and not accepted.accept_html and bool(accepted)


def choose_ehr(registrations: Sequence[Registration]) -> Response:
    """Return the page on which a user chooses an EHR."""
    return _render("choose.html", registrations=registrations)


def authorize_form(action: str, fields: Mapping[str, str]) -> Response:
    """Return a page that posts an authorization request by itself, or at a press of its button."""
    return _render("authorize.html", action=action, fields=fields)


def _render(template: str, **values: object) -> Response:
    chosen = language()
    page = render_template(f"smart_launch/{template}", words=_WORDS[chosen], lang=chosen, **values)
    response = make_response(page)
    response.headers["Content-Language"] = chosen
    response.vary.add("Accept-Language")
    return response

"""What a token that somebody has shown is good for (RFC 7662; SMART 2.2 "Token Introspection")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import requests

from smart_launch.client_auth import ClientAuth
from smart_launch.errors import LaunchError
from smart_launch.guarded_http import AddressRefused, GuardedSession, strict_json
from smart_launch.scopes import ScopeSet

__all__ = ["Introspection", "ask", "cannot_be_asked_about", "read_introspection"]


@dataclass(frozen=True)
class Introspection:
    """An answer of an introspection endpoint; everything but `active` is empty where the token is not active.

    Parameters
    ----------
    active : bool
        Whether the token may be relied on now.
    scopes : ScopeSet
        What it allows.
    client_id : str
        Whose it is.
    expires_at : float or None
        Seconds since 1970; None where the server does not say.
    patient, issuer, subject, fhir_user : str
        Context and user, where the server says so.
    audiences : tuple of str
        Whom it is for; empty where the server does not say.
    """

    active: bool
    scopes: ScopeSet
    client_id: str = ""
    expires_at: float | None = None
    patient: str = ""
    issuer: str = ""
    subject: str = ""
    fhir_user: str = ""
    audiences: tuple[str, ...] = ()


def ask(http: GuardedSession, endpoint: str, token: str, proof: ClientAuth) -> tuple[int, bytes]:
    """Post a token to an introspection endpoint, with what proves that the app may ask; return status and body.

    Raises
    ------
    LaunchError
        `ehr-unreachable`, `ehr-misconfigured`.
    """
    headers = {"Accept": "application/json", **proof.headers}
    try:
        response = http.post(endpoint, data={"token": token, **proof.form}, headers=headers)
    except AddressRefused as error:
        raise LaunchError("ehr-misconfigured", str(error)) from error
    except requests.RequestException as error:
        raise LaunchError("ehr-unreachable", f"{type(error).__name__} at introspection") from error
    return response.status_code, response.content


def cannot_be_asked_about(body: bytes) -> bool:
    """Whether the server says that it does not introspect tokens of this kind, such as signed ones: it gave none so."""
    try:
        return strict_json(body).get("error") == "unsupported_token_type"
    except ValueError:
        return False


def read_introspection(status: int, body: bytes) -> Introspection:
    """Read an answer.

    Raises
    ------
    LaunchError
        `client-refused` where the app may not ask, `ehr-error` where the answer is none; never "active" by mistake.
    """
    if status == 400 and cannot_be_asked_about(body):
        return Introspection(False, ScopeSet.parse(""))
    if status in (401, 403):
        raise LaunchError("client-refused", f"introspection answered {status}")
    if status != 200:
        raise LaunchError("ehr-busy" if status in (429, 503) else "ehr-error", f"introspection answered {status}")
    try:
        document = strict_json(body)
    except ValueError as error:
        raise LaunchError("ehr-error", f"introspection: {error}") from error
    if document.get("active") is not True:
        return Introspection(False, ScopeSet.parse(""))
    expires_at, audience = document.get("exp"), document.get("aud", [])
    return Introspection(
        active=True,
        scopes=ScopeSet.parse(_text(document, "scope")),
        client_id=_text(document, "client_id"),
        expires_at=_moment(expires_at),
        patient=_text(document, "patient"),
        issuer=_text(document, "iss"),
        subject=_text(document, "sub"),
        fhir_user=_text(document, "fhirUser"),
        # what is there and is no text names nobody: '' is no service's name
        audiences=tuple(
            item if isinstance(item, str) else "" for item in (audience if isinstance(audience, list) else [audience])
        ),
    )


def _moment(value: object) -> float | None:
    """Return a time; one that is there and can't be read has passed."""
    if value is None:
        return None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


def _text(document: dict[str, Any], name: str) -> str:
    value = document.get(name)
    return value if isinstance(value, str) and value.isprintable() else ""

"""What a token that somebody has shown is good for (RFC 7662; SMART 2.2 "Token Introspection")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import requests

from smart_launch.errors import LaunchError
from smart_launch.guarded_http import AddressRefused, GuardedSession, strict_json
from smart_launch.scopes import ScopeSet

__all__ = ["Introspection", "ask", "read_introspection"]


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
    """

    active: bool
    scopes: ScopeSet
    client_id: str = ""
    expires_at: float | None = None
    patient: str = ""
    issuer: str = ""
    subject: str = ""
    fhir_user: str = ""


def ask(http: GuardedSession, endpoint: str, token: str, bearer: str) -> tuple[int, bytes]:
    """Post a token to an introspection endpoint; return status and body.

    Raises
    ------
    LaunchError
        `ehr-unreachable`, `ehr-misconfigured`.
    """
    headers = {"Accept": "application/json", "Authorization": f"Bearer {bearer}"}
    try:
        response = http.post(endpoint, data={"token": token}, headers=headers)
    except AddressRefused as error:
        raise LaunchError("ehr-misconfigured", str(error)) from error
    except requests.RequestException as error:
        raise LaunchError("ehr-unreachable", f"{type(error).__name__} at introspection") from error
    return response.status_code, response.content


def read_introspection(status: int, body: bytes) -> Introspection:
    """Read an answer.

    Raises
    ------
    LaunchError
        `client-refused` where the app may not ask, `ehr-error` where the answer is none; never "active" by mistake.
    """
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
    expires_at = document.get("exp")
    return Introspection(
        active=True,
        scopes=ScopeSet.parse(_text(document, "scope")),
        client_id=_text(document, "client_id"),
        expires_at=float(expires_at)
        if isinstance(expires_at, int | float) and not isinstance(expires_at, bool)
        else None,
        patient=_text(document, "patient"),
        issuer=_text(document, "iss"),
        subject=_text(document, "sub"),
        fhir_user=_text(document, "fhirUser"),
    )


def _text(document: dict[str, Any], name: str) -> str:
    value = document.get(name)
    return value if isinstance(value, str) and value.isprintable() else ""

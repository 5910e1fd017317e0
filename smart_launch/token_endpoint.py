"""Requests to the token and revocation endpoints, and what comes back (SMART 2.2 "Obtain access token", RFC 6749 5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import requests
import structlog

from smart_launch.client_auth import authenticate
from smart_launch.discovery import SmartConfiguration
from smart_launch.errors import LaunchError
from smart_launch.guarded_http import AddressRefused, GuardedSession, strict_json
from smart_launch.registration import Registration
from smart_launch.scopes import ScopeSet

__all__ = ["TokenResponse", "client_credentials", "exchange_code", "refresh", "revoke"]

_log = structlog.get_logger("smart_launch")
_ASSUMED_LIFE_S = 300
_LONGEST_LIFE_S = 24 * 3600
_MAX_TOKEN = 32 * 1024
_ERRORS = {
    "invalid_client": "client-refused",
    "unauthorized_client": "client-refused",
    "invalid_grant": "code-refused",
    "invalid_scope": "scope-refused",
    "access_denied": "access-denied",
    "temporarily_unavailable": "ehr-busy",
}


@dataclass(frozen=True)
class TokenResponse:
    """A successful answer of the token endpoint.

    Parameters
    ----------
    access_token : str
        Opaque.
    expires_in : int
        Seconds; a short life is assumed where the server does not say.
    scopes : ScopeSet
        What was granted; what was asked for, where the server does not say (RFC 6749 5.1).
    refresh_token, id_token : str or None
        Where there are any.
    document : mapping
        All members, for the launch context.
    """

    access_token: str = field(repr=False)
    expires_in: int
    scopes: ScopeSet
    refresh_token: str | None = field(default=None, repr=False)
    id_token: str | None = field(default=None, repr=False)
    document: Mapping[str, Any] = field(default_factory=dict, repr=False)


def exchange_code(
    registration: Registration,
    configuration: SmartConfiguration,
    http: GuardedSession,
    *,
    code: str,
    redirect_uri: str,
    verifier: str,
    asked: str,
) -> TokenResponse:
    """Exchange an authorization code (RFC 6749 4.1.3, RFC 7636 4.5).

    Raises
    ------
    LaunchError
        With a code that says what the EHR objected to.
    """
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": redirect_uri,
        "code_verifier": verifier,
    }
    return _parse(_post(registration, configuration, http, configuration.token_endpoint, form), asked)


def refresh(
    registration: Registration,
    configuration: SmartConfiguration,
    http: GuardedSession,
    *,
    refresh_token: str,
    granted: str,
) -> TokenResponse:
    """Refresh (RFC 6749 6). No `scope` is sent: that asks for what was granted, and is never refused as too much."""
    form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
    return _parse(_post(registration, configuration, http, configuration.token_endpoint, form), granted)


def client_credentials(
    registration: Registration, configuration: SmartConfiguration, http: GuardedSession, *, scope: str
) -> TokenResponse:
    """Get a token for the app itself (SMART 2.2 "Backend Services"); a refresh token in the answer is not kept."""
    form = {"grant_type": "client_credentials", "scope": scope}
    answer = _parse(_post(registration, configuration, http, configuration.token_endpoint, form), scope)
    return replace(answer, refresh_token=None, id_token=None)


def revoke(
    registration: Registration, configuration: SmartConfiguration, http: GuardedSession, *, token: str, hint: str
) -> bool:
    """Revoke a token where the EHR offers that (RFC 7009); say whether it was done. A failure never stops a logout."""
    if not configuration.revocation_endpoint:
        return False
    form = {"token": token, "token_type_hint": hint}
    try:
        response = _post(registration, configuration, http, configuration.revocation_endpoint, form)
    except LaunchError as error:
        _log.warning("smart.revocation.failed", ehr=registration.name, fault=error.code)
        return False
    return response.status_code == 200


def _post(
    registration: Registration,
    configuration: SmartConfiguration,
    http: GuardedSession,
    endpoint: str,
    form: Mapping[str, str],
) -> requests.Response:
    proof = authenticate(registration, configuration, endpoint)
    try:
        return http.post(endpoint, data={**form, **proof.form}, headers={"Accept": "application/json", **proof.headers})
    except AddressRefused as error:
        raise LaunchError("ehr-misconfigured", str(error)) from error
    except requests.RequestException as error:
        raise LaunchError("ehr-unreachable", f"{type(error).__name__} at the token endpoint") from error


def _parse(response: requests.Response, asked: str) -> TokenResponse:
    if response.status_code != 200:
        raise _refusal(response)
    try:
        document = strict_json(response.content)
    except ValueError as error:
        raise LaunchError("token-unusable", f"token response: {error}") from error
    if "no-store" not in response.headers.get("Cache-Control", "").lower():
        _log.warning("smart.conformance", rule="S49", detail="token response without Cache-Control: no-store")
    token_type = document.get("token_type")
    if not isinstance(token_type, str) or token_type.lower() != "bearer":
        raise LaunchError("token-unusable", "token_type is not Bearer")
    access_token = _token(document, "access_token")
    if access_token is None:
        raise LaunchError("token-unusable", "no access_token")
    scope = document.get("scope")
    granted = " ".join(scope.split()) if isinstance(scope, str) else asked
    if not granted.isprintable():
        raise LaunchError("token-unusable", "scope has control characters")
    return TokenResponse(
        access_token=access_token,
        expires_in=_life(document.get("expires_in")),
        scopes=ScopeSet.parse(granted),
        refresh_token=_token(document, "refresh_token"),
        id_token=_token(document, "id_token"),
        document=document,
    )


def _refusal(response: requests.Response) -> LaunchError:
    status = response.status_code
    try:
        error = str(strict_json(response.content).get("error", ""))
    except ValueError:
        error = ""
    if error in _ERRORS:
        return LaunchError(_ERRORS[error], f"token endpoint: {error}")
    if status in (429, 503):
        return LaunchError("ehr-busy", f"token endpoint answered {status}")
    if 300 <= status < 400:
        return LaunchError("ehr-misconfigured", f"token endpoint redirects ({status})")
    return LaunchError("ehr-error", f"token endpoint answered {status}")


def _token(document: Mapping[str, Any], name: str) -> str | None:
    """Return a token; what can't stand in a header field (RFC 6750 2.1) is none."""
    value = document.get(name)
    if isinstance(value, str) and 0 < len(value) <= _MAX_TOKEN and value.isascii() and value.isprintable():
        return None if " " in value else value
    return None


def _life(value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        return _ASSUMED_LIFE_S
    return int(min(value, _LONGEST_LIFE_S))

"""The request to an EHR's authorization endpoint (SMART 2.2 "Obtain authorization code")."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from urllib.parse import urlencode

from smart_launch import pkce
from smart_launch.discovery import SmartConfiguration
from smart_launch.registration import Registration
from smart_launch.scopes import to_v1

__all__ = ["LONGEST_GET", "OutgoingRequest", "new_request", "restart_ticket"]

#: Longest URL of a GET request, where the EHR takes POST as well; some old proxies stop at 2,048.
LONGEST_GET = 1900


@dataclass(frozen=True)
class OutgoingRequest:
    """A new authorization request and its secrets.

    Parameters
    ----------
    endpoint : str
        Authorization endpoint.
    parameters : dict of str to str
        Each exactly once.
    state, verifier, nonce, binding : str
        Fresh random values; the state holds no data.
    """

    endpoint: str
    parameters: Mapping[str, str] = field(repr=False)
    state: str = field(repr=False)
    verifier: str = field(repr=False)
    nonce: str = field(repr=False)
    binding: str = field(repr=False)

    @property
    def url(self) -> str:
        """URL of the request by GET; the endpoint's own query is kept."""
        joint = "&" if "?" in self.endpoint else "?"
        return f"{self.endpoint}{joint}{urlencode(self.parameters)}"


def new_request(
    registration: Registration, configuration: SmartConfiguration, redirect_uri: str, launch: str | None
) -> OutgoingRequest:
    """Return a new request.

    Parameters
    ----------
    registration, configuration
        The EHR.
    redirect_uri : str
        In the spelling of the registration at the EHR, for strings are compared.
    launch : str or None
        The EHR's launch value, sent back as it came; None in a standalone launch.
    """
    state, verifier, nonce = secrets.token_urlsafe(24), pkce.new_verifier(), secrets.token_urlsafe(24)
    scope = _scope(registration.scopes, configuration, standalone=launch is None)
    parameters = {
        "response_type": "code",
        "client_id": registration.client_id,
        "redirect_uri": redirect_uri,
        "scope": scope,
        "state": state,
        "aud": registration.audience,
        "code_challenge": pkce.challenge(verifier),
        "code_challenge_method": "S256",
    }
    if launch is not None:
        parameters["launch"] = launch
    if "openid" in scope.split():
        parameters["nonce"] = nonce
    return OutgoingRequest(
        configuration.authorization_endpoint, parameters, state, verifier, nonce, secrets.token_urlsafe(32)
    )


def _scope(configured: str, configuration: SmartConfiguration, *, standalone: bool) -> str:
    """Return the scopes to ask for: `launch` with an EHR launch only, `launch/patient` without one."""
    words = configured.split()
    if standalone:
        words = [word for word in words if word != "launch"]
        if "launch/patient" not in words and any(word.startswith("patient/") for word in words):
            words.insert(0, "launch/patient")
    else:
        words = [word for word in words if word not in ("launch/patient", "launch/encounter")]
        if "launch" not in words:
            words.insert(0, "launch")
    text = " ".join(words)
    return to_v1(text) if configuration.scopes_v1 else text


def restart_ticket(state: str) -> str:
    """Return the ticket to begin a launch again whose browser kept no cookie; it does not tell the state."""
    return sha256(b"restart:" + state.encode()).hexdigest()

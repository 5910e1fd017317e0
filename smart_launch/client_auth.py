"""How the app proves itself at the token endpoint.

`private_key_jwt` after SMART "client-confidential-asymmetric" (RFC 7523), the secret methods after RFC 6749 2.3.1.
"""

from __future__ import annotations

import base64
import secrets
import time
from dataclasses import dataclass, field
from urllib.parse import quote_plus

from joserfc import jwt

from smart_launch.discovery import SmartConfiguration
from smart_launch.errors import LaunchError, SmartConfigurationError
from smart_launch.registration import Registration
from smart_launch.signing_keys import choose_key

__all__ = ["ClientAuth", "authenticate", "choose_method", "client_assertion"]

_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_LIFE_S = 240  # SMART and Epic: at most 300
_BACKDATED_S = 10  # an EHR whose clock is a little slow must not see an assertion from the future


@dataclass(frozen=True)
class ClientAuth:
    """What to add to one request to authenticate the app.

    Parameters
    ----------
    headers : dict
        Header fields.
    form : dict
        Members of the form body.
    """

    headers: dict[str, str] = field(default_factory=dict, repr=False)
    form: dict[str, str] = field(default_factory=dict, repr=False)


def choose_method(registration: Registration, offered: tuple[str, ...]) -> str:
    """Return the method to use: an asymmetric one wherever both sides have it (SMART: SHOULD)."""
    if registration.signing_keys and (not offered or "private_key_jwt" in offered):
        return "private_key_jwt"
    return registration.client_auth


def authenticate(registration: Registration, configuration: SmartConfiguration, endpoint: str) -> ClientAuth:
    """Return what authenticates one request to an endpoint; made anew for each request.

    Parameters
    ----------
    registration, configuration
        The EHR, and what it says about itself.
    endpoint : str
        URL that the request is posted to.

    Raises
    ------
    LaunchError
        `client-refused`: the EHR takes none of the app's keys.
    """
    method = choose_method(registration, configuration.auth_methods)
    if method == "private_key_jwt":
        assertion = client_assertion(registration, configuration, endpoint)
        return ClientAuth(form={"client_assertion_type": _ASSERTION_TYPE, "client_assertion": assertion})
    if method == "client_secret_basic":
        # RFC 6749 2.3.1: both parts are form-encoded before they are joined.
        pair = f"{quote_plus(registration.client_id)}:{quote_plus(registration.client_secret)}"
        return ClientAuth(headers={"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"})
    if method == "client_secret_post":
        return ClientAuth(form={"client_id": registration.client_id, "client_secret": registration.client_secret})
    return ClientAuth(form={"client_id": registration.client_id})


def client_assertion(registration: Registration, configuration: SmartConfiguration, endpoint: str) -> str:
    """Return a fresh assertion for exactly one endpoint, with a `jti` of its own."""
    try:
        key, algorithm = choose_key(registration.signing_keys, configuration.auth_signing_algs)
    except SmartConfigurationError as error:
        raise LaunchError("client-refused", str(error)) from error
    now = int(time.time())
    claims = {
        "iss": registration.client_id,
        "sub": registration.client_id,
        "aud": endpoint,
        "iat": now - _BACKDATED_S,
        "exp": now - _BACKDATED_S + _LIFE_S,
        "jti": secrets.token_urlsafe(24),
    }
    header = {"alg": algorithm, "kid": str(key.kid), "typ": "JWT"}
    return jwt.encode(header, claims, key, algorithms=[algorithm])

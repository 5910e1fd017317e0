"""Who calls: an Entra ID bearer token with app role ``Images.Upload``, or the local stack's developer token."""

from __future__ import annotations

import functools
import hmac
from dataclasses import dataclass

import jwt

from imaging_core.errors import Permanent, Retryable
from imaging_core.settings import Settings

__all__ = ["UPLOAD_ROLE", "Caller", "authenticate"]

UPLOAD_ROLE = "Images.Upload"
_LEEWAY_S = 60


@dataclass(frozen=True)
class Caller:
    """An authenticated client: its application id, and its app roles."""

    client: str
    roles: frozenset[str]


def authenticate(authorization: str, settings: Settings) -> Caller:
    """Check an ``Authorization`` header.

    Raises
    ------
    Permanent
        ``unauthenticated`` where there is no valid token, ``forbidden`` where it lacks the role.
    Retryable
        The issuer's keys can't be had.
    """
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Permanent("unauthenticated", "send Authorization: Bearer with an access token")
    if settings.ingest_auth == "developer":
        if not hmac.compare_digest(token.strip().encode(), settings.ingest_token.get_secret_value().encode()):
            raise Permanent("unauthenticated", "the developer token is not the one of this stack")
        return Caller("developer", frozenset({UPLOAD_ROLE}))
    caller = _entra_caller(token.strip(), settings)
    if UPLOAD_ROLE not in caller.roles:
        raise Permanent("forbidden", f"the token lacks app role {UPLOAD_ROLE}")
    return caller


@functools.cache
def _keys(url: str) -> jwt.PyJWKClient:
    return jwt.PyJWKClient(url, cache_keys=True, lifespan=600, timeout=5)


def _entra_caller(token: str, settings: Settings) -> Caller:
    issuer = settings.entra_issuer or f"https://login.microsoftonline.com/{settings.entra_tenant_id}/v2.0"
    keys_url = f"{issuer.removesuffix('/v2.0')}/discovery/v2.0/keys"
    try:
        key = _keys(keys_url).get_signing_key_from_jwt(token)
        claims = jwt.decode(
            token,
            key,
            algorithms=["RS256"],
            audience=settings.ingest_audience,
            issuer=issuer,
            leeway=_LEEWAY_S,
            options={"require": ["exp", "iat", "iss", "aud"]},
        )
    except jwt.PyJWKClientConnectionError as error:
        raise Retryable("service-unavailable", "the token issuer's keys can't be had", 10) from error
    except jwt.PyJWTError as error:
        raise Permanent("unauthenticated", f"the access token is not valid ({type(error).__name__})") from error
    roles = claims.get("roles", [])
    return Caller(
        str(claims.get("azp") or claims.get("appid") or claims.get("sub", "")),
        frozenset(role for role in roles if isinstance(role, str)) if isinstance(roles, list) else frozenset(),
    )

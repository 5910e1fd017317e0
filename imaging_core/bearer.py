"""Who calls: an Entra ID bearer token with an app role, or the static token of the local stack.

There are no other keys: not in URLs, not in query strings.
"""

from __future__ import annotations

import functools
import hmac
from dataclasses import dataclass

import jwt

from imaging_core.errors import Permanent, Retryable
from imaging_core.settings import Settings

__all__ = ["Caller", "entra_caller", "static_caller", "token_of"]

_LEEWAY_S = 60
_KEYS_S = 600


@dataclass(frozen=True)
class Caller:
    """An authenticated client: its application id, its app roles, and the person behind it, if there is one."""

    client: str
    roles: frozenset[str]
    user: str = ""

    def require(self, role: str) -> Caller:
        """Return this caller.

        Raises
        ------
        Permanent
            ``forbidden`` where it lacks the role.
        """
        if role not in self.roles:
            raise Permanent("forbidden", f"the token lacks app role {role}")
        return self


def token_of(authorization: str) -> str:
    """Return the token of an ``Authorization`` header.

    Raises
    ------
    Permanent
        ``unauthenticated`` where there is none.
    """
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Permanent("unauthenticated", "send Authorization: Bearer with an access token")
    return token.strip()


def static_caller(token: str, expected: str, caller: Caller) -> Caller:
    """Return `caller` where the token is the static one; compared in constant time.

    Raises
    ------
    Permanent
        ``unauthenticated``.
    """
    if not expected or not hmac.compare_digest(token.encode(), expected.encode()):
        raise Permanent("unauthenticated", "the token is not the one of this service")
    return caller


@functools.cache
def _keys(url: str) -> jwt.PyJWKClient:
    return jwt.PyJWKClient(url, cache_keys=True, lifespan=_KEYS_S, timeout=5)


def entra_caller(token: str, audience: str, settings: Settings) -> Caller:
    """Check a token of the tenant: signature, issuer, audience, times (OpenID Connect Core 3.1.3.7, RFC 9068 4).

    Raises
    ------
    Permanent
        ``unauthenticated``.
    Retryable
        The issuer's keys can't be had.
    """
    issuer = settings.entra_issuer or f"https://login.microsoftonline.com/{settings.entra_tenant_id}/v2.0"
    keys_url = f"{issuer.removesuffix('/v2.0')}/discovery/v2.0/keys"
    try:
        key = _keys(keys_url).get_signing_key_from_jwt(token)
        claims = jwt.decode(
            token,
            key,
            algorithms=["RS256"],
            audience=audience,
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
        # a token that a person signed in for has scopes; an application's own has none
        str(claims.get("preferred_username") or claims.get("oid") or "") if claims.get("scp") else "",
    )

"""Who calls: the static token (AI_AUTH=bearer), or an Entra ID token with role ``Images.Analyse`` (AI_AUTH=entra)."""

from __future__ import annotations

import functools
import hmac

import jwt

from imaging_core.errors import Permanent, Retryable
from imaging_core.settings import Settings

__all__ = ["ANALYSE_ROLE", "authenticate"]

ANALYSE_ROLE = "Images.Analyse"
_LEEWAY_S = 60


def authenticate(authorization: str, settings: Settings) -> None:
    """Check an ``Authorization`` header.

    Raises
    ------
    Permanent
        ``unauthenticated`` without a valid token, ``forbidden`` where an Entra token lacks the role.
    Retryable
        The issuer's keys can't be had.
    """
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Permanent("unauthenticated", "send Authorization: Bearer with an access token")
    if settings.ai_auth == "bearer":
        expected = settings.ai_token.get_secret_value()
        if not expected or not hmac.compare_digest(token.strip().encode(), expected.encode()):
            raise Permanent("unauthenticated", "the bearer token is not the one of this service")
        return
    roles = _entra_claims(token.strip(), settings).get("roles")
    if not isinstance(roles, list) or ANALYSE_ROLE not in roles:
        raise Permanent("forbidden", f"the token lacks app role {ANALYSE_ROLE}")


@functools.cache
def _keys(url: str) -> jwt.PyJWKClient:
    return jwt.PyJWKClient(url, cache_keys=True, lifespan=600, timeout=5)


def _entra_claims(token: str, settings: Settings) -> dict[str, object]:
    issuer = settings.entra_issuer or f"https://login.microsoftonline.com/{settings.entra_tenant_id}/v2.0"
    try:
        key = _keys(f"{issuer.removesuffix('/v2.0')}/discovery/v2.0/keys").get_signing_key_from_jwt(token)
        claims: dict[str, object] = jwt.decode(
            token,
            key,
            algorithms=["RS256"],
            audience=settings.ai_audience,
            issuer=issuer,
            leeway=_LEEWAY_S,
            options={"require": ["exp", "iat", "iss", "aud"]},
        )
    except jwt.PyJWKClientConnectionError as error:
        raise Retryable("service-unavailable", "the token issuer's keys can't be had", 10) from error
    except jwt.PyJWTError as error:
        raise Permanent("unauthenticated", f"the access token is not valid ({type(error).__name__})") from error
    return claims

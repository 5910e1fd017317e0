"""Validation of an access token that somebody else shows to this app: a JWT of a registered EHR (RFC 9068, RFC 8725).

What an EHR's tokens look like is the EHR's affair; where they are signed JWTs with issuer, audience and times, they can
be verified here by its published keys. Others have to be asked about (`smart_launch.introspection`).
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from smart_launch.errors import LaunchError
from smart_launch.guarded_http import strict_json
from smart_launch.id_token import KeysFor, verified_claims
from smart_launch.scopes import ScopeSet

__all__ = ["AccessClaims", "claimed_issuer", "validate"]

_LEEWAY_S = 60
_LONGEST_LIFE_S = 24 * 3600
_MAX_BYTES = 16 * 1024


@dataclass(frozen=True)
class AccessClaims:
    """What a verified access token says; '' where it does not.

    Parameters
    ----------
    issuer : str
        Who gave it.
    subject, fhir_user, client_id : str
        For whom, and to which client.
    patient : str
        Id of the patient whose data it is for.
    scopes : ScopeSet
        What it allows.
    expires_at : float
        Seconds since 1970.
    """

    issuer: str
    subject: str
    fhir_user: str
    client_id: str
    patient: str
    scopes: ScopeSet
    expires_at: float


def claimed_issuer(token: str) -> str | None:
    """Return the issuer that a token claims, unverified: only to decide whose keys to verify it with; None: no JWT."""
    if len(token) > _MAX_BYTES or token.count(".") != 2:
        return None
    try:
        header, claims = (strict_json(_decoded(part)) for part in token.split(".")[:2])
    except ValueError:
        return None
    issuer = claims.get("iss") if header else None
    return issuer if isinstance(issuer, str) else ""


def validate(token: str, *, issuer: str, audiences: Iterable[str], keys_for: KeysFor) -> AccessClaims:
    """Verify an access token.

    Parameters
    ----------
    token : str
        Compact JWS.
    issuer : str
        The one issuer that is accepted, compared as a string.
    audiences : iterable of str
        Names of this resource server; the token must be for one of them.
    keys_for : callable
        Returns candidate keys of that issuer for a key id and an algorithm.

    Raises
    ------
    LaunchError
        `identity-unproven`, the detail naming the first check that failed; `ehr-unreachable` from `keys_for`.
    """
    claims = verified_claims(token, (), keys_for)
    if not issuer or claims.get("iss") != issuer:
        raise _unproven("iss")
    audience = claims.get("aud")
    named = {item for item in (audience if isinstance(audience, list) else [audience]) if isinstance(item, str)}
    if not named & set(audiences):
        raise _unproven("aud")
    if "nonce" in claims or "at_hash" in claims:  # an id_token says who somebody is, not what they may do
        raise _unproven("kind")
    expires_at = _times(claims)
    scope = claims.get("scope", claims.get("scp", ""))
    words = " ".join(item for item in scope if isinstance(item, str)) if isinstance(scope, list) else scope
    return AccessClaims(
        issuer,
        _text(claims, "sub"),
        _text(claims, "fhirUser"),
        _text(claims, "client_id") or _text(claims, "azp") or _text(claims, "appid"),
        _text(claims, "patient"),
        ScopeSet.parse(words if isinstance(words, str) else ""),
        expires_at,
    )


def _times(claims: dict[str, Any]) -> float:
    now = time.time()
    for name in ("exp", "iat", "nbf"):
        value = claims.get(name)
        if value is None and name == "nbf":
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e11:
            raise _unproven(name)
    if claims["exp"] <= now - _LEEWAY_S or claims["exp"] > now + _LONGEST_LIFE_S:
        raise _unproven("exp")
    if claims["iat"] > now + _LEEWAY_S:
        raise _unproven("iat")
    if claims.get("nbf", 0) > now + _LEEWAY_S:
        raise _unproven("nbf")
    return float(claims["exp"])


def _decoded(part: str) -> bytes:
    return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)


def _unproven(check: str) -> LaunchError:
    return LaunchError("identity-unproven", f"access token: {check}")


def _text(claims: dict[str, Any], name: str) -> str:
    value = claims.get(name)
    return value if isinstance(value, str) and value.isprintable() and len(value) <= 2048 else ""

"""Validation of an id_token (OpenID Connect Core 1.0, 3.1.3.7), as strict as the standard lets it be."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from joserfc import jws
from joserfc.errors import JoseError

from smart_launch.errors import LaunchError
from smart_launch.guarded_http import strict_json
from smart_launch.issuer_keys import VerifyingKey

__all__ = ["ALLOWED_ALGORITHMS", "Identity", "KeysFor", "validate", "verified_claims"]

#: Asymmetric signatures only: with a shared-key algorithm anyone who knows the public key could sign.
ALLOWED_ALGORITHMS = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512")
_LEEWAY_S = 60
_MAX_BYTES = 16 * 1024
_MAX_CANDIDATES = 8
_FOREIGN_KEYS = ("jku", "jwk", "x5u", "x5c", "crit")
_FHIR_USER = re.compile(r"(?:\S+/)?(Practitioner|PractitionerRole|Patient|RelatedPerson|Person)/([A-Za-z0-9\-.]{1,64})")

KeysFor = Callable[[str | None, str], list[VerifyingKey]]


@dataclass(frozen=True)
class Identity:
    """Who launched the app, as the EHR's identity provider states it.

    Parameters
    ----------
    issuer : str
        `iss`; together with `subject` it names the user for good.
    subject : str
        `sub`.
    fhir_user : str or None
        `Practitioner/123` and the like, relative, whatever server the claim named.
    """

    issuer: str
    subject: str
    fhir_user: str | None


def validate(
    token: str,
    *,
    issuer: str,
    client_id: str,
    nonce_matches: Callable[[str], bool],
    access_token: str,
    algorithms: tuple[str, ...],
    keys_for: KeysFor,
) -> Identity:
    """Verify an id_token and return the identity that it states.

    Parameters
    ----------
    token : str
        Compact JWS.
    issuer : str
        The one issuer that is accepted, compared as a string.
    client_id : str
        The app's id, which `aud` must hold.
    nonce_matches : callable
        Says whether a `nonce` is the one of this very request.
    access_token : str
        For `at_hash`, where there is one.
    algorithms : tuple of str
        What the EHR says it signs with; empty: it does not say.
    keys_for : callable
        Returns candidate keys for a key id and an algorithm.

    Raises
    ------
    LaunchError
        `identity-unproven`, the detail naming the first check that failed; `ehr-unreachable` from `keys_for`.
    """
    claims = verified_claims(token, algorithms, keys_for)
    if not issuer or claims.get("iss") != issuer:
        raise _unproven("iss")
    _check_audience(claims, client_id)
    _check_times(claims)
    nonce = claims.get("nonce")
    if not isinstance(nonce, str) or not nonce_matches(nonce):
        raise _unproven("nonce")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= 255 or not subject.isprintable():
        raise _unproven("sub")
    if "at_hash" in claims:
        _check_at_hash(claims["at_hash"], access_token, str(claims["#alg"]))
    return Identity(issuer, subject, _fhir_user(claims))


def _unproven(check: str) -> LaunchError:
    return LaunchError("identity-unproven", f"id_token: {check}")


def verified_claims(token: str, algorithms: tuple[str, ...], keys_for: KeysFor) -> dict[str, Any]:
    """Return the claims of a JWT whose signature is of one of the issuer's keys; nothing else is checked here.

    Raises
    ------
    LaunchError
        `identity-unproven`; `ehr-unreachable` from `keys_for`.
    """
    if len(token) > _MAX_BYTES or token.count(".") != 2:
        raise _unproven("form")
    header = _segment(token.split(".")[0], "header")
    if any(name in header for name in _FOREIGN_KEYS):
        raise _unproven("header brings its own key or a critical extension")
    algorithm = header.get("alg")
    allowed = [name for name in ALLOWED_ALGORITHMS if not algorithms or name in algorithms]
    if not isinstance(algorithm, str) or algorithm not in allowed:
        raise _unproven("alg")
    kid = header.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise _unproven("kid")
    candidates = keys_for(kid, algorithm)
    if not candidates or len(candidates) > _MAX_CANDIDATES:
        raise _unproven("no key of the issuer fits")
    if not any(_signed_by(token, key, algorithm) for key in candidates):
        raise _unproven("signature")
    claims = _segment(token.split(".")[1], "payload")
    claims["#alg"] = algorithm
    return claims


def _segment(encoded: str, part: str) -> dict[str, Any]:
    try:
        return strict_json(base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True))
    except ValueError as error:
        raise _unproven(part) from error


def _signed_by(token: str, key: VerifyingKey, algorithm: str) -> bool:
    registry = jws.JWSRegistry(algorithms=[algorithm], strict_check_header=False)
    try:
        jws.deserialize_compact(token, key, algorithms=[algorithm], registry=registry)
    except (JoseError, ValueError):
        return False
    return True


def _check_audience(claims: dict[str, Any], client_id: str) -> None:
    audience = claims.get("aud")
    listed = audience if isinstance(audience, list) else [audience]
    if client_id not in listed or not all(isinstance(item, str) for item in listed):
        raise _unproven("aud")
    azp = claims.get("azp")
    # 3.1.3.7, 3 to 5: a token for several parties must name this one as the party that it was issued to.
    if (len(listed) > 1 and azp is None) or (azp is not None and azp != client_id):
        raise _unproven("azp")


def _check_times(claims: dict[str, Any]) -> None:
    now = time.time()
    for name in ("exp", "iat"):
        value = claims.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e11:
            raise _unproven(name)
    if claims["exp"] <= now - _LEEWAY_S:
        raise _unproven("exp")
    if claims["iat"] > now + _LEEWAY_S:
        raise _unproven("iat")
    not_before = claims.get("nbf", 0)
    if isinstance(not_before, bool) or not isinstance(not_before, int | float) or not_before > now + _LEEWAY_S:
        raise _unproven("nbf")


def _check_at_hash(stated: object, access_token: str, algorithm: str) -> None:
    """Compare `at_hash` (3.1.3.6): the left half of the access token's hash, by the hash of the token's algorithm."""
    digest = hashlib.new(f"sha{algorithm[2:]}", access_token.encode()).digest()
    wanted = base64.urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=").decode()
    if not isinstance(stated, str) or not hmac.compare_digest(stated.encode(), wanted.encode()):
        raise _unproven("at_hash")


def _fhir_user(claims: dict[str, Any]) -> str | None:
    """Return `Type/id` of the user: the last two segments, for no token is ever sent to what the claim names."""
    value = claims.get("fhirUser", claims.get("profile"))
    if value is None:
        return None
    match = _FHIR_USER.fullmatch(value) if isinstance(value, str) and len(value) <= 2048 else None
    if match is None:
        if "fhirUser" in claims:
            raise _unproven("fhirUser")
        return None  # `profile` may be any web page; only old servers put the FHIR user there
    return f"{match[1]}/{match[2]}"

"""Public keys of the EHRs' identity providers (RFC 7517), fetched by `jwks_uri` and kept for a time."""

from __future__ import annotations

from typing import Any

import requests
import structlog
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from smart_launch.discovery import Cached
from smart_launch.errors import LaunchError
from smart_launch.guarded_http import GuardedSession, strict_json
from smart_launch.registration import Registration

__all__ = ["IssuerKeys", "VerifyingKey"]

VerifyingKey = RSAKey | ECKey

_log = structlog.get_logger("smart_launch")
_MAX_KEYS = 100
_RETRY_S = 30.0
_PRIVATE = {"d", "p", "q", "dp", "dq", "qi", "oth", "k"}
_FAMILY = {"RS": "RSA", "PS": "RSA", "ES": "EC"}
_CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}


class IssuerKeys:
    """Verifying keys by EHR, kept for ten minutes; an unknown key id asks again, at most twice a minute."""

    def __init__(self) -> None:
        self._cache: Cached[tuple[VerifyingKey, ...]] = Cached()

    def candidates(
        self, registration: Registration, jwks_uri: str, http: GuardedSession, kid: str | None, algorithm: str
    ) -> list[VerifyingKey]:
        """Return the keys that may have signed, in the order of the set.

        Parameters
        ----------
        registration : Registration
            The EHR; keys of another one are never looked at.
        jwks_uri : str
            Address of its key set.
        http : GuardedSession
            Session of that EHR.
        kid : str or None
            Key id of the token's header.
        algorithm : str
            Algorithm of the token's header, already found to be allowed.

        Raises
        ------
        LaunchError
            `ehr-unreachable` where the set can't be had.
        """
        found = _fitting(self.published(registration, jwks_uri, http), kid, algorithm)
        if not found:
            found = _fitting(self.published(registration, jwks_uri, http, not_older_than=_RETRY_S), kid, algorithm)
        return found

    def published(
        self, registration: Registration, jwks_uri: str, http: GuardedSession, not_older_than: float | None = None
    ) -> tuple[VerifyingKey, ...]:
        """Return the usable keys of an EHR's set.

        Raises
        ------
        LaunchError
            `ehr-unreachable`, `ehr-misconfigured`: the set can't be had.
        """
        return self._cache.get(
            f"{registration.name} {jwks_uri}", lambda: _fetch(jwks_uri, http), not_older_than=not_older_than
        )


def _fetch(jwks_uri: str, http: GuardedSession) -> tuple[VerifyingKey, ...]:
    for attempt in (1, 2):
        try:
            response = http.get(jwks_uri)
            if response.status_code >= 500 and attempt == 1:
                continue
            if response.status_code != 200:
                raise LaunchError("ehr-unreachable", f"jwks_uri answered {response.status_code}")
            document = strict_json(response.content)
        except requests.RequestException as error:
            raise LaunchError("ehr-unreachable", f"{type(error).__name__} at jwks_uri") from error
        except ValueError as error:
            raise LaunchError("ehr-misconfigured", f"jwks_uri: {error}") from error
        break
    members = document.get("keys")
    if not isinstance(members, list) or len(members) > _MAX_KEYS:
        raise LaunchError("ehr-misconfigured", "jwks_uri holds no usable key set")
    return tuple(key for member in members if (key := _key(member)) is not None)


def _key(member: Any) -> VerifyingKey | None:
    """Return a key of the set; None for one that is of another kind, private, or too weak."""
    if not isinstance(member, dict) or member.get("use", "sig") != "sig":
        return None
    if _PRIVATE & set(member):
        _log.warning("smart.jwks.private_key_published")
        return None
    try:
        if member.get("kty") == "RSA":
            # looked at before it is imported: 2,048 bits are 342 characters of base64url
            return RSAKey.import_key(member) if len(member["n"].rstrip("=")) >= 342 else None
        if member.get("kty") == "EC":
            return ECKey.import_key(member)
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    return None


def _fitting(keys: tuple[VerifyingKey, ...], kid: str | None, algorithm: str) -> list[VerifyingKey]:
    """Return the keys of the algorithm's own family, of the key id if there is one: no other key is ever tried."""
    return [
        key
        for key in keys
        if key.key_type == _FAMILY[algorithm[:2]]
        and key.get("alg") in (None, algorithm)
        and (not isinstance(key, ECKey) or key.curve_name == _CURVES.get(algorithm))
        and (kid is None or key.get("kid") == kid)
    ]

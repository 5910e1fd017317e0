"""The app's own keys for `private_key_jwt` (SMART client-confidential-asymmetric), and their public JWK Set."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from smart_launch.errors import SmartConfigurationError

__all__ = [
    "SigningKey",
    "add_key",
    "algorithm_of",
    "choose_key",
    "load_keys",
    "promote_key",
    "public_jwks",
    "retire_keys",
]

SigningKey = ECKey | RSAKey

#: Order of preference; SMART 2.2 asks servers to support both.
ALGORITHMS = ("ES384", "RS384")
_PEM = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.+?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL)
_PUBLIC_MEMBERS = {"EC": ("crv", "x", "y"), "RSA": ("n", "e")}


def load_keys(data: bytes) -> tuple[SigningKey, ...]:
    """Read one or several private keys: PEM blocks one after the other, a JWK, or a JWK Set.

    The first one signs; all are published, so that a new key can be known to the EHRs before it signs and an old one
    until the last assertion signed with it has been used.

    Raises
    ------
    SmartConfigurationError
        Not a private key for ES384 (P-384) or RS384 (2,048 bits or more).
    """
    try:
        keys = [_private(key) for key in _read(data)]
    except (JoseError, ValueError, TypeError, KeyError) as error:
        raise SmartConfigurationError(f"signing key can't be read: {type(error).__name__}") from error
    if not keys:
        raise SmartConfigurationError("no private key found: PEM (PKCS#8), JWK or JWK Set is read")
    return tuple(keys)


def _read(data: bytes) -> Iterable[SigningKey]:
    if data.lstrip().startswith(b"{"):
        document = json.loads(data)
        for member in document.get("keys", [document]):
            yield ECKey.import_key(member) if member["kty"] == "EC" else RSAKey.import_key(member)
        return
    for block in _PEM.findall(data):
        try:
            yield ECKey.import_key(block)
        except (JoseError, ValueError):
            yield RSAKey.import_key(block)


def _private(key: SigningKey) -> SigningKey:
    if not key.is_private:
        raise SmartConfigurationError("signing key is a public key; the private one is needed")
    algorithm_of(key)
    key.ensure_kid()
    return key


def algorithm_of(key: SigningKey) -> str:
    """Return the JWS algorithm that a key is for.

    Raises
    ------
    SmartConfigurationError
        Neither P-384 nor RSA of 2,048 bits or more.
    """
    if isinstance(key, ECKey) and key.curve_name == "P-384":
        return "ES384"
    if isinstance(key, RSAKey) and key.raw_value.key_size >= 2048:
        return "RS384"
    raise SmartConfigurationError("signing key must be EC P-384 (ES384) or RSA of 2,048 bits or more (RS384)")


def choose_key(keys: Sequence[SigningKey], supported: Sequence[str]) -> tuple[SigningKey, str]:
    """Pick the key to sign with, and its algorithm.

    Parameters
    ----------
    keys : sequence
        The registration's keys; within one algorithm the first one signs.
    supported : sequence of str
        `token_endpoint_auth_signing_alg_values_supported`; empty: not said.

    Raises
    ------
    SmartConfigurationError
        The server takes none of the keys' algorithms.
    """
    for algorithm in ALGORITHMS:
        if supported and algorithm not in supported:
            continue
        for key in keys:
            if algorithm_of(key) == algorithm:
                return key, algorithm
    raise SmartConfigurationError("the EHR accepts no algorithm that the app has a key for")


def public_jwks(keys: Iterable[SigningKey]) -> dict[str, list[dict[str, Any]]]:
    """Return the JWK Set to publish (RFC 7517 5): the members that make the public key, and nothing else."""
    published: dict[str, dict[str, Any]] = {}
    for key in keys:
        material = key.as_dict(private=False)
        kid = str(key.kid)
        published[kid] = {
            "kty": material["kty"],
            "kid": kid,
            "use": "sig",
            "key_ops": ["verify"],
            "alg": algorithm_of(key),
            **{name: material[name] for name in _PUBLIC_MEMBERS[str(material["kty"])]},
        }
    return {"keys": list(published.values())}


def add_key(data: bytes, *, sign_now: bool = False) -> bytes:
    """Return a key file with a fresh ES384 key more.

    Rotation takes three steps, so that no EHR meets a key that it does not know: the new key is added behind the old
    ones and so published; once every EHR's cache has let go of the old set (Epic keeps it up to 29 hours) it is moved
    to the front and signs; after five minutes more the old ones are retired.

    Parameters
    ----------
    data : bytes
        PEM blocks, as `load_keys` reads them; empty: a first key.
    sign_now : bool
        Put the new key in front, for a first key or one that replaces a key that has leaked.
    """
    if data.lstrip().startswith(b"{"):
        raise SmartConfigurationError("keys in a JWK Set are changed where they were made; only PEM files are rotated")
    fresh = ECKey.generate_key("P-384").as_pem(private=True).strip()
    kept = [block.strip() for block in _PEM.findall(data)]
    return b"\n".join([fresh, *kept] if sign_now else [*kept, fresh]) + b"\n"


def promote_key(data: bytes) -> bytes:
    """Return a key file in which the newest key, the last one, comes first and so signs."""
    blocks = [block.strip() for block in _PEM.findall(data)]
    return b"\n".join([*blocks[-1:], *blocks[:-1]]) + b"\n"


def retire_keys(data: bytes) -> bytes:
    """Return a key file with nothing but the key that signs."""
    return b"\n".join(block.strip() for block in _PEM.findall(data)[:1]) + b"\n"

"""Sealing of tokens at rest: AES-256-GCM under keys that have an id, so that they can be changed without a break."""

from __future__ import annotations

import base64
import binascii
import secrets
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from smart_launch.errors import SmartConfigurationError

__all__ = ["Keyring", "SealBroken"]

_KEY_BYTES = 32
_NONCE_BYTES = 12


class SealBroken(Exception):
    """A sealed value is damaged, belongs elsewhere, or its key is not on the ring any more."""


@dataclass(frozen=True)
class Keyring:
    """Keys by id; the first one seals, each of them opens.

    Parameters
    ----------
    keys : dict of str to bytes
        AES-256 keys by id, the current one first.
    """

    keys: dict[str, bytes] = field(repr=False)

    def __post_init__(self) -> None:
        if not self.keys:
            raise SmartConfigurationError("APP_KEYS names no key")
        for key_id, key in self.keys.items():
            if not key_id or len(key_id.encode()) > 255 or len(key) != _KEY_BYTES:
                raise SmartConfigurationError("APP_KEYS: each key is id:base64url of 32 bytes")

    @classmethod
    def parse(cls, text: str) -> Keyring:
        """Read ``id:base64url[,id:base64url...]``, the setting APP_KEYS.

        Raises
        ------
        SmartConfigurationError
            Malformed; the message repeats nothing of it.
        """
        keys: dict[str, bytes] = {}
        for part in filter(None, (item.strip() for item in text.split(","))):
            key_id, _, encoded = part.partition(":")
            try:
                key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
            except (binascii.Error, ValueError) as error:
                raise SmartConfigurationError("APP_KEYS: each key is id:base64url of 32 bytes") from error
            if key_id in keys:
                raise SmartConfigurationError("APP_KEYS: a key id occurs twice")
            keys[key_id] = key
        return cls(keys)

    @staticmethod
    def new_key(key_id: str) -> str:
        """Return a fresh key in the form of the setting APP_KEYS."""
        return f"{key_id}:{base64.urlsafe_b64encode(secrets.token_bytes(_KEY_BYTES)).rstrip(b'=').decode()}"

    @property
    def current(self) -> str:
        """Id of the key that seals."""
        return next(iter(self.keys))

    def seal(self, value: str, place: str) -> bytes:
        """Encrypt a value so that it opens only at `place` (such as a table's column and row)."""
        key_id = self.current.encode()
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = AESGCM(self.keys[self.current]).encrypt(nonce, value.encode(), _bound_to(place))
        return bytes([len(key_id)]) + key_id + nonce + sealed

    def unseal(self, sealed: bytes, place: str) -> str:
        """Decrypt what was sealed for `place`.

        Raises
        ------
        SealBroken
            Damaged, moved from another place, or sealed with a key that is gone.
        """
        length = sealed[0] if sealed else 0
        key = self.keys.get(sealed[1 : 1 + length].decode("utf-8", "replace"))
        body = sealed[1 + length :]
        if key is None or len(body) <= _NONCE_BYTES:
            raise SealBroken
        try:
            return AESGCM(key).decrypt(body[:_NONCE_BYTES], body[_NONCE_BYTES:], _bound_to(place)).decode()
        except (InvalidTag, UnicodeDecodeError) as error:
            raise SealBroken from error


def _bound_to(place: str) -> bytes:
    """Return the associated data that ties a sealed value to its place (NIST SP 800-38D)."""
    return place.encode()

"""Keyed, one-way names: the same key gives the same name in every file and on every day, another key an unrelated one.

UIDs become 2.25.<UUID> (PS3.5 B.2) of an HMAC-SHA-256 under the key: consistent within and across studies without a
table that somebody could steal, and without a state that a second process would lack. Whoever has the key can tell
whether a known UID belongs to a known pseudonym; so the key is as secret as the list would be.
"""

from __future__ import annotations

import hmac
import uuid
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from imaging_core.errors import Permanent

__all__ = ["Pseudonyms", "read_key"]

_LEAST_KEY = 16
_MOST_DAYS = 3650
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's: no letter that reads as a digit, few words


@dataclass(frozen=True)
class Pseudonyms:
    """Names under one key.

    Parameters
    ----------
    key : bytes
        16 bytes or more, kept by whoever may link the copies to their originals.
    """

    key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.key) < _LEAST_KEY:
            raise Permanent("bad-setting", f"a key of {_LEAST_KEY} bytes or more is needed")

    def _digest(self, purpose: str, *parts: str) -> bytes:
        return hmac.new(self.key, "\0".join((purpose, *parts)).encode(), sha256).digest()

    def uid(self, uid: str) -> str:
        """Return the UID that stands for another one."""
        return f"2.25.{uuid.UUID(bytes=self._digest('uid', uid)[:16], version=4).int}"

    def patient(self, patient_id: str, issuer: str) -> str:
        """Return a Patient ID that stands for a patient."""
        digest = int.from_bytes(self._digest("patient", issuer, patient_id)[:10], "big")
        return "".join(_ALPHABET[digest >> (5 * place) & 31] for place in range(16))

    def days(self, patient_id: str, issuer: str) -> int:
        """Return by how many days a patient's dates go back: 1 to 3,650, the same for all of the patient's files."""
        return 1 + int.from_bytes(self._digest("days", issuer, patient_id)[:8], "big") % _MOST_DAYS


def read_key(source: str) -> bytes:
    """Return the key of ``file:PATH``: the file's bytes without white space at the end.

    Raises
    ------
    Permanent
        ``bad-setting``.
    """
    kind, _, path = source.partition(":")
    if kind != "file" or not path:
        raise Permanent("bad-setting", "the key is given as file:PATH")
    try:
        key = Path(path).read_bytes().rstrip()
    except OSError as error:
        raise Permanent("bad-setting", f"the key can't be read: {error.strerror}") from error
    if len(key) < _LEAST_KEY:
        raise Permanent("bad-setting", f"the key's file has to hold {_LEAST_KEY} bytes or more")
    return key

"""What a DICOMweb client accepts (PS3.18 8.7), and answers of several parts."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from imaging_core.errors import Permanent
from imaging_core.media_types import accepted_ranges

__all__ = ["Accepted", "accepted", "choose", "multipart"]

_MOST = 30


@dataclass(frozen=True)
class Accepted:
    """One media range: the type of the parts where it is multipart, and the transfer syntax wanted.

    Parameters
    ----------
    media_type : str
        ``application/dicom``, ``image/*`` ...
    multipart : bool
        Wrapped into multipart/related.
    transfer_syntax : str
        UID, ``*`` for any, '' where none is named.
    quality : float
        0 to 1.
    """

    media_type: str
    multipart: bool
    transfer_syntax: str = ""
    quality: float = 1.0

    def covers(self, media_type: str) -> bool:
        """Whether this range holds a media type."""
        kind, _, sub = self.media_type.partition("/")
        return self.media_type in ("*/*", media_type) or (sub == "*" and media_type.startswith(f"{kind}/"))


def accepted(header: str) -> list[Accepted]:
    """Parse an ``Accept`` header, best first; an absent one accepts anything.

    Raises
    ------
    Permanent
        ``not-acceptable``: it is too long to be meant.
    """
    if len(header) > 4_000:
        raise Permanent("not-acceptable", "the Accept header is too long")
    found = []
    for item in accepted_ranges(header)[:_MOST]:
        if item.weight > 0 and "/" in item.kind:
            wrapped = item.kind == "multipart/related"
            inner = item.parameters.get("type", "*/*").lower() if wrapped else item.kind
            found.append(Accepted(inner, wrapped, item.parameters.get("transfer-syntax", ""), item.weight))
    return sorted(found, key=lambda item: -item.quality) or [Accepted("*/*", False)]


def choose(header: str, offered: Iterable[str], *, multipart_only: bool = False) -> Accepted:
    """Return the first range that covers one of the offered types, with that type in it.

    Raises
    ------
    Permanent
        ``not-acceptable``.
    """
    types = list(offered)
    for item in accepted(header):
        if multipart_only and not item.multipart and item.media_type != "*/*":
            continue
        for media_type in types:
            if item.covers(media_type):
                return Accepted(media_type, item.multipart, item.transfer_syntax, item.quality)
    raise Permanent("not-acceptable", f"offered: {', '.join(types)}")


def multipart(parts: Iterable[tuple[str, str, bytes]], media_type: str) -> tuple[str, Iterator[bytes]]:
    """Return content type and body of a multipart/related answer (RFC 2387), part by part.

    Parameters
    ----------
    parts : iterable of (content type, location, bytes)
        The parts; a location of '' is left out.
    media_type : str
        Type of the parts.
    """
    boundary = secrets.token_hex(16)

    def body() -> Iterator[bytes]:
        for kind, location, data in parts:
            head = f"--{boundary}\r\nContent-Type: {kind}\r\n"
            head += f"Content-Location: {location}\r\n" if location else ""
            yield f"{head}\r\n".encode()
            yield data
            yield b"\r\n"
        yield f"--{boundary}--\r\n".encode()

    return f'multipart/related; type="{media_type}"; boundary={boundary}', body()

"""Where encapsulated pixels end, and what may stand behind them: arithmetic on lengths, nothing is parsed (D49)."""

from __future__ import annotations

from dataclasses import dataclass
from struct import unpack_from

from imaging_core.errors import Rejected

__all__ = ["Fragments", "check_rest", "walk_fragments"]

_UNDEFINED = 0xFFFFFFFF
_AFTER_PIXELS = (0xFFFCFFFC, 0xFFFAFFFA)  # padding and digital signatures, PS3.10 7.2
_MAX_FRAGMENTS = 1_000_000


@dataclass(frozen=True)
class Fragments:
    """The fragments of encapsulated pixels (PS3.5 A.4).

    Parameters
    ----------
    count : int
        Without the offset table.
    first : tuple of int or None
        Where the first one begins and ends.
    end : int
        Where their sequence ends, its delimiter included.
    """

    count: int
    first: tuple[int, int] | None
    end: int


def walk_fragments(view: memoryview, start: int, *, little_endian: bool) -> Fragments:
    """Walk from item to item.

    Raises
    ------
    Rejected
        ``truncated``, ``too-many-elements``.
    """
    order = "<" if little_endian else ">"
    at, items = start, 0
    first: tuple[int, int] | None = None
    while True:
        if at + 8 > len(view):
            raise Rejected("truncated", "the encapsulated pixels have no end: send the file again")
        group, element, length = unpack_from(f"{order}HHI", view, at)
        at += 8
        if (group, element) == (0xFFFE, 0xE0DD):
            return Fragments(max(0, items - 1), first, at)
        if (group, element) != (0xFFFE, 0xE000) or length == _UNDEFINED or at + length > len(view):
            raise Rejected("truncated", "the encapsulated pixels are broken: send the file again")
        if items == 1:
            first = (at, at + length)
        at += length
        items += 1
        if items > _MAX_FRAGMENTS:
            raise Rejected("too-many-elements", f"more than {_MAX_FRAGMENTS} fragments of pixels")


def check_rest(rest: memoryview, *, implicit: bool, little_endian: bool) -> None:
    """Let only padding and signatures stand behind the pixels: another file may hide there.

    Raises
    ------
    Rejected
        ``trailing-bytes``, ``truncated``.
    """
    size = len(rest)
    if not size or not bytes(rest).strip(b"\0"):
        return
    order = "<" if little_endian else ">"
    header = 8 if implicit else 12  # both elements have a representation with a length of 32 bits
    at = 0
    while at + header <= size:
        group, element = unpack_from(f"{order}HH", rest, at)
        if group << 16 | element not in _AFTER_PIXELS:
            break
        (length,) = unpack_from(f"{order}I", rest, at + header - 4)
        body = at + header
        if length == _UNDEFINED:
            # a signature's sequence of undefined length: its own delimiter is the last one
            end = bytes(rest).rfind(b"\xfe\xff\xdd\xe0\0\0\0\0" if little_endian else b"\xff\xfe\xe0\xdd\0\0\0\0")
            at = end + 8 if end >= body else size
        else:
            at = body + length
    if at > size:
        raise Rejected("truncated", "the data set ends early: send the file again")
    if bytes(rest[at:]).strip(b"\0"):
        raise Rejected("trailing-bytes", f"{size - at} bytes after the pixel data are no data elements")

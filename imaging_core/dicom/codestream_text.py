"""Compressed frames without what they may say beside their pixels: comments, EXIF, thumbnails, bytes after their end.

JPEG and JPEG-LS (ISO/IEC 10918-1 Annex B, 14495-1 Annex C): COM and all application segments go; JFIF and Adobe's
colour transform are written anew, for decoders read the colour space from them. JPEG 2000 and HTJ2K (ISO/IEC 15444-1
Annex A): comments in the main header and in tile-part headers are overwritten in place, so that no length changes. The
coded pixels themselves are not touched, bit by bit.
"""

from __future__ import annotations

from struct import error as StructError
from struct import pack, unpack_from

from imaging_core.errors import Rejected

__all__ = ["without_text"]

_JPEG_2000 = frozenset(f"1.2.840.10008.1.2.4.{last}" for last in ("90", "91", "201", "202", "203"))
_JPEG = frozenset(f"1.2.840.10008.1.2.4.{last}" for last in ("50", "51", "57", "70", "80", "81"))
_TABLES = frozenset({0xC4, 0xCC, 0xDB, 0xDC, 0xDD, 0xF8}) | (frozenset(range(0xC0, 0xD0)) - {0xC8}) | {0xF7}
_JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
_MAIN_2000 = frozenset({0x50, 0x51, 0x52, 0x53, 0x55, 0x57, 0x58, 0x59, 0x5C, 0x5D, 0x5E, 0x5F, 0x60, 0x61, 0x63, 0x64})


def without_text(codestream: bytes, transfer_syntax_uid: str) -> bytes:
    """Return the frame's codestream with nothing in it but what its pixels need.

    Raises
    ------
    Rejected
        ``not-deidentifiable``: a syntax, marker or box of which nobody here knows what it may hold.
    """
    try:
        if transfer_syntax_uid in _JPEG:
            return _jpeg(codestream, near=transfer_syntax_uid.endswith((".80", ".81")))
        if transfer_syntax_uid in _JPEG_2000:
            return _jpeg_2000(codestream)
    except (StructError, IndexError) as error:
        raise Rejected("not-deidentifiable", "a compressed frame is broken") from error
    raise Rejected("not-deidentifiable", f"frames of transfer syntax {transfer_syntax_uid} can't be looked through")


def _jpeg(data: bytes, *, near: bool) -> bytes:
    if data[:2] != b"\xff\xd8":
        raise Rejected("not-deidentifiable", "a compressed frame is no JPEG stream")
    out = bytearray(b"\xff\xd8")
    at = 2
    while True:
        if data[at] != 0xFF:
            raise Rejected("not-deidentifiable", "bytes between the segments of a JPEG stream")
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker == 0xD9:
            break
        (length,) = unpack_from(">H", data, at + 2)
        end = at + 2 + length
        if length < 2 or end > len(data):
            raise Rejected("not-deidentifiable", "a segment of a JPEG stream leaves it")
        segment = data[at:end]
        if marker == 0xDA:
            at = _end_of_scan(data, end, near=near)
            out += segment + data[end:at]
            continue
        if marker in _TABLES:
            out += segment
        elif 0xE0 <= marker <= 0xEF:
            out += _application(segment)
        elif marker != 0xFE:  # a comment goes; what is none of these nobody knows
            raise Rejected("not-deidentifiable", f"marker FF{marker:02X} in a JPEG stream")
        at = end
    out += b"\xff\xd9"
    return bytes(out)


def _application(segment: bytes) -> bytes:
    if segment[1] == 0xE0 and segment[4:9] == b"JFIF\0":
        return _JFIF
    if segment[1] == 0xEE and segment[4:9] == b"Adobe" and len(segment) >= 16 and segment[15] in (0, 1, 2):
        return b"\xff\xee" + pack(">H", 14) + b"Adobe" + b"\0\x64\0\0\0\0" + segment[15:16]
    if segment[1] == 0xE8 and segment[4:8] == b"mrfx" and len(segment) == 9 and segment[8] <= 5:
        return segment  # HP's colour transformation of JPEG-LS: without it the colours are wrong
    return b""


def _end_of_scan(data: bytes, at: int, *, near: bool) -> int:
    """Return where the next marker that ends entropy-coded data stands.

    JPEG stuffs a zero byte after 0xFF, JPEG-LS a zero bit: there a byte below 0x80 follows.
    """
    while True:
        at = data.index(b"\xff", at) if b"\xff" in data[at:] else -1
        if at < 0:
            raise Rejected("not-deidentifiable", "a JPEG stream has no end")
        following = data[at + 1]
        stuffed = following < 0x80 if near else following == 0
        if not stuffed and not 0xD0 <= following <= 0xD7 and following != 0xFF:
            return at
        at += 1 if following == 0xFF else 2


def _jpeg_2000(data: bytes) -> bytes:
    start = 0
    if data[:12] == b"\0\0\0\x0cjP  \r\n\x87\n":  # a JP2 file: its boxes may hold XML and UUID data
        box = data.find(b"jp2c")
        if box < 0:
            raise Rejected("not-deidentifiable", "a compressed frame is no JPEG 2000 stream")
        start = box + 4
    out = bytearray(data[start:])
    if out[:4] != b"\xff\x4f\xff\x51":
        raise Rejected("not-deidentifiable", "a compressed frame is no JPEG 2000 stream")
    at = _blank_comments(out, 2, 0x90)
    while out[at + 1] == 0x90:
        (part,) = unpack_from(">I", out, at + 6)
        _blank_comments(out, at + 12, 0x93)
        if part == 0:  # the last tile-part reaches to the end of the stream
            end = out.rfind(b"\xff\xd9")
            at = end if end > at else len(out)
            break
        if part < 14 or at + part > len(out):
            raise Rejected("not-deidentifiable", "a tile-part of a JPEG 2000 stream leaves it")
        at += part
        if at + 2 > len(out):
            break
        if out[at] != 0xFF or out[at + 1] not in (0x90, 0xD9):
            raise Rejected("not-deidentifiable", "bytes between the tile-parts of a JPEG 2000 stream")
    return bytes(out[:at]) + b"\xff\xd9"


def _blank_comments(out: bytearray, at: int, last: int) -> int:
    """Overwrite the comments of a header; return where the marker that ends it stands."""
    while True:
        if out[at] != 0xFF:
            raise Rejected("not-deidentifiable", "a header of a JPEG 2000 stream is broken")
        marker = out[at + 1]
        if marker == last:
            return at
        (length,) = unpack_from(">H", out, at + 2)
        end = at + 2 + length
        if marker not in _MAIN_2000 or length < 2 or end > len(out):
            raise Rejected("not-deidentifiable", f"marker FF{marker:02X} in a JPEG 2000 stream")
        if marker == 0x64:
            out[at + 6 : end] = b" " * (end - at - 6)
        at = end

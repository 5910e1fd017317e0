"""The parts of a ``multipart/related`` body (RFC 2387, RFC 2046 5.1) as views of it: no part is copied.

A delimiter is a line of its own: ``--boundary`` at the body's start or after a line end, then blanks and a line end.
The boundary's text elsewhere, in pixel data for instance, delimits nothing. Lines end in CRLF, or all in LF where the
first delimiter does. What stands before the first delimiter and behind the closing one is ignored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from imaging_core.errors import Rejected
from imaging_core.media_types import media_type

__all__ = ["Part", "media_type", "split"]

_MOST_BOUNDARY = 256  # RFC 2046 has 70; senders are known that take more
_MOST_HEADERS = 16 * 1024
_BEHIND = re.compile(rb"(--)?[ \t]*(\r\n|\n|\Z)")
_FOLD = re.compile(r"\r?\n[ \t]+")


@dataclass(frozen=True)
class Part:
    """One part: its headers, names in lower case, and a view of its content."""

    headers: dict[str, str]
    content: memoryview


@dataclass(frozen=True)
class _Delimiter:
    """Where a delimiter begins, its leading line end included, and where what follows begins."""

    start: int
    end: int
    line_end: bytes
    closing: bool


def split(body: bytes | bytearray, boundary: str, most: int) -> list[Part]:
    """Return the parts of a body.

    Parameters
    ----------
    most : int
        MAX_PARTS.

    Raises
    ------
    Rejected
        ``bad-multipart`` where there is no part or the closing boundary is missing; ``too-many-parts``.
    """
    if not boundary:
        raise Rejected("bad-multipart", "the Content-Type names no boundary")
    try:
        mark = b"--" + boundary.encode("latin-1")
    except UnicodeEncodeError as error:
        raise Rejected("bad-multipart", "the boundary is not ASCII") from error
    if len(boundary) > _MOST_BOUNDARY:
        raise Rejected("bad-multipart", f"the boundary is longer than {_MOST_BOUNDARY} characters")
    view = memoryview(body)
    parts: list[Part] = []
    begun = _next(body, mark, 0, b"")
    if begun is None:
        raise Rejected("bad-multipart", "the body does not hold the boundary")
    line_end = begun.line_end
    while not begun.closing:
        if len(parts) >= most:
            raise Rejected("too-many-parts", f"MAX_PARTS = {most}: send the rest in further requests")
        # the line end that ends a delimiter may begin the next: a part may have neither headers nor content
        ended = _next(body, mark, begun.end - len(line_end), line_end)
        headers, content = _head(body, view, begun, ended)
        ended = _declared(body, mark, headers, content, line_end) or ended
        if ended is None:
            raise Rejected("bad-multipart", "the closing boundary is missing: the body was cut off")
        parts.append(Part(headers, view[content : max(content, ended.start)]))
        begun = ended
    if not parts:
        raise Rejected("bad-multipart", "the body has no part")
    return parts


def _next(body: bytes | bytearray, mark: bytes, start: int, line_end: bytes) -> _Delimiter | None:
    at = body.find(mark, start)
    while at >= 0:
        behind = _BEHIND.match(body, at + len(mark))
        found = _delimiter(body, at, behind, line_end) if behind is not None else None
        if found is not None:
            return found
        at = body.find(mark, at + 1)
    return None


def _declared(
    body: bytes | bytearray, mark: bytes, headers: dict[str, str], content: int, line_end: bytes
) -> _Delimiter | None:
    """Return the delimiter where the part's Content-Length says it is; None where it is not there, or says nothing.

    It only helps: pixels that hold a whole delimiter line are not cut at it, and a length that lies is passed over.
    """
    length = headers.get("content-length", "")
    if not (length.isascii() and length.isdigit() and len(length) < 12):
        return None
    at = content + int(length) + len(line_end)
    if not body.startswith(mark, at):
        return None
    behind = _BEHIND.match(body, at + len(mark))
    return _delimiter(body, at, behind, line_end) if behind is not None else None


def _delimiter(body: bytes | bytearray, at: int, behind: re.Match[bytes], line_end: bytes) -> _Delimiter | None:
    closing = behind.group(1) is not None
    ends = behind.group(2)
    if not ends and not closing:
        return None  # a delimiter that opens a part can't be the end of the body
    if at == 0:
        start = 0
    elif line_end == b"\n" or (not line_end and ends == b"\n"):
        if body[at - 1 : at] != b"\n":
            return None
        start = at - 1
    else:
        if body[at - 2 : at] != b"\r\n":
            return None
        start = at - 2
    return _Delimiter(start, behind.end(), b"\n" if ends == b"\n" else b"\r\n", closing)


def _head(
    body: bytes | bytearray, view: memoryview, begun: _Delimiter, ended: _Delimiter | None
) -> tuple[dict[str, str], int]:
    """Return a part's headers and where its content begins: header lines, an empty line, content."""
    line = begun.line_end
    if body.startswith(line, begun.end):  # no headers
        return {}, begun.end + len(line)
    end = ended.start if ended is not None else len(body)
    blank = body.find(line + line, begun.end, min(end, begun.end + _MOST_HEADERS) + len(line))
    if blank < 0:
        if end - begun.end > _MOST_HEADERS:
            raise Rejected("bad-multipart", f"a part's headers have more than {_MOST_HEADERS} bytes")
        return _headers(bytes(view[begun.end : max(begun.end, end)])), max(begun.end, end)
    return _headers(bytes(view[begun.end : blank])), blank + 2 * len(line)


def _headers(lines: bytes) -> dict[str, str]:
    headers = {}
    for line in _FOLD.sub(" ", lines.decode("latin-1")).splitlines():
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    return headers

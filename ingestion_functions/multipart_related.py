"""The parts of a ``multipart/related`` body (RFC 2387) as views of it: no part is copied."""

from __future__ import annotations

from dataclasses import dataclass, field
from email.message import Message
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError, MultipartParseError
from python_multipart.multipart import MultipartParser

from imaging_core.errors import Rejected

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks as _Callbacks

__all__ = ["Part", "media_type", "split"]


@dataclass
class Part:
    """One part: its headers, names in lower case, and a view of its content."""

    headers: dict[str, str] = field(default_factory=dict)
    content: memoryview = field(default_factory=lambda: memoryview(b""))


def media_type(header: str) -> tuple[str, dict[str, str]]:
    """Split a ``Content-Type`` into its type in lower case and its parameters (RFC 9110 8.3)."""
    message = Message()
    message["Content-Type"] = header
    parameters = message.get_params(failobj=[], header="Content-Type", unquote=True)
    return message.get_content_type() if header else "", {
        name.lower(): value for name, value in parameters[1:] if isinstance(value, str)
    }


class _Collector:
    """Notes where each part's headers and content lie.

    The whole body goes to the parser at once, so that every position it reports is a position in the body.
    """

    def __init__(self, body: memoryview, most: int) -> None:
        self._body = body
        self._most = most
        self.parts: list[Part] = []
        self._name = b""
        self._value = b""
        self._start = self._end = -1
        self.complete = False

    def part_begin(self) -> None:
        if len(self.parts) >= self._most:
            raise Rejected("too-many-parts", f"MAX_PARTS = {self._most}: send the rest in further requests")
        self.parts.append(Part())
        self._start = self._end = -1

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        self.parts[-1].headers[self._name.decode("latin-1").lower()] = self._value.decode("latin-1").strip()
        self._name = self._value = b""

    def part_data(self, data: bytes, start: int, end: int) -> None:
        if self._start < 0:
            self._start = start
        self._end = end

    def part_end(self) -> None:
        if self._start >= 0:
            self.parts[-1].content = self._body[self._start : self._end]

    def end(self) -> None:
        self.complete = True


def split(body: bytes, boundary: str, most: int) -> list[Part]:
    """Return the parts of a body.

    Raises
    ------
    Rejected
        ``bad-multipart`` where there is no part or the closing boundary is missing; ``too-many-parts``.
    """
    if not boundary:
        raise Rejected("bad-multipart", "the Content-Type names no boundary")
    collector = _Collector(memoryview(body), most)
    callbacks: _Callbacks = {
        "on_part_begin": collector.part_begin,
        "on_part_data": collector.part_data,
        "on_part_end": collector.part_end,
        "on_header_field": collector.header_field,
        "on_header_value": collector.header_value,
        "on_header_end": collector.header_end,
        "on_end": collector.end,
    }
    try:
        parser = MultipartParser(boundary.encode("latin-1"), callbacks)
        parser.write(body)
        parser.finalize()
    except (MultipartParseError, FormParserError, UnicodeEncodeError) as error:
        raise Rejected("bad-multipart", f"the body can't be split ({error})") from error
    if not collector.complete:
        raise Rejected("bad-multipart", "the closing boundary is missing: the body was cut off")
    if not collector.parts:
        raise Rejected("bad-multipart", "the body has no part")
    return collector.parts

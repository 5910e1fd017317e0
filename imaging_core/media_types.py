"""Media types and their ranges in ``Content-Type`` and ``Accept`` (RFC 9110 8.3 and 12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.message import Message

__all__ = ["MediaRange", "accepted_ranges", "best", "media_type"]

# An element of a comma-separated list; a comma inside quotes separates nothing.
_ELEMENT = re.compile(r'(?:[^,"]|"(?:\\.|[^"\\])*")+')
_MOST_RANGES = 100


def media_type(header: str) -> tuple[str, dict[str, str]]:
    """Split a ``Content-Type`` into its type in lower case and its parameters; an empty or broken one has no type."""
    message = Message()
    try:
        message["Content-Type"] = header
        parameters = message.get_params(failobj=[], header="Content-Type", unquote=True)
    except (ValueError, TypeError, IndexError):
        return "", {}
    kind = header.split(";")[0].strip().lower()
    return kind if kind.count("/") == 1 else "", {
        name.lower(): value for name, value in parameters[1:] if isinstance(value, str)
    }


@dataclass(frozen=True)
class MediaRange:
    """One element of an ``Accept``: type with wildcards, parameters without ``q``, weight."""

    kind: str
    parameters: dict[str, str]
    weight: float

    def covers(self, kind: str) -> int:
        """Return how specifically this range covers a type: 3 by name, 2 by subtype wildcard, 1 by ``*/*``, 0 not."""
        if self.kind == kind:
            return 3
        if self.kind == f"{kind.split('/')[0]}/*":
            return 2
        return int(self.kind in ("*/*", "*"))


def accepted_ranges(accept: str) -> list[MediaRange]:
    """Parse an ``Accept`` header; without one everything is accepted."""
    found = list(_ranges(accept))
    return found or [MediaRange("*/*", {}, 1.0)]


def _ranges(accept: str) -> Iterator[MediaRange]:
    for number, element in enumerate(_ELEMENT.findall(accept)):
        kind = element.split(";")[0].strip().lower()
        if number >= _MOST_RANGES or not kind:
            continue
        _, parameters = media_type(element)
        yield MediaRange(kind, {key: text for key, text in parameters.items() if key != "q"}, _weight(parameters))


def _weight(parameters: dict[str, str]) -> float:
    try:
        weight = float(parameters.get("q", "1"))
    except ValueError:
        return 1.0
    return weight if 0.0 <= weight <= 1.0 else 1.0


def best(offered: Sequence[str], ranges: Sequence[MediaRange]) -> str | None:
    """Return the offered type of the greatest weight, the first of equals; None where none is accepted.

    The most specific range that covers a type decides about it, so that ``*/*, text/xml;q=0`` refuses XML.
    """
    chosen, greatest = None, 0.0
    for kind in offered:
        weight = max(((item.covers(kind), item.weight) for item in ranges if item.covers(kind)), default=(0, 0.0))[1]
        if weight > greatest:
            chosen, greatest = kind, weight
    return chosen

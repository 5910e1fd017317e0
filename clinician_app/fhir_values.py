"""The data types of FHIR R4 that pages show: dates of any precision, names, codes, references, identifiers.

Everything here comes from a server that may send anything: a value of another shape than FHIR's reads as absent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal

__all__ = [
    "Identifier",
    "Moment",
    "PersonName",
    "Resource",
    "codes",
    "concept_text",
    "decimal",
    "identifiers",
    "moment",
    "objects",
    "person_name",
    "reference_id",
    "text",
]

Resource = Mapping[str, Any]
Precision = Literal["year", "month", "day", "time"]

_DATE = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?")
_LONGEST = 2_000


@dataclass(frozen=True)
class Moment:
    """A FHIR date or dateTime; `precision` says how much of `value` was told.

    Parameters
    ----------
    value : datetime
        Aware where precision is ``time``; else midnight without a zone, standing for the whole day, month or year.
    precision : {'year', 'month', 'day', 'time'}
        What the server gave.
    """

    value: datetime
    precision: Precision

    @property
    def date(self) -> date:
        """The day, or the first day of the month or year."""
        return self.value.date()

    @property
    def sort_key(self) -> tuple[int, int, int, float]:
        """Order by day, then by time where there is one."""
        clock = self.value.timestamp() if self.precision == "time" else 0.0
        return (self.value.year, self.value.month, self.value.day, clock)


@dataclass(frozen=True)
class PersonName:
    """A HumanName, ready to be shown: the parts, or the server's own text where it gave no parts."""

    family: str
    given: str
    text: str

    def __bool__(self) -> bool:
        return bool(self.family or self.given or self.text)


@dataclass(frozen=True)
class Identifier:
    """One identifier: its system, value and the code of its type (v2-0203), each '' where absent."""

    system: str
    value: str
    type_code: str


def text(value: object, limit: int = _LONGEST) -> str:
    """Return a string's text without control characters, cut at `limit`; '' for anything else."""
    if not isinstance(value, str):
        return ""
    kept = "".join(character for character in value if character.isprintable() or character in "\n\t")
    return kept.strip()[:limit]


def objects(value: object) -> Iterator[Resource]:
    """Yield the JSON objects of a list; nothing for anything else."""
    if isinstance(value, list):
        yield from (item for item in value if isinstance(item, dict))


def decimal(value: object) -> float | None:
    """Return a number (a decimal sent as a string too), or None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float | str):
        try:
            number = float(value)
        except ValueError:
            return None
        return number if abs(number) < 1e12 else None
    return None


def moment(value: object) -> Moment | None:
    """Parse a FHIR date, dateTime or instant; None where it is none."""
    raw = text(value, 64)
    if not raw:
        return None
    try:
        if "T" in raw:
            parsed = datetime.fromisoformat(raw)
            return (
                Moment(parsed, "time") if parsed.tzinfo else Moment(parsed.replace(hour=0, minute=0, second=0), "day")
            )
        match = _DATE.fullmatch(raw)
        if not match:
            return None
        year, month, day = match[1], match[2], match[3]
        precision: Precision = "day" if day else "month" if month else "year"
        return Moment(datetime(int(year), int(month or 1), int(day or 1)), precision)
    except ValueError:
        return None


_NAME_USES = ("official", "usual", "", "temp", "nickname", "anonymous", "maiden", "old")


def person_name(names: object) -> PersonName:
    """Choose the name to show: official before usual before any; ended ones last."""

    def rank(name: Resource) -> tuple[bool, int]:
        use = text(name.get("use"))
        period = name.get("period")
        ended = isinstance(period, dict) and bool(period.get("end"))
        return (ended, _NAME_USES.index(use) if use in _NAME_USES else len(_NAME_USES))

    for name in sorted(objects(names), key=rank):
        given = name.get("given")
        found = PersonName(
            text(name.get("family"), 200),
            " ".join(text(part, 100) for part in given if text(part)) if isinstance(given, list) else "",
            text(name.get("text"), 300),
        )
        if found:
            return found
    return PersonName("", "", "")


def codes(concept: object) -> set[tuple[str, str]]:
    """Return the (system, code) pairs of a CodeableConcept."""
    if not isinstance(concept, dict):
        return set()
    return {(text(coding.get("system")), text(coding.get("code"))) for coding in objects(concept.get("coding"))}


def concept_text(concept: object) -> str:
    """Return a CodeableConcept's text, else a display, else a code."""
    if not isinstance(concept, dict):
        return ""
    codings = list(objects(concept.get("coding")))
    choices = [concept.get("text"), *(item.get("display") for item in codings), *(item.get("code") for item in codings)]
    return next((found for found in map(text, choices) if found), "")


def identifiers(value: object) -> tuple[Identifier, ...]:
    """Return the identifiers that have a value."""
    found = []
    for item in objects(value):
        number = text(item.get("value"), 300)
        if number:
            kinds = sorted(code for _, code in codes(item.get("type")))
            found.append(Identifier(text(item.get("system"), 300), number, kinds[0] if kinds else ""))
    return tuple(found)


def reference_id(reference: object, resource_type: str, base: str = "") -> str:
    """Return the id that a Reference to `resource_type` names; '' for another type, a contained one, another server's.

    Parameters
    ----------
    reference : object
        A Reference, or its ``reference`` string.
    resource_type : str
        The type wanted.
    base : str
        Base URL of the server that sent it: an absolute reference counts only below it.
    """
    raw = reference.get("reference") if isinstance(reference, dict) else reference
    path = text(raw, 500)
    if "://" in path:
        if not base or not path.startswith(base.rstrip("/") + "/"):
            return ""
        path = path[len(base.rstrip("/")) + 1 :]
    match = re.fullmatch(r"([A-Za-z]+)/([A-Za-z0-9\-.]{1,64})(?:/_history/[A-Za-z0-9\-.]{1,64})?", path)
    return match[2] if match and match[1] == resource_type else ""

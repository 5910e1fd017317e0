"""Reading the DICOM JSON model (PS3.18 Annex F): dictionaries of tag to ``{"vr": .., "Value": [..]}``.

Every function takes an attribute (or None where the header lacks it) and gives a clean Python value, or nothing: a
header is a stranger's text, and what can't be used must never stop an image (D24).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

__all__ = [
    "Attribute",
    "Header",
    "clean",
    "first_item",
    "items",
    "number",
    "person_text",
    "text",
    "text_of",
    "texts",
    "uid",
    "values_of",
]

Header = Mapping[str, Any]
"""One instance, or one item of a sequence."""
Attribute = Mapping[str, Any] | None

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_LARGEST = 2_147_483_647


def clean(value: object) -> str:
    """Return text without control characters (PS3.5 6.2; FHIR strings allow none) and outer blanks."""
    shown = str(value)
    return (shown if shown.isprintable() else _CONTROL.sub("", shown)).strip()


def values_of(attribute: Attribute) -> list[Any]:
    """Return the values of an attribute; none where it is absent, empty or of no shape that the model knows."""
    # a header comes from storage as JSON: whatever is there must not stop the study
    values = attribute.get("Value") if isinstance(attribute, dict) else None
    return values if isinstance(values, list) else []


def text(attribute: Attribute) -> str:
    """Return the first value as text; empty where there is none."""
    values = values_of(attribute)
    return text_of(values[0]) if values else ""


def text_of(value: object) -> str:
    """Return one value as text; empty where it says nothing."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return person_text(value)
    return "" if value is None else clean(value)


def texts(attribute: Attribute) -> list[str]:
    """Return all values as text, empty ones left out."""
    values = values_of(attribute)
    found = (
        person_text(value) if isinstance(value, Mapping) else clean(value) for value in values if value is not None
    )
    return [value for value in found if value]


def person_text(value: Mapping[str, Any]) -> str:
    """Return a person name's first filled group as one readable line."""
    for group in ("Alphabetic", "Ideographic", "Phonetic"):
        raw = value.get(group)
        if isinstance(raw, str) and (parts := [clean(part) for part in raw.split("^")]) and any(parts):
            family, given, middle, prefix, suffix = (parts + [""] * 5)[:5]
            return " ".join(part for part in (prefix, given, middle, family, suffix) if part)
    return ""


def number(attribute: Attribute) -> int | None:
    """Return the first value as a FHIR unsignedInt; None where it isn't one."""
    value = text(attribute)
    if not value:
        return None
    try:
        parsed = float(value)
    except ValueError:
        return None
    return int(parsed) if 0 <= parsed <= _LARGEST and parsed == int(parsed) else None


def uid(attribute: Attribute) -> str:
    """Return the first value if it is a valid UID (PS3.5 9.1), else the empty string."""
    return _valid_uid(text(attribute))


@functools.lru_cache(maxsize=8192)
def _valid_uid(value: str) -> str:
    return value if len(value) <= 64 and _UID.fullmatch(value) else ""


def items(attribute: Attribute) -> list[Header]:
    """Return the items of a sequence."""
    return [item for item in values_of(attribute) if isinstance(item, Mapping)]


def first_item(attribute: Attribute) -> Header:
    """Return the first item of a sequence; an empty one where there is none."""
    return next(iter(items(attribute)), {})

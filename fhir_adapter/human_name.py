"""Person names: DICOM PN (PS3.5 6.2.1) as FHIR HumanName, and comparison across spellings (D19, D20, P2)."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from fhir_adapter.dicom_json import Attribute, clean, values_of

__all__ = ["families", "givens", "human_names", "name_forms"]

_REPRESENTATION = "http://hl7.org/fhir/StructureDefinition/iso21090-EN-representation"
_GROUPS = {"Alphabetic": "ABC", "Ideographic": "IDE", "Phonetic": "SYL"}
# letters that Unicode does not take apart into a base letter and an accent
_LETTERS = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i", "ħ": "h", "ŧ": "t"}
)
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe"})


def human_names(attribute: Attribute) -> list[dict[str, Any]]:
    """Return a PN as HumanNames: one for each component group that says something.

    The five components are family, given, middle, prefix and suffix; middle names follow the given ones. Where several
    groups are filled, each carries how it is written (alphabetic, ideographic, phonetic).
    """
    value = next(iter(values_of(attribute)), None)
    if isinstance(value, str):
        value = {"Alphabetic": value}
    if not isinstance(value, Mapping):
        return []
    filled = [(code, name) for group, code in _GROUPS.items() if (name := _group(value.get(group)))]
    if len(filled) > 1:
        for code, name in filled:
            name["extension"] = [{"url": _REPRESENTATION, "valueCode": code}]
    return [name for _, name in filled]


def _group(raw: object) -> dict[str, Any] | None:
    if not isinstance(raw, str):
        return None
    parts = [clean(part) for part in raw.split("^")]
    if not any(parts):
        return None
    family, given, middle, prefix, suffix = (parts + [""] * 5)[:5]
    name: dict[str, Any] = {
        "use": "official",
        "text": " ".join(part for part in (prefix, given, middle, family, suffix) if part),
    }
    if family:
        name["family"] = family
    if names := [part for part in (given, middle) if part]:
        name["given"] = names
    if prefix:
        name["prefix"] = [prefix]
    if suffix:
        name["suffix"] = [suffix]
    return name


def name_forms(value: str) -> frozenset[str]:
    """Return the spellings under which a name is compared: no case, accents or punctuation, umlauts both ways."""
    folded = unicodedata.normalize("NFKC", value).casefold()
    forms = set()
    for form in (folded, unicodedata.normalize("NFC", folded).translate(_UMLAUTS)):
        bare = unicodedata.normalize("NFKD", form.translate(_LETTERS))
        kept = "".join(char for char in bare if char.isalnum())
        if kept:
            forms.add(kept)
    return frozenset(forms)


def families(names: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """Return the compared spellings of all family names."""
    return frozenset(form for name in names for form in name_forms(str(name.get("family") or "")))


def givens(names: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """Return the compared spellings of all first given names."""
    found: set[str] = set()
    for name in names:
        given = name.get("given")
        if isinstance(given, list) and given and isinstance(given[0], str):
            first = given[0].replace("-", " ").split()
            found |= name_forms(given[0])
            if first:
                found |= name_forms(first[0])
    return frozenset(found)

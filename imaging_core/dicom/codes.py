"""Coded concepts that PS3.16 knows, by scheme and value: their meaning in the standard's own words."""

from __future__ import annotations

import functools

from pydicom.sr._concepts_dict import concepts

__all__ = ["known_meaning"]


@functools.cache
def _scheme(scheme: str) -> dict[str, str]:
    found: dict[str, str] = {}
    known: dict[str, dict[str, tuple[str, list[int]]]] = concepts.get(scheme, {})  # type: ignore[assignment]  # loose
    for values in known.values():
        for value, (meaning, _) in values.items():
            found[value] = meaning
    return found


def known_meaning(scheme: str, value: str) -> str | None:
    """Return the meaning of a code; None where PS3.16 does not use it."""
    return _scheme(scheme).get(value)

"""A data set as the DICOM JSON model (PS3.18 Annex F), counted and bounded while it is read.

pydicom reads the elements without converting them; most values are ASCII text or plain numbers and are converted here
straight from their bytes, which costs a third of what building pydicom's typed values does. Whatever is not so simple
(character sets, sequences, values that contradict their representation) goes through pydicom's own conversion, and a
test holds both ways equal on every file that we have.

Only to be called in a decode child (`imaging_core.dicom.child`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from struct import Struct
from typing import Any

from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.values import converters

from imaging_core.errors import Rejected

__all__ = ["Budget", "describe", "first"]

_BULK = 1024
_LONG_TEXT = 65_536
_BINARY = frozenset({"OB", "OW", "OF", "OD", "OL", "OV", "UN", "OB or OW"})
_AMBIGUOUS = frozenset({"US or SS", "US or OW", "US or SS or OW"})  # pydicom decides by Pixel Representation
_PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_ESCAPE = 0x1B
Json = dict[str, Any]


class Budget:
    """What may still be read of one instance (D45).

    Parameters
    ----------
    max_elements, max_nesting : int
        Elements in all, and sequences within sequences.
    """

    def __init__(self, max_elements: int, max_nesting: int) -> None:
        self.max_elements = max_elements
        self.max_nesting = max_nesting
        self.elements = 0

    def spend(self, elements: int, depth: int) -> None:
        """Count the elements of a data set at a depth.

        Raises
        ------
        Rejected
            ``nested-too-deep``, ``too-many-elements``.
        """
        if depth > self.max_nesting:
            raise Rejected("nested-too-deep", f"more than MAX_NESTING = {self.max_nesting}")
        self.elements += elements
        if self.elements > self.max_elements:
            raise Rejected("too-many-elements", f"more than MAX_ELEMENTS = {self.max_elements}")


def first(attributes: Json, tag: str) -> Any:
    """Return the first value of an element, None where it is absent or empty."""
    values = attributes.get(tag, {}).get("Value")
    return values[0] if values else None


def describe(dataset: Dataset, budget: Budget, depth: int = 0) -> Json:
    """Return the JSON model of a data set.

    Left out are private elements, pixels, binary values, numbers of 1,024 bytes or more, text of 64 KiB or more, and
    numbers that JSON can't hold.

    Raises
    ------
    Rejected
        The budget is spent.
    Exception
        Whatever pydicom raises on an element that can't be read.
    """
    budget.spend(len(dataset), depth)
    out: Json = {}
    for element in dataset.elements():
        tag = int(element.tag)
        private = (tag >> 16) & 1
        if isinstance(element, RawDataElement):
            vr = element.VR or ("UN" if private else _dictionary(tag))
            if vr not in converters:
                raise ValueError("a value representation that is none (PS3.5 6.2)")
            if private and vr != "SQ":
                continue
            read = _FAST.get(vr)
            if read is not None and tag not in _PIXELS:
                value = element.value or b""
                try:
                    found = read(value, element.is_little_endian)
                except (ValueError, ArithmeticError):
                    found = None
                if found is not None:
                    out[f"{tag:08X}"] = {"vr": vr, "Value": found} if found else {"vr": vr}
                    continue
            if tag in _PIXELS or (vr in _BINARY and vr != "UN") or (vr in _AMBIGUOUS and element.length >= _BULK):
                continue
        model = _converted(dataset, tag, budget, depth)
        if model is not None and not private:
            out[f"{tag:08X}"] = model
    return out


def _dictionary(tag: int) -> str:
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"


def _converted(dataset: Dataset, tag: int, budget: Budget, depth: int) -> Json | None:
    """Convert by pydicom."""
    element: DataElement = dataset[tag]
    if element.VR == "SQ":
        return {"vr": "SQ", "Value": [describe(item, budget, depth + 1) for item in element.value]}
    if element.VR in _BINARY | _AMBIGUOUS or isinstance(element.value, bytes) or tag in _PIXELS:
        return None
    if element.VR in _NUMBERS and element.VM * 2 >= _BULK:
        return None
    try:
        model: Json = element.to_json_dict(None, _BULK)
    except (ValueError, TypeError, AttributeError, OverflowError, LookupError):
        return None  # a value that its representation can't hold: the file keeps it, the index does without
    values = model.get("Value", ())
    if any(isinstance(value, float) and not math.isfinite(value) for value in values):
        return None
    if sum(len(value) for value in values if isinstance(value, str)) >= _LONG_TEXT:
        return None
    return model


def _ascii(value: bytes) -> str | None:
    """Return ASCII text without padding; None where a character set or an escape sequence has a say."""
    if len(value) >= _LONG_TEXT or not value.isascii() or _ESCAPE in value:
        return None
    return value.decode("ascii").rstrip("\0 ")


def _strings(value: bytes, _: bool) -> list[str] | None:
    text = _ascii(value)
    if not text:
        return [] if text == "" else None
    return text.split("\\")


def _texts(value: bytes, _: bool) -> list[str] | None:
    text = _ascii(value)
    if not text:
        return [] if text == "" else None
    return [part.rstrip("\0 ") for part in text.split("\\")]


def _titles(value: bytes, _: bool) -> list[str] | None:
    text = _ascii(value)
    if text is None:
        return None
    stripped = text.strip()
    return [part.strip() for part in stripped.split("\\")] if stripped else []


def _whole(value: bytes, _: bool) -> list[str] | None:
    text = _ascii(value)
    return None if text is None else [text] if text else []


def _names(value: bytes, _: bool) -> list[dict[str, str]] | None:
    text = _ascii(value)
    if text is None or "=" in text:
        return None
    return [{"Alphabetic": part} for part in text.split("\\")] if text else []


def _decimals(value: bytes, _: bool) -> list[float | None] | None:
    text = _ascii(value)
    if text is None or len(value) >= _BULK * 4:
        return None
    numbers = [float(part) if part.strip() else None for part in text.split("\\")] if text.strip() else []
    return numbers if all(number is None or math.isfinite(number) for number in numbers) else None


def _integers(value: bytes, _: bool) -> list[int | None] | None:
    text = _ascii(value)
    if text is None or "_" in text:
        return None
    return [int(part) if part.strip() else None for part in text.split("\\")] if text.strip() else []


def _tags(value: bytes, little: bool) -> list[str] | None:
    if len(value) % 4 or len(value) >= _BULK:
        return None
    words = Struct(f"{'<' if little else '>'}{len(value) // 2}H").unpack(value)
    return [f"{group:04X}{element:04X}" for group, element in zip(words[::2], words[1::2], strict=True)]


def _packed(code: str, size: int) -> Callable[[bytes, bool], list[int | float] | None]:
    one = {True: Struct(f"<{code}"), False: Struct(f">{code}")}

    def read(value: bytes, little: bool) -> list[int | float] | None:
        if len(value) == size:
            numbers = list(one[little].unpack(value))
        elif len(value) % size or len(value) >= _BULK:
            return None
        else:
            numbers = list(Struct(f"{'<' if little else '>'}{len(value) // size}{code}").unpack(value))
        if code in "fd" and not all(map(math.isfinite, numbers)):
            return None
        return numbers

    return read


_NUMBERS: dict[str, Callable[[bytes, bool], list[int | float] | None]] = {
    "US": _packed("H", 2),
    "SS": _packed("h", 2),
    "UL": _packed("I", 4),
    "SL": _packed("i", 4),
    "UV": _packed("Q", 8),
    "SV": _packed("q", 8),
    "FL": _packed("f", 4),
    "FD": _packed("d", 8),
}
_FAST: dict[str, Callable[[bytes, bool], list[Any] | None]] = {
    **dict.fromkeys(("AS", "CS", "DA", "DT", "TM", "UI"), _strings),
    **dict.fromkeys(("LO", "SH", "UC"), _texts),
    **dict.fromkeys(("LT", "ST", "UT", "UR"), _whole),
    "AE": _titles,
    "PN": _names,
    "DS": _decimals,
    "IS": _integers,
    "AT": _tags,
    **_NUMBERS,
}

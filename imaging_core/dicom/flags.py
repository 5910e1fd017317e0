"""What an instance's pixels or content may give away although its header is clean (D42).

Flagged instances are taken in like any other. A de-identified export refuses them unless what may identify is
scrubbed.
"""

from __future__ import annotations

from typing import Any

from imaging_core.dicom.json_model import first

__all__ = ["BURNED_IN", "DOCUMENT", "RECOGNIZABLE", "SCREEN_CAPTURE", "ULTRASOUND", "flags"]

BURNED_IN = "burned-in-annotation"
SCREEN_CAPTURE = "screen-capture"
ULTRASOUND = "ultrasound"
RECOGNIZABLE = "recognizable-features"
DOCUMENT = "encapsulated-document"

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_ULTRASOUND = ("1.2.840.10008.5.1.4.1.1.6.", "1.2.840.10008.5.1.4.1.1.3.1")
_ENCAPSULATED = "1.2.840.10008.5.1.4.1.1.104."
# Conversion Type (0008,0064), PS3.3 C.8.6.1.1.1: digitised film and video, scanned documents, drawings, screens.
_CONVERTED = frozenset({"DF", "DV", "SD", "SI", "DRW", "WSD"})
_SCREENS = ("SCREEN", "SCREENSHOT", "CAPTURE")


def flags(attributes: dict[str, Any], sop_class_uid: str, *, pixels: bool) -> tuple[str, ...]:
    """Return the flags of an instance, sorted.

    Parameters
    ----------
    attributes : dict
        DICOM JSON model.
    sop_class_uid : str
        SOP class.
    pixels : bool
        The instance has pixel data.
    """
    found = set()
    if pixels:
        if _text(attributes, "00280301") == "YES":  # Burned In Annotation, PS3.3 C.7.6.1
            found.add(BURNED_IN)
        if _text(attributes, "00280302") == "YES":  # Recognizable Visual Features
            found.add(RECOGNIZABLE)
        kinds = [str(value).upper() for value in attributes.get("00080008", {}).get("Value", ())]
        if (
            sop_class_uid == _SECONDARY_CAPTURE
            or sop_class_uid.startswith(_SECONDARY_CAPTURE + ".")
            or _text(attributes, "00080064") in _CONVERTED
            or any(kind.startswith(_SCREENS) for kind in kinds)
        ):
            found.add(SCREEN_CAPTURE)
        if sop_class_uid.startswith(_ULTRASOUND) or _text(attributes, "00080060") in ("US", "IVUS"):
            found.add(ULTRASOUND)
    if sop_class_uid.startswith(_ENCAPSULATED):
        found.add(DOCUMENT)
    return tuple(sorted(found))


def _text(attributes: dict[str, Any], tag: str) -> str:
    return str(first(attributes, tag) or "").strip().upper()

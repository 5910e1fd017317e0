"""The Store Instances Response Module (PS3.18 Annex I) in the DICOM JSON model and the Native DICOM Model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

__all__ = ["JSON", "XML", "Item", "as_json", "as_xml", "response_module"]

JSON, XML = "application/dicom+json", "application/dicom+xml"
_NAMESPACE = "http://dicom.nema.org/PS3.19/models/NativeDICOM"
_ATTRIBUTES = {
    "00081150": ("UI", "ReferencedSOPClassUID"),
    "00081155": ("UI", "ReferencedSOPInstanceUID"),
    "00081190": ("UR", "RetrieveURL"),
    "00081196": ("US", "WarningReason"),
    "00081197": ("US", "FailureReason"),
    "00081198": ("SQ", "FailedSOPSequence"),
    "00081199": ("SQ", "ReferencedSOPSequence"),
    "0008119A": ("SQ", "OtherFailuresSequence"),
}
# Of several warnings the most appropriate one is told (I.2.1): that what is served differs from what was sent.
_WARNINGS = ("B000", "B006", "B007")


@dataclass(frozen=True)
class Item:
    """What the answer says of one part.

    Parameters
    ----------
    sop_class_uid, sop_uid : str
        Empty where they can't be read.
    study_uid, series_uid : str
        Of what is stored.
    warnings : tuple of str
        Warning reasons as hexadecimal text (Table I.2-1).
    code, detail : str
        Why it is not stored: a key of `imaging_core.errors.CODES`; empty where it is.
    failure : int
        Failure Reason (Table I.2-2).
    """

    sop_class_uid: str = ""
    sop_uid: str = ""
    study_uid: str = ""
    series_uid: str = ""
    warnings: tuple[str, ...] = ()
    code: str = ""
    detail: str = ""
    failure: int = 0

    @property
    def stored(self) -> bool:
        """Stored, with a warning or without."""
        return not self.code

    @property
    def warning(self) -> int:
        """The Warning Reason; 0: none."""
        found = [code for code in _WARNINGS if code in self.warnings] or list(self.warnings)
        return int(found[0], 16) if found else 0


def response_module(items: Sequence[Item], base: str) -> dict[str, Any]:
    """Return the module (Table I.1-1) as DICOM JSON.

    Parameters
    ----------
    base : str
        DICOMweb root of the retrieve URLs.

    Notes
    -----
    An item of Failed SOP Sequence must name its SOP class and instance (Type 1); what can't be read far enough for
    that stands in Other Failures Sequence (0008,119A). The study's Retrieve URL is Type 2: empty where the instances
    belong to several.
    """
    stored, failed, other = [], [], []
    for item in items:
        named = {"00081150": _element("00081150", item.sop_class_uid), "00081155": _element("00081155", item.sop_uid)}
        if item.stored:
            url = f"{base}/studies/{item.study_uid}/series/{item.series_uid}/instances/{item.sop_uid}"
            found = named | {"00081190": _element("00081190", url)}
            stored.append(found | ({"00081196": _element("00081196", item.warning)} if item.warning else {}))
        elif item.sop_class_uid and item.sop_uid:
            failed.append(named | {"00081197": _element("00081197", item.failure)})
        else:
            other.append({"00081197": _element("00081197", item.failure)})
    studies = {item.study_uid for item in items if item.stored}
    url = f"{base}/studies/{studies.pop()}" if len(studies) == 1 else ""
    response = {"00081190": _element("00081190", url)}
    for tag, sequence in (("00081198", failed), ("00081199", stored), ("0008119A", other)):
        if sequence:
            response[tag] = {"vr": "SQ", "Value": sequence}
    return response


def _element(tag: str, value: str | int) -> dict[str, Any]:
    vr = _ATTRIBUTES[tag][0]
    return {"vr": vr, "Value": [value]} if value else {"vr": vr}


def as_json(response: dict[str, Any]) -> bytes:
    """Return the response in the DICOM JSON model (Annex F)."""
    return json.dumps(response).encode()


def as_xml(response: dict[str, Any]) -> bytes:
    """Return the response in the Native DICOM Model (PS3.19 A.1)."""
    root = ElementTree.Element("NativeDicomModel", {"xmlns": _NAMESPACE})
    _attributes(root, response)
    document: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return document


def _attributes(parent: ElementTree.Element, attributes: dict[str, Any]) -> None:
    for tag, element in sorted(attributes.items()):
        vr, keyword = _ATTRIBUTES[tag]
        node = ElementTree.SubElement(parent, "DicomAttribute", {"tag": tag, "vr": vr, "keyword": keyword})
        for number, value in enumerate(element.get("Value", ()), 1):
            if vr == "SQ":
                _attributes(ElementTree.SubElement(node, "Item", {"number": str(number)}), value)
            else:
                ElementTree.SubElement(node, "Value", {"number": str(number)}).text = str(value)

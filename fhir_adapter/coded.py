"""DICOM code sequence items (PS3.3 Table 8.8-1) and persons as FHIR CodeableConcept and Reference."""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any

from fhir_adapter.dicom_json import Attribute, Header, clean, first_item, items, text, text_of, values_of
from fhir_adapter.terminology import SCT, scheme_uri

__all__ = ["anatomic_region", "body_part", "code_text", "concept", "persons"]


def concept(item: Header) -> dict[str, Any] | None:
    """Return a code sequence item as CodeableConcept; None where it says nothing.

    A scheme that has no URI (a private one) leaves the coding without ``system``.
    """
    value = text(item.get("00080100")) or text(item.get("00080119")) or text(item.get("00080120"))
    meaning = text(item.get("00080104"))
    if not value and not meaning:
        return None
    found: dict[str, Any] = {}
    if value:
        system = scheme_uri(text(item.get("00080102")), text(item.get("0008010C")))
        found["coding"] = [
            {
                **({"system": system} if system else {}),
                "code": " ".join(value.split()),
                **({"display": meaning} if meaning else {}),
            }
        ]
    if meaning:
        found["text"] = meaning
    return found


def code_text(item: Header) -> str:
    """Return a code sequence item's meaning, else its value."""
    return text(item.get("00080104")) or text(item.get("00080100"))


def anatomic_region(attribute: Attribute) -> dict[str, Any] | None:
    """Return Anatomic Region Sequence (0008,2218) as a SNOMED CT Coding.

    The older SRT codes (``T-D3000``) are translated by the table that pydicom takes from PS3.16.
    """
    item = first_item(attribute)
    found = concept(item)
    if found is None or "coding" not in found:
        return None
    coding: dict[str, Any] = found["coding"][0]
    if scheme_uri(text(item.get("00080102"))) == "http://snomed.info/srt":
        translated = _srt_codes().get(str(coding["code"]))
        if translated is None:
            return coding
        return {**coding, "system": SCT, "code": translated}
    return coding


def body_part(attribute: Attribute) -> dict[str, Any] | None:
    """Return Body Part Examined (0018,0015) as SNOMED CT Coding (PS3.16 Annex L); None for a term not there."""
    term = text(attribute).upper().replace(" ", "").replace("_", "").replace("-", "")
    entry = _body_parts().get(term)
    return {"system": SCT, "code": entry[0], "display": entry[1]} if entry else None


def persons(names: Attribute, identifications: Attribute) -> list[dict[str, Any]]:
    """Return persons as logical References to Practitioners.

    Parameters
    ----------
    names : Attribute
        A PN attribute, any number of values.
    identifications : Attribute
        The identification sequence that goes with it (PS3.3 10.1), items in the same order.
    """
    # an empty name keeps its place: the identification in the same place is not the next person's
    shown = [text_of(value) for value in values_of(names)]
    identified = items(identifications)
    found = []
    for index in range(max(len(shown), len(identified))):
        reference: dict[str, Any] = {"type": "Practitioner"}
        if index < len(identified) and (identifier := _person_identifier(identified[index])):
            reference["identifier"] = identifier
        if index < len(shown) and shown[index]:
            reference["display"] = shown[index]
        if len(reference) > 1:
            found.append(reference)
    return found


def _person_identifier(item: Header) -> dict[str, Any] | None:
    code = first_item(item.get("00401101"))
    value = text(code.get("00080100")) or text(code.get("00080119"))
    if not value:
        return None
    system = scheme_uri(text(code.get("00080102")), text(code.get("0008010C")))
    institution = text(item.get("00080080"))
    return {
        **({"system": system} if system else {}),
        "value": clean(value),
        **({"assigner": {"display": institution}} if institution else {}),
    }


@functools.cache
def _body_parts() -> dict[str, list[str]]:
    table: dict[str, list[str]] = json.loads(
        resources.files("fhir_adapter").joinpath("body_parts.json").read_text("utf-8")
    )
    return table


@functools.cache
def _srt_codes() -> dict[str, str]:
    # imported here: it is a large table, and few headers still carry SRT codes
    from pydicom.sr._snomed_dict import mapping

    return dict(mapping["SRT"])

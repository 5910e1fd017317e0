"""Attributes of the Patient that a study was linked to, as DICOM writes them: what is served of such a study (D8)."""

from __future__ import annotations

from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword

from clinician_app.fhir_values import Resource, identifiers, moment, person_name, text
from imaging_core.dicom.coerce import Changes, patient_changes

__all__ = ["as_json", "changes_of"]

_SEX = {"male": "M", "female": "F", "other": "O"}


def changes_of(patient: Resource, assigner_system: str) -> Changes:
    """Return the changes that make a header name this Patient.

    Parameters
    ----------
    patient : Resource
        The Patient.
    assigner_system : str
        System of the site's own numbers, preferred.
    """
    carried = identifiers(patient.get("identifier"))
    number = next((item for item in carried if item.system == assigner_system), carried[0] if carried else None)
    name = person_name(patient.get("name"))
    born = moment(patient.get("birthDate"))
    return patient_changes(
        patient_id=number.value[:64] if number else "",
        issuer=number.system[:64] if number else "",
        name=_plain(name.family) + (f"^{_plain(name.given)}" if name.given else "") or _plain(name.text),
        birth_date=born.value.strftime("%Y%m%d") if born and born.precision == "day" else "",
        sex=_SEX.get(text(patient.get("gender")), ""),
    )


def as_json(changes: Changes) -> dict[str, dict[str, Any]]:
    """Return the changes in the DICOM JSON model, by tag; what is taken away reads as empty."""
    out: dict[str, dict[str, Any]] = {}
    for keyword, value in changes.items():
        tag = tag_for_keyword(keyword)
        if tag is not None:
            vr = dictionary_VR(tag)
            values: list[Any] = [{"Alphabetic": value}] if vr == "PN" else [value]
            out[f"{tag:08X}"] = {"vr": vr, "Value": values} if value else {"vr": vr}
    return out


def _plain(value: str) -> str:
    return "".join(" " if character in "\\^=" else character for character in value)[:60].strip()

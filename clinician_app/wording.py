"""The words for what resources say in codes. Unknown codes are shown as they came, never dropped."""

from __future__ import annotations

from datetime import timedelta

from clinician_app.fhir_values import Identifier
from clinician_app.patient import Age
from clinician_app.translation import current_language, gettext, lazy_gettext, ngettext
from fhir_adapter.wording import reason_text

__all__ = ["age_words", "elapsed", "identifier_label", "modality", "part_name", "reason", "sex", "state", "status"]

_SEX = {
    "male": lazy_gettext("Male"),
    "female": lazy_gettext("Female"),
    "other": lazy_gettext("Other"),
    "unknown": lazy_gettext("Unknown"),
}
_STATE = {
    "present": lazy_gettext("Present"),
    "absent": lazy_gettext("Absent"),
    "indeterminate": lazy_gettext("Indeterminate"),
    "not-analysed": lazy_gettext("Not analysed"),
}
_STATUS = {
    "registered": lazy_gettext("Registered"),
    "partial": lazy_gettext("Partial"),
    "preliminary": lazy_gettext("Preliminary"),
    "final": lazy_gettext("Final"),
    "amended": lazy_gettext("Amended"),
    "corrected": lazy_gettext("Corrected"),
    "appended": lazy_gettext("Appended"),
    "cancelled": lazy_gettext("Cancelled"),
    "entered-in-error": lazy_gettext("Entered in error"),
}
_MODALITY = {
    "CR": lazy_gettext("Radiography"),
    "DX": lazy_gettext("Radiography"),
    "RG": lazy_gettext("Radiography"),
    "CT": lazy_gettext("CT"),
    "MR": lazy_gettext("MRI"),
    "US": lazy_gettext("Ultrasound"),
    "MG": lazy_gettext("Mammography"),
    "NM": lazy_gettext("Nuclear medicine"),
    "PT": lazy_gettext("PET"),
    "XA": lazy_gettext("Angiography"),
    "RF": lazy_gettext("Fluoroscopy"),
    "OT": lazy_gettext("Other"),
}
_PART = {
    "patient": lazy_gettext("the patient's details"),
    "studies": lazy_gettext("imaging studies"),
    "reports": lazy_gettext("reports"),
    "findings": lazy_gettext("findings"),
}


def _word(table: dict[str, object], code: str) -> str:
    return str(table.get(code, code))


def sex(code: str) -> str:
    """Return the word for an administrative gender."""
    return _word(_SEX, code)


def state(code: str) -> str:
    """Return the word for a finding's state."""
    return _word(_STATE, code)


def status(code: str) -> str:
    """Return the word for a report's status."""
    return _word(_STATUS, code)


def reason(code: str) -> str:
    """Return why something was not analysed, in the words of the reports (R3)."""
    return reason_text(code, current_language())


def modality(code: str) -> str:
    """Return the word for a DICOM modality."""
    return _word(_MODALITY, code)


def part_name(code: str) -> str:
    """Return what a part of the chart is called in a sentence."""
    return _word(_PART, code)


def age_words(age: Age | None) -> str:
    """Write an age: ``68 y``, ``18 months``, ``about 70 y``."""
    if age is None:
        return ""
    if age.unit == "day":
        return ngettext("%(num)d day", "%(num)d days", age.count)
    if age.unit == "month":
        return ngettext("%(num)d month", "%(num)d months", age.count)
    words = ngettext("%(num)d year", "%(num)d years", age.count)
    return words if age.exact else gettext("about %(age)s", age=words)


def identifier_label(identifier: Identifier) -> str:
    """Return what kind of number it is."""
    labels = {
        "MR": gettext("Record no."),
        "NH": gettext("Health no."),
        "NI": gettext("National no."),
        "SS": gettext("Insurance no."),
    }
    return str(labels.get(identifier.type_code, gettext("Patient no.")))


def elapsed(span: timedelta) -> str:
    """Write how old a reading is, rounded down."""
    minutes = int(span.total_seconds() // 60)
    if minutes < 1:
        return gettext("less than a minute")
    if minutes < 60:
        return ngettext("%(num)d minute", "%(num)d minutes", minutes)
    return ngettext("%(num)d hour", "%(num)d hours", minutes // 60)

"""The words for what resources say in codes. Unknown codes are shown as they came, never dropped."""

from __future__ import annotations

from datetime import timedelta

from clinician_app.fhir_values import Identifier
from clinician_app.patient import Age
from clinician_app.translation import current_language, gettext, lazy_gettext, ngettext
from fhir_adapter.wording import reason_text

__all__ = [
    "age_words",
    "elapsed",
    "identifier_label",
    "modality",
    "no_right",
    "part_name",
    "reason",
    "rejection",
    "rejection_words",
    "severity",
    "sex",
    "state",
    "status",
]

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
_SEVERITY = {"mild": lazy_gettext("mild"), "moderate": lazy_gettext("moderate"), "severe": lazy_gettext("severe")}
# The words that go into the record: in the report's language, not the reader's.
_REJECTION = {
    "poor-quality": ("Poor image quality", "Qualité d'image insuffisante"),
    "wrong-examination": (
        "Wrong examination, or one that the model is not made for",
        "Examen erroné, ou pour lequel le modèle n'est pas fait",
    ),
    "other": ("", ""),
}
_REJECTION_LABEL = {
    "poor-quality": lazy_gettext("Poor image quality"),
    "wrong-examination": lazy_gettext("Wrong examination, or one that the model is not made for"),
    "other": lazy_gettext("Another reason"),
}
_NO_RIGHT = {
    "no-rule": lazy_gettext("Reports can't be signed from this EHR."),
    "no-user": lazy_gettext("Your EHR did not say who you are, so you can't sign here."),
    "no-role": lazy_gettext("You may read this report. Signing it needs a role that your EHR does not give you."),
    "not-known": lazy_gettext("Your EHR would not say whether you may sign, so signing is not offered."),
    "away": lazy_gettext("The record service can't be reached, so signing is not possible at the moment."),
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


def severity(code: str) -> str:
    """Return the word for a severity."""
    return _word(_SEVERITY, code)


def rejection(code: str) -> str:
    """Return what a kind of rejection is called in the form."""
    return _word(_REJECTION_LABEL, code)


def rejection_words(code: str, further: str, language: str) -> str:
    """Return why a report is rejected, as the record has it in the report's language."""
    english, french = _REJECTION[code]
    return ": ".join(filter(None, (french if language == "fr" else english, further)))


def no_right(code: str) -> str:
    """Return why somebody may not sign."""
    return _word(_NO_RIGHT, code)


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

"""How severe a person found a finding: a component of its Observation, since R4 has no element for it."""

from __future__ import annotations

from typing import Any, Literal

from fhir_adapter.terminology import SCT, Code

__all__ = ["SEVERITIES", "SEVERITY", "Severity", "severity_of", "severity_text", "with_severity"]

Severity = Literal["mild", "moderate", "severe"]

_SOURCE = "SNOMED CT, severities (FHIR R4 ValueSet condition-severity)"
SEVERITY = Code(SCT, "246112005", "Severity", "SNOMED CT attribute")
SEVERITIES: dict[Severity, Code] = {
    "mild": Code(SCT, "255604002", "Mild", _SOURCE),
    "moderate": Code(SCT, "6736007", "Moderate", _SOURCE),
    "severe": Code(SCT, "24484000", "Severe", _SOURCE),
}
_WORDS: dict[Severity, tuple[str, str]] = {
    "mild": ("mild", "légère"),
    "moderate": ("moderate", "modérée"),
    "severe": ("severe", "sévère"),
}


def severity_text(severity: Severity, language: str) -> str:
    """Return the word of a severity (English for any other language than French)."""
    english, french = _WORDS[severity]
    return french if language == "fr" else english


def severity_of(observation: dict[str, Any]) -> Severity | None:
    """Return the severity that an Observation states."""
    for component in observation.get("component") or []:
        if _codes(component.get("code")) & {SEVERITY.code}:
            stated = _codes(component.get("valueCodeableConcept"))
            return next((name for name, code in SEVERITIES.items() if code.code in stated), None)
    return None


def with_severity(observation: dict[str, Any], severity: Severity | None) -> dict[str, Any]:
    """Return the Observation with this severity in place of any other; None: with none."""
    kept = [item for item in observation.get("component") or [] if not _codes(item.get("code")) & {SEVERITY.code}]
    if severity is not None:
        kept.append({"code": SEVERITY.concept(), "valueCodeableConcept": SEVERITIES[severity].concept()})
    after = {key: value for key, value in observation.items() if key != "component"}
    return {**after, "component": kept} if kept else after


def _codes(concept: Any) -> set[str]:
    codings = concept.get("coding") if isinstance(concept, dict) else None
    return {str(item.get("code")) for item in codings or [] if item.get("system") == SCT}

"""One Observation per finding and study (R2, R3)."""

from __future__ import annotations

from typing import Any

from fhir_adapter.client import Resource
from fhir_adapter.device import device_reference
from fhir_adapter.examination import Examination
from fhir_adapter.findings import AnalysisResult, Finding
from fhir_adapter.identity import observation_role, resource_id
from fhir_adapter.terminology import (
    AIAST,
    ARTIFICIAL_INTELLIGENCE,
    BAND_HIGH,
    BAND_LOW,
    CATEGORY_IMAGING,
    FINDING_STATES,
    IMAGE_PROBABILITY,
    INTERPRETATIONS,
    NOT_PERFORMED,
    PROBABILITY,
    SCT,
    THRESHOLD,
    UCUM,
    Code,
)
from fhir_adapter.wording import reason_text

__all__ = ["OBSERVATION_SYSTEM", "build", "observation_id", "stated"]

OBSERVATION_SYSTEM = "urn:imaging:observation"
"""System of an identifier ``<study UID>/<task>/<revision>/<finding>``: the tracking identifier of the DICOM SR."""

_MOST_IMAGES = 50


def observation_id(result: AnalysisResult, finding: Finding, revision: int) -> str:
    """Return the id of a finding's Observation."""
    return resource_id(result.study_uid, observation_role(result.task, finding.slug), revision)


def build(result: AnalysisResult, finding: Finding, examination: Examination, revision: int) -> Resource:
    """Return the Observation of one finding.

    Parameters
    ----------
    result : AnalysisResult
        The analysis.
    finding : Finding
        One of its findings.
    examination : Examination
        The registered study.
    revision : int
        Revision of the report that it belongs to.
    """
    model = result.model
    resource: Resource = {
        "resourceType": "Observation",
        "id": observation_id(result, finding, revision),
        "meta": {"security": [AIAST.coding()]},
        "language": result.language,
        "identifier": [{"system": OBSERVATION_SYSTEM, "value": f"{result.revision_path(revision)}/{finding.slug}"}],
        "status": "preliminary",
        "category": [CATEGORY_IMAGING.concept()],
        "code": Code(finding.system, finding.code, finding.display).concept(finding.text(result.language)),
        **examination.shared(result),
        "method": ARTIFICIAL_INTELLIGENCE.concept(f"{model.title_en or model.name} {model.version}"),
        "device": device_reference(model),
    }
    if examination.imaging_study:
        resource["derivedFrom"] = examination.imaging_study
    if finding.body_site:
        resource["bodySite"] = Code(SCT, finding.body_site, finding.body_site_display).concept()
    if finding.state == "not-assessed":
        reasons = ", ".join(reason_text(reason, result.language) for reason in result.reasons)
        resource["dataAbsentReason"] = NOT_PERFORMED.concept(reasons)
    else:
        resource["valueCodeableConcept"] = FINDING_STATES[finding.state].concept()
        resource["interpretation"] = [INTERPRETATIONS[finding.state].concept()]
        if components := _components(finding):
            resource["component"] = components
    return resource


def stated(observation: Resource) -> tuple[str, str, str] | None:
    """Return (system, code, state) of a stored Observation; None where it says nothing that this system would."""
    coding: dict[str, Any] = next(iter((observation.get("code") or {}).get("coding") or []), {})
    if "dataAbsentReason" in observation:
        state = "not-assessed"
    else:
        codes = {item.get("code") for item in (observation.get("valueCodeableConcept") or {}).get("coding") or []}
        state = next((name for name, code in FINDING_STATES.items() if code.code in codes), "")
    return (str(coding.get("system")), str(coding.get("code")), state) if coding and state else None


def _components(finding: Finding) -> list[dict[str, Any]]:
    found = []
    if finding.probability is not None:
        found.append(_component(PROBABILITY, finding.probability))
    if finding.threshold is not None:
        found.append(_component(THRESHOLD, finding.threshold))
    if finding.band is not None:
        found.extend([_component(BAND_LOW, finding.band[0]), _component(BAND_HIGH, finding.band[1])])
    if len(finding.per_image) > 1:
        shown = sorted(finding.per_image, key=lambda item: (-item.probability, item.sop_uid))[:_MOST_IMAGES]
        for image in sorted(shown, key=lambda item: item.sop_uid):
            found.append(_component(IMAGE_PROBABILITY, image.probability, image.sop_uid))
    return found


def _component(code: Code, value: float, text: str = "") -> dict[str, Any]:
    # four decimals: more would be the arithmetic's noise, and differ between machines
    quantity = {"value": round(float(value), 4), "unit": "1", "system": UCUM, "code": "1"}
    return {"code": code.concept(text or code.display), "valueQuantity": quantity}

"""DiagnosticReport and its Observations as the pages use them, written by this system's model or by a radiologist."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from clinician_app.fhir_values import (
    Moment,
    Resource,
    codes,
    concept_text,
    decimal,
    identifiers,
    moment,
    objects,
    reference_id,
    text,
)
from fhir_adapter.diagnostic_report import REPORT_SYSTEM
from fhir_adapter.severity import SEVERITIES, SEVERITY
from fhir_adapter.terminology import AIAST, BAND_HIGH, BAND_LOW, FINDING_STATES, PROBABILITY, SCT, THRESHOLD
from imaging_core.dicom.header import valid_uid

__all__ = ["Finding", "FindingState", "Report", "ReportPath", "read_report"]

FindingState = Literal["present", "absent", "indeterminate", "not-analysed", "other"]

# R2: SNOMED CT qualifiers of a finding's presence.
_STATES: dict[str, FindingState] = {
    FINDING_STATES["present"].code: "present",
    FINDING_STATES["absent"].code: "absent",
    FINDING_STATES["indeterminate"].code: "indeterminate",
}
_ORDER: dict[FindingState, int] = {"present": 0, "indeterminate": 1, "not-analysed": 2, "other": 3, "absent": 4}
_REVIEWED = ("final", "amended", "corrected", "appended")
_MOST_FINDINGS = 200
_LONGEST_TEXT = 20_000


@dataclass(frozen=True)
class ReportPath:
    """Where a report's files lie in container `results`: parsed from ``DiagnosticReport.identifier``."""

    study_uid: str
    task: str
    revision: int

    def blob(self, name: str) -> str:
        """Return the blob name of one of the report's files."""
        return f"{self.study_uid}/{self.task}/{self.revision}/{name}"


@dataclass(frozen=True)
class Finding:
    """One Observation of a report.

    Parameters
    ----------
    id, name : str
        Id of the Observation and what was looked for.
    state : str
        ``not-analysed`` where the Observation has a data-absent reason; ``other`` for a value that is no presence.
    value : str
        The value in the server's words (only shown for state ``other``).
    probability, threshold : float or None
        Calibrated probability and decision threshold, 0 to 1.
    band : tuple of two floats or None
        Below and above it the state is certain; within, indeterminate.
    absent_reason : str
        Why there is no value, in the server's words.
    body_site, method, device, note : str
        '' where absent.
    severity : str
        What a person said of one that is present; '' otherwise.
    """

    id: str
    name: str
    state: FindingState
    value: str = ""
    probability: float | None = None
    threshold: float | None = None
    band: tuple[float, float] | None = None
    absent_reason: str = ""
    body_site: str = ""
    method: str = ""
    device: str = ""
    note: str = ""
    severity: str = ""

    @property
    def model_state(self) -> FindingState | None:
        """What the model's own numbers say, whatever a person made of it; None where it gave none."""
        if self.probability is None or self.threshold is None:
            return None
        if self.band and self.band[0] <= self.probability <= self.band[1]:
            return "indeterminate"
        return "present" if self.probability >= self.threshold else "absent"


@dataclass(frozen=True)
class Report:
    """One DiagnosticReport with its findings.

    Parameters
    ----------
    automated : bool
        A model of this system wrote it (R5: AIAST, or the identifier of this system).
    reviewed : bool
        A person has signed it.
    path : ReportPath or None
        Where its files are; None for reports of others.
    study_ids : tuple of str
        Ids of the ImagingStudies that it reports.
    """

    id: str
    version: str
    status: str
    title: str
    effective: Moment | None
    issued: Moment | None
    automated: bool
    reviewed: bool
    path: ReportPath | None
    study_ids: tuple[str, ...]
    findings: tuple[Finding, ...]
    missing_findings: int
    conclusion: str
    conclusion_codes: tuple[str, ...]
    full_text: str
    interpreters: tuple[str, ...]
    performers: tuple[str, ...]
    accession: str = ""
    devices: tuple[str, ...] = field(default=())

    @property
    def notable_first(self) -> tuple[Finding, ...]:
        """The findings in order of what a reader has to know first: what is there before what is not."""
        return tuple(sorted(self.findings, key=lambda item: (_ORDER[item.state], -(item.probability or 0.0))))

    @property
    def not_analysed(self) -> bool:
        """The model was there, the input was not one that it was made for (R3)."""
        return self.automated and bool(self.findings) and all(item.state == "not-analysed" for item in self.findings)


def read_report(resource: Resource, observations: Mapping[str, Resource], base: str) -> Report:
    """Parse a DiagnosticReport that is known to be the launch's patient's.

    Parameters
    ----------
    resource : Resource
        The report.
    observations : mapping of str to Resource
        The patient's Observations by id; each was checked to be the patient's.
    base : str
        Base URL of the server, for absolute references.
    """
    wanted = [reference_id(item, "Observation", base) for item in objects(resource.get("result"))][:_MOST_FINDINGS]
    findings = [read_finding(observations[name]) for name in wanted if name in observations]
    named = identifiers(resource.get("identifier"))
    path = next((_path(item.value) for item in named if item.system == REPORT_SYSTEM), None)
    status = text(resource.get("status"), 32)
    automated = path is not None or _ai_asserted(resource)
    return Report(
        id=text(resource.get("id"), 64),
        version=text((resource.get("meta") or {}).get("versionId"), 64)
        if isinstance(resource.get("meta"), dict)
        else "",
        status=status,
        title=concept_text(resource.get("code")),
        effective=moment(resource.get("effectiveDateTime")) or _period_start(resource.get("effectivePeriod")),
        issued=moment(resource.get("issued")),
        automated=automated,
        reviewed=status in _REVIEWED,
        path=path,
        study_ids=_references(resource.get("imagingStudy"), "ImagingStudy", base),
        findings=tuple(findings),
        missing_findings=len([name for name in wanted if name and name not in observations]),
        conclusion=text(resource.get("conclusion"), _LONGEST_TEXT),
        conclusion_codes=tuple(filter(None, map(concept_text, objects(resource.get("conclusionCode"))))),
        full_text=_plain_text(resource.get("presentedForm")),
        interpreters=_displays(resource.get("resultsInterpreter")),
        performers=_displays(resource.get("performer")),
        accession=next((item.value for item in named if item.type_code == "ACSN"), ""),
        devices=tuple(dict.fromkeys(item.device for item in findings if item.device)),
    )


def read_finding(resource: Resource) -> Finding:
    """Parse an Observation that is known to be the launch's patient's."""
    numbers = _components(resource.get("component"))
    low, high = numbers.get("band-low"), numbers.get("band-high")
    absent = resource.get("dataAbsentReason")
    value = resource.get("valueCodeableConcept")
    device = resource.get("device")
    return Finding(
        id=text(resource.get("id"), 64),
        name=concept_text(resource.get("code")),
        state="not-analysed" if isinstance(absent, dict) else _state(value),
        value=_value(resource),
        probability=numbers.get("probability"),
        threshold=numbers.get("threshold"),
        band=(low, high) if low is not None and high is not None and low <= high else None,
        absent_reason=concept_text(absent),
        body_site=concept_text(resource.get("bodySite")),
        method=concept_text(resource.get("method")),
        device=text(device.get("display"), 200) if isinstance(device, dict) else "",
        note="\n".join(filter(None, (text(item.get("text")) for item in objects(resource.get("note"))))),
        severity=_severity(resource),
    )


def _severity(resource: Resource) -> str:
    for component in objects(resource.get("component")):
        if (SEVERITY.system, SEVERITY.code) in codes(component.get("code")):
            stated = codes(component.get("valueCodeableConcept"))
            return next((name for name, code in SEVERITIES.items() if (code.system, code.code) in stated), "")
    return ""


def _path(value: str) -> ReportPath | None:
    """Parse ``<study_uid>/<task>/<revision>``; it becomes a blob name, so nothing else passes."""
    match = re.fullmatch(r"([0-9.]{1,64})/([a-z0-9][a-z0-9-]{0,63})/([0-9]{1,9})", value)
    if not match or not valid_uid(match[1]):
        return None
    return ReportPath(match[1], match[2], int(match[3]))


def _ai_asserted(resource: Resource) -> bool:
    meta = resource.get("meta")
    labels = objects(meta.get("security")) if isinstance(meta, dict) else ()
    return any(text(label.get("code")) == AIAST.code for label in labels)


def _state(concept: object) -> FindingState:
    for system, code in codes(concept):
        if system == SCT and code in _STATES:
            return _STATES[code]
    return "other"


def _value(resource: Resource) -> str:
    quantity = resource.get("valueQuantity")
    if isinstance(quantity, dict) and decimal(quantity.get("value")) is not None:
        return " ".join(filter(None, (str(quantity["value"])[:40], text(quantity.get("unit"), 40))))
    return concept_text(resource.get("valueCodeableConcept")) or text(resource.get("valueString"))


# The codes of fhir_adapter's components, and what the page calls them.
_ROLES = {
    (PROBABILITY.system, PROBABILITY.code): "probability",
    (THRESHOLD.system, THRESHOLD.code): "threshold",
    (BAND_LOW.system, BAND_LOW.code): "band-low",
    (BAND_HIGH.system, BAND_HIGH.code): "band-high",
}


def _components(value: object) -> dict[str, float]:
    """Return the numbers from 0 to 1 that the page draws, by role."""
    found: dict[str, float] = {}
    for component in objects(value):
        role = next((_ROLES[code] for code in codes(component.get("code")) if code in _ROLES), None)
        told = component.get("valueQuantity")
        quantity: Resource = told if isinstance(told, dict) else {}
        number = decimal(quantity.get("value"))
        if role and number is not None:
            if text(quantity.get("code") or quantity.get("unit")) == "%":
                number /= 100.0
            if 0.0 <= number <= 1.0:
                found.setdefault(role, number)
    return found


def _period_start(period: object) -> Moment | None:
    return moment(period.get("start")) if isinstance(period, dict) else None


def _references(value: object, resource_type: str, base: str) -> tuple[str, ...]:
    return tuple(filter(None, (reference_id(item, resource_type, base) for item in objects(value))))


def _displays(value: object) -> tuple[str, ...]:
    return tuple(filter(None, (text(item.get("display"), 200) for item in objects(value))))


def _plain_text(attachments: Iterable[object] | object) -> str:
    """Return the report's text where it is inline plain text; HTML, SVG and PDF are never put into a page (XE4)."""
    for attachment in objects(attachments):
        if text(attachment.get("contentType")).split(";")[0].strip().lower() == "text/plain":
            try:
                raw = base64.b64decode(str(attachment.get("data", "")), validate=True)
            except (binascii.Error, ValueError):
                continue
            return text(raw.decode("utf-8", "replace"), _LONGEST_TEXT)
    return ""

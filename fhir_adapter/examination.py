"""What the reports of a study take over from its ImagingStudy and Patient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fhir_adapter.bundle import reference
from fhir_adapter.client import Resource
from fhir_adapter.findings import AnalysisResult

__all__ = ["Examination"]

_ABSENT = {"extension": [{"url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason", "valueCode": "unknown"}]}


@dataclass(frozen=True)
class Examination:
    """A registered study.

    Parameters
    ----------
    study : Resource or None
        Its ImagingStudy; None for a result that is not published (preview).
    patient : Resource or None
        Its Patient, for the readable report.
    """

    study: Resource | None
    patient: Resource | None = None

    def shared(self, result: AnalysisResult) -> dict[str, Any]:
        """Return subject, encounter and time of acquisition, as each resource of the result carries them."""
        found: dict[str, Any] = {}
        if self.study is not None:
            found["subject"] = {"reference": self.study["subject"]["reference"]}
            if "encounter" in self.study:
                found["encounter"] = self.study["encounter"]
        when = result.effective or str((self.study or {}).get("started") or "")
        # US Core asks for the time; that it is unusable is said, not made up
        return {**found, **({"effectiveDateTime": when} if when else {"_effectiveDateTime": _ABSENT})}

    @property
    def imaging_study(self) -> list[dict[str, str]]:
        """References to the ImagingStudy."""
        return [{"reference": reference(self.study)}] if self.study is not None else []

    @property
    def based_on(self) -> list[dict[str, Any]]:
        """The request of the examination."""
        return list((self.study or {}).get("basedOn") or [])

    @property
    def accession(self) -> list[dict[str, Any]]:
        """The accession numbers, as identifiers."""
        return [
            identifier
            for identifier in (self.study or {}).get("identifier") or []
            if any(coding.get("code") == "ACSN" for coding in (identifier.get("type") or {}).get("coding") or [])
        ]

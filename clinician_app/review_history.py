"""What became of a report: the model's own version as it stood before any person acted, and each act since."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clinician_app.compartment import belongs_to
from clinician_app.fhir_values import Moment, Resource, moment, objects, reference_id, text
from clinician_app.report import Report, read_report
from fhir_adapter.client import FhirClient
from fhir_adapter.diagnostic_report import OPEN_STATUSES

__all__ = ["PastAct", "ReviewHistory", "review_history"]

_MOST_FINDINGS = 60
_DEVICE = "Device/"


@dataclass(frozen=True)
class PastAct:
    """One act of a person.

    Parameters
    ----------
    when : Moment or None
        When it was recorded.
    who : str
        The person.
    status : str
        Status of the report after it.
    reason : str
        Why; '' where none was needed.
    """

    when: Moment | None
    who: str
    status: str
    reason: str


@dataclass(frozen=True)
class ReviewHistory:
    """The model's original, None where the service no longer keeps it, and the acts, the latest first."""

    original: Report | None
    acts: tuple[PastAct, ...]


def review_history(client: FhirClient, report_id: str, patient: str) -> ReviewHistory:
    """Read the history of a report of the patient's.

    Parameters
    ----------
    client : FhirClient
        The imaging FHIR service.
    report_id : str
        A report that was found in the patient's chart.
    patient : str
        Id of the Patient there; versions that say another are left out.
    """
    base = client.base_url
    versions = [
        item for item in client.history("DiagnosticReport", report_id) if item and belongs_to(item, patient, base)
    ]
    first_open = next((item for item in versions if item.get("status") in OPEN_STATUSES), None)
    original = _original(client, first_open, patient) if first_open else None
    return ReviewHistory(original, tuple(_acts(client, report_id, versions)))


def _original(client: FhirClient, report: Resource, patient: str) -> Report:
    base = client.base_url
    names = [reference_id(item, "Observation", base) for item in objects(report.get("result"))]
    observations: dict[str, Resource] = {}
    for name in [name for name in names if name][:_MOST_FINDINGS]:
        for version in client.history("Observation", name):
            if version.get("status") in OPEN_STATUSES and belongs_to(version, patient, base):
                observations[name] = version
                break
    return read_report(report, observations, base)


def _acts(client: FhirClient, report_id: str, versions: Sequence[Resource]) -> list[PastAct]:
    """Return the acts that Provenance tells of; each names the version that it changed."""
    order = [text((item.get("meta") or {}).get("versionId"), 64) for item in versions]
    after = {older: versions[index] for index, older in enumerate(order[1:])}  # newest first: the one before is newer
    found = []
    for provenance in client.search("Provenance", {"target": f"DiagnosticReport/{report_id}", "_count": "100"}):
        if provenance.get("resourceType") != "Provenance":
            continue
        before = _version_before(provenance, report_id)
        agent = next(iter(objects(provenance.get("agent"))), {})
        who = agent.get("who")
        person: Resource = who if isinstance(who, dict) else {}
        if before is None or text(person.get("reference")).startswith(_DEVICE):
            continue
        reasons = [text(item.get("text")) for item in objects(provenance.get("reason"))]
        found.append(
            PastAct(
                moment(provenance.get("recorded")),
                text(person.get("display"), 200),
                text(after.get(before, {}).get("status"), 32),
                next((reason for reason in reasons if reason), ""),
            )
        )
    return sorted(found, key=lambda act: act.when.sort_key if act.when else (0, 0, 0, 0.0), reverse=True)


def _version_before(provenance: Resource, report_id: str) -> str | None:
    marker = f"DiagnosticReport/{report_id}/_history/"
    for entity in objects(provenance.get("entity")):
        what = entity.get("what")
        named = text(what.get("reference"), 300) if isinstance(what, dict) else ""
        if entity.get("role") == "revision" and marker in named:
            return named.rpartition(marker)[2]
    return None

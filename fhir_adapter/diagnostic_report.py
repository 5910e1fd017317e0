"""The DiagnosticReport of one study and task (R1, R9)."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from typing import Any

from fhir_adapter.client import Resource
from fhir_adapter.examination import Examination
from fhir_adapter.findings import AnalysisResult
from fhir_adapter.identity import report_role, resource_id
from fhir_adapter.terminology import (
    AIAST,
    CATEGORY_RADIOLOGY_LOINC,
    CATEGORY_RADIOLOGY_V2,
    SCT,
    Code,
    procedure,
)
from fhir_adapter.wording import conclusion, phrase

__all__ = ["OPEN_STATUSES", "REPORT_SYSTEM", "build", "is_open", "narrative", "report_id", "with_document"]

REPORT_SYSTEM = "urn:imaging:report"
"""System of a report's identifier ``<study UID>/<task>/<revision>``, also the folder of its files in `results`."""
OPEN_STATUSES = ("registered", "partial", "preliminary")
"""What nobody has signed or rejected; everything else is never written by the machine (R7)."""
_PDF = "application/pdf"


def report_id(study_uid: str, task: str, revision: int) -> str:
    """Return the id of a report."""
    return resource_id(study_uid, report_role(task), revision)


def build(
    result: AnalysisResult,
    examination: Examination,
    observations: Sequence[str],
    media: str | None,
    revision: int,
    issued: str,
) -> Resource:
    """Return the report, without the data of its document (see `with_document`).

    Parameters
    ----------
    observations : sequence of str
        ``Observation/<id>`` of each finding.
    media : str or None
        ``Media/<id>`` of the key image.
    issued : str
        FHIR instant.
    """
    said = conclusion(result)
    resource: Resource = {
        "resourceType": "DiagnosticReport",
        "id": report_id(result.study_uid, result.task, revision),
        "meta": {"security": [AIAST.coding()]},
        "language": result.language,
        "text": {"status": "generated", "div": narrative(said, result.language)},
        "identifier": [
            {"use": "official", "system": REPORT_SYSTEM, "value": result.revision_path(revision)},
            *examination.accession,
            *_structured_report(result, revision),
        ],
        "status": "preliminary",
        "category": [CATEGORY_RADIOLOGY_V2.concept(), CATEGORY_RADIOLOGY_LOINC.concept()],
        "code": _code(result, examination).concept(),
        **examination.shared(result),
        "issued": issued,
        "conclusion": said,
        "presentedForm": [
            {"contentType": _PDF, "language": result.language, "title": phrase("title", result.language)}
        ],
    }
    if result.site_name:
        resource["performer"] = [{"type": "Organization", "display": result.site_name}]
    if observations:
        resource["result"] = [{"reference": item} for item in observations]
    if examination.imaging_study:
        resource["imagingStudy"] = examination.imaging_study
    if examination.based_on:
        resource["basedOn"] = examination.based_on
    if media:
        resource["media"] = [{"comment": phrase("key-image", result.language), "link": {"reference": media}}]
    present = [finding for finding in result.findings if finding.state == "present"]
    if present:
        resource["conclusionCode"] = [
            Code(finding.system, finding.code, finding.display).concept(finding.text(result.language))
            for finding in present
        ]
    return resource


def _structured_report(result: AnalysisResult, revision: int) -> list[dict[str, Any]]:
    """Name the DICOM SR that says the same (R8); there is none where nothing was assessed."""
    if not (result.assessed and result.study_uid):
        return []
    uid = result.object_uid("sr", revision)
    return [{"use": "secondary", "system": "urn:dicom:uid", "value": f"urn:oid:{uid}"}]


def with_document(report: Resource, document: bytes, media_type: str = _PDF) -> Resource:
    """Return the report with its readable form inside."""
    form: dict[str, Any] = {**report["presentedForm"][0], "contentType": media_type}
    form["data"] = base64.b64encode(document).decode()
    return {**report, "presentedForm": [form]}


def is_open(report: Resource) -> bool:
    """Return whether the machine may write this report: it made it, nobody has signed or rejected it (R7)."""
    made = any(item.get("system") == REPORT_SYSTEM for item in report.get("identifier") or [])
    return made and report.get("status") in OPEN_STATUSES


def _code(result: AnalysisResult, examination: Examination) -> Code:
    study = examination.study or {}
    modalities = result.modalities or tuple(str(item.get("code")) for item in study.get("modality") or [])
    images = len(result.instances) or int(study.get("numberOfInstances") or 0)
    part = result.body_part or ("CHEST" if _is_chest(study) else "")
    return procedure(frozenset(modalities) - {"SR", "PR", "KO", "SC"}, part.upper(), images, result.portable)


def _is_chest(study: Resource) -> bool:
    sites = [series.get("bodySite") or {} for series in study.get("series") or []]
    return any(
        site.get("system") == SCT and site.get("code") in ("816094009", "39607008", "51185008") for site in sites
    )


def narrative(said: str, language: str) -> str:
    """Return a report's words as XHTML, for ``text.div``."""
    lines = "".join(f"<p>{html.escape(line, quote=False)}</p>" for line in said.split("\n"))
    return f'<div xmlns="http://www.w3.org/1999/xhtml" lang="{language}" xml:lang="{language}">{lines}</div>'

"""Write `docs/fhir.md` from the code: each resource with an example, and the searches for EHR systems.

``python -m tests.fhir_page``; a test fails where the page is out of date, another one runs its commands.
"""

from __future__ import annotations

import base64
import json
import re
import sys
from pathlib import Path
from typing import Any

from fhir_adapter import imaging_study, results
from fhir_adapter.audit_event import Agent
from fhir_adapter.audit_event import build as audit_event
from fhir_adapter.endpoint import build as endpoint
from fhir_adapter.findings import AnalysisResult, Finding, InputImage, ModelInfo
from fhir_adapter.identity import patient_id
from fhir_adapter.imaging_study_map import INSTANCE_RULES, SERIES_RULES, STUDY_RULES
from fhir_adapter.patient import build as patient
from fhir_adapter.patient import identity_of
from imaging_core.sites import Site

__all__ = ["PAGE", "SEARCHES", "examples", "page"]

PAGE = Path(__file__).parents[1] / "docs" / "fhir.md"
_SITE = Site("Example hospital", "https://hospital.example/patient-numbers", "Europe/Paris")
_AT = "2026-01-05T09:12:33.000Z"
_DATA = re.compile(r'("data": "[^"]{60})[^"]*"')
# a picture of one pixel, whose bytes no library's version changes
_PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)

SEARCHES: list[tuple[str, str]] = [
    ("A patient's imaging reports", "DiagnosticReport?patient=$PATIENT&category=RAD"),
    ("the same by LOINC's category", "DiagnosticReport?patient=$PATIENT&category=http://loinc.org|LP29684-5"),
    ("since a day", "DiagnosticReport?patient=$PATIENT&date=ge2024-01-01"),
    ("changed since", "DiagnosticReport?patient=$PATIENT&_lastUpdated=ge2024-01-01"),
    ("not yet signed", "DiagnosticReport?patient=$PATIENT&status=preliminary"),
    (
        "with findings, patient and key image",
        "DiagnosticReport?patient=$PATIENT&_include=DiagnosticReport:result&_include=DiagnosticReport:subject"
        "&_include=DiagnosticReport:media",
    ),
    ("of one accession number", "DiagnosticReport?patient=$PATIENT&identifier=$ACCESSION"),
    ("A patient's findings, ten a page", "Observation?patient=$PATIENT&category=imaging&_count=10"),
    ("A study by its UID", "ImagingStudy?identifier=urn:dicom:uid|urn:oid:$STUDY"),
    ("with the address of its images", "ImagingStudy?patient=$PATIENT&_include=ImagingStudy:endpoint"),
    ("A patient by number", "Patient?identifier=$ASSIGNER|$NUMBER"),
]


def examples() -> dict[str, dict[str, Any]]:
    """Return one of each resource, the same at every call."""
    header = _header()
    key, details, _ = identity_of([header], "create", _SITE)
    assert key is not None
    subject = f"Patient/{patient_id(key.system, key.value)}"
    address = endpoint("https://app.example/dicomweb")
    study = imaging_study.build([header], subject=subject, site=_SITE, endpoint=f"Endpoint/{address['id']}")
    person = patient(key, details[0])
    bundle = results.bundle(_result(header), study=study, patient=person)
    found = {"Patient": person, "Endpoint": address, "ImagingStudy": study}
    found |= {entry["resource"]["resourceType"]: entry["resource"] for entry in bundle["entry"]}
    app = Agent("imaging-app", "https://ehr.example/fhir", "Example EHR", "192.0.2.7")
    user = Agent("sub-1", "https://ehr.example/fhir", "Dr Marie Curie")
    found["AuditEvent"] = audit_event(
        "report-read",
        client=app,
        server=Agent("clinician_app", address="app.example"),
        observer="clinician_app",
        user=user,
        patient=subject,
        what=f"DiagnosticReport/{found['DiagnosticReport']['id']}",
        trace_id="0af7651916cd43dd8448eb211c80319c",
        recorded=_AT,
    )
    return found


def _header() -> dict[str, Any]:
    text = {
        "00080016": ("UI", "1.2.840.10008.5.1.4.1.1.1"),
        "00080018": ("UI", "1.2.840.99.1.1.1"),
        "0020000D": ("UI", "1.2.840.99.1"),
        "0020000E": ("UI", "1.2.840.99.1.1"),
        "00080020": ("DA", "20260105"),
        "00080030": ("TM", "101200"),
        "00080050": ("SH", "A1001"),
        "00080060": ("CS", "CR"),
        "00081030": ("LO", "Chest PA"),
        "00100020": ("LO", "4711"),
        "00100030": ("DA", "19700131"),
        "00100040": ("CS", "F"),
        "00180015": ("CS", "CHEST"),
    }
    header: dict[str, Any] = {tag: {"vr": vr, "Value": [value]} for tag, (vr, value) in text.items()}
    header["00100010"] = {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane"}]}
    return header


def _result(header: dict[str, Any]) -> AnalysisResult:
    sop_uid, series_uid = header["00080018"]["Value"][0], header["0020000E"]["Value"][0]
    model = ModelInfo(
        "chest-opacity",
        "1.0.0",
        sha256="ab" * 32,
        manufacturer="Example maker",
        title_en="Lung opacity",
        model_card_url="https://app.example/models/chest-opacity/1.0.0",
        summary_en="Trained on adult frontal chest radiographs.",
    )
    finding = Finding(
        "409609008",
        "Radiologic infiltrate of lung",
        0.83,
        0.5,
        "present",
        key="lung-opacity",
        text_en="Lung opacity (possible pneumonia)",
        body_site="39607008",
        body_site_display="Lung",
    )
    return AnalysisResult(
        "1.2.840.99.1",
        "chest-opacity",
        model,
        (finding,),
        instances=(InputImage(sop_uid, series_uid, "cd" * 32),),
        created=_AT,
        site_name=_SITE.name,
        modalities=("CR",),
        body_part="CHEST",
        key_image=sop_uid,
        key_image_picture=_PICTURE,
    )


NOTES: dict[str, str] = {
    "Patient": "Made by intake only where policy `create` holds and nobody on file has the number (P3); tagged so. "
    "A Patient of others is never written (P5).",
    "Endpoint": "The site's DICOMweb service; `requires-access-token` is of SMART Imaging Access.",
    "ImagingStudy": "From the headers of all instances that are held (table below).",
    "DiagnosticReport": "US Core DiagnosticReport note exchange. `preliminary` until a person signs. `identifier`: the "
    "report's path, the accession number, and the SOP Instance UID of the DICOM SR that says the same (R8). IHE IMR: "
    "`imagingStudy`, `basedOn`, `presentedForm` (PDF), `media` (key image).",
    "Observation": "US Core Observation clinical result. One per finding and study; `value` and `interpretation` say "
    "present, absent or indeterminate, the components say by which numbers. AI Transparency on FHIR: `AIAST`, the "
    "model as `device`, its confidence as component.",
    "Media": "The key image with the map over it; `identifier`: the image, and the Secondary Capture of the same.",
    "Provenance": "AI Transparency on FHIR, AIProvenance as far as R4 allows: target, reason `AIAST`, the Device as "
    "agent, the input images with their SHA-256 and the model card as entities.",
    "Device": "AI Transparency on FHIR, AIDevice as far as R4 allows: one per model version, with its model card.",
    "AuditEvent": "IHE BALP. Reads that an EHR makes at the FHIR service itself are in that service's own log: on "
    "Azure the service's diagnostic setting sends it to Log Analytics (category AuditLogs).",
}


def page() -> str:
    """Return the page."""
    lines = [
        "# FHIR for EHR systems",
        "",
        "FHIR R4 (4.0.1). Written from the code by `python -m tests.fhir_page`; a test fails where it is out of date,",
        "the examples are judged by two validators of others, and a test runs each search against two FHIR servers.",
        "",
        "## Searches",
        "",
        "```sh",
    ]
    for what, search in SEARCHES:
        lines += [f"# {what}", f'curl -sfgH "Authorization: Bearer $TOKEN" "$FHIR/{search}"']
    lines += [
        "```",
        "",
        "Follow `link` of relation `next` for more than a page. The address of the images is `Endpoint.address` of the",
        "ImagingStudy; DICOM SR and heatmap of a report lie in the same study.",
        "",
        "## Which of our writes an EHR can rely on",
        "",
        "- Ids are deterministic: the same study gives the same ids for ever (UUIDv5 over its UID, role and revision).",
        "- A report with status `final`, `amended`, `corrected` or `cancelled` is never written by the machine. What",
        "  is new after a signature is a new preliminary report, whose Provenance points at the signed one.",
        "- What a model wrote carries the security label `AIAST`. Nobody but a person sets `final`.",
        "- Writes are PUT under `If-Match`, in transactions of at most 100 entries; conditional create is not used.",
        "",
        "## DICOM results",
        "",
        "| object | SOP class | says |",
        "|---|---|---|",
        "| `sr.dcm` | Comprehensive 3D SR, TID 1500, UNVERIFIED | each finding as TID 1501 group: state, probability, "
        "thresholds, algorithm (TID 4019), source images; tracking identifier = the Observation's identifier |",
        "| `sc.dcm` | Secondary Capture, JPEG baseline | the key image with the map over it |",
        "| `sr.signed.<version>.dcm` | the same, VERIFIED | findings as the signer left them; signer and predecessor |",
        "",
        "Their UIDs are `2.25.` and a UUIDv5; Contributing Equipment names the manufacturer `imaging`, by which they",
        "are known as results and never count as input. Arabic letters of a name are not joined in the PDF; the other",
        "alphabets are as they are written.",
        "",
        "## ImagingStudy from DICOM",
        "",
        "| item | element | attributes | source |",
        "|---|---|---|---|",
    ]
    for level, rules in (("", STUDY_RULES), ("series.", SERIES_RULES), ("series.instance.", INSTANCE_RULES)):
        for rule in rules:
            tags = ", ".join(f"({tag[:4]},{tag[4:]})" for tag in rule.sources)
            lines.append(f"| {rule.item} | {level}{rule.element} | {tags} | {rule.reference} |")
    lines += [
        "",
        "M4 is the union of M18; M5 is the matched Patient; M10, M11 and M20 are counted; M16 is the series' own UID.",
        "",
        "## Resources",
        "",
    ]
    for kind, resource in examples().items():
        shown = _DATA.sub(r'\1..."', json.dumps(resource, indent=1, ensure_ascii=False))
        lines += [f"### {kind}", "", NOTES[kind], "", "```json", shown, "```", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
    sys.stdout.write(f"{PAGE}\n")

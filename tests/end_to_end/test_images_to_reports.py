"""Real images through every door, to reports that an EHR can read."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest
from azure.storage.blob import BlobServiceClient
from pydicom import dcmread
from pydicom.uid import generate_uid

from fhir_adapter.identity import resource_id
from imaging_core.dicom.pixels import render_png
from tests.dicom_samples import instance, multipart, part10
from tests.end_to_end.conftest import Stack, sample, state_of, wait_for


def renewed(path: Path, **changes: Any) -> tuple[bytes, str, str]:
    """Return a real file under new UIDs, with its study and instance UID."""
    dataset = dcmread(path)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    return part10(dataset), str(dataset.StudyInstanceUID), str(dataset.SOPInstanceUID)


ADULT = {"PatientBirthDate": "19600101", "StudyDate": "20240102", "PatientAge": "064Y"}


def stow(ingestion: httpx.Client, *files: bytes) -> None:
    body, kind = multipart(*files)
    response = ingestion.post("/dicomweb/studies", content=body, headers={"Content-Type": kind})
    assert response.status_code == 200, response.text


def study_id(study_uid: str) -> str:
    """Return the id of a study's ImagingStudy."""
    return resource_id(study_uid, "imaging-study")


def reports(fhir: httpx.Client, study_uid: str) -> list[dict[str, Any]]:
    """Return the reports of a study, as an EHR finds them."""
    study = study_id(study_uid)
    bundle = fhir.get("/DiagnosticReport", params={"_count": "200"}).raise_for_status().json()
    return [
        entry["resource"]
        for entry in bundle.get("entry", [])
        if any(item.get("reference") == f"ImagingStudy/{study}" for item in entry["resource"].get("imagingStudy", []))
    ]


def one_report(fhir: httpx.Client, study_uid: str) -> dict[str, Any]:
    found = wait_for("the report", lambda: reports(fhir, study_uid))
    assert len(found) == 1
    return dict(found[0])


@pytest.mark.requirement("R1", "R2", "R4", "R5")
@pytest.mark.parametrize("name", ["RG1_UNCI.dcm", "RG1_J2KR.dcm"])
def test_a_chest_radiograph_ends_in_a_preliminary_report(stack: Stack, name: str) -> None:
    data, study_uid, _ = renewed(sample(name), PatientID=f"E{uuid.uuid4().hex[:8]}", **ADULT)
    with stack.client("ingestion") as ingestion, stack.client("fhir") as fhir:
        stow(ingestion, data)
        report = one_report(fhir, study_uid)
        assert report["status"] == "preliminary"
        assert any(item["code"] == "AIAST" for item in report["meta"]["security"])
        observations = [fhir.get(f"/{item['reference']}").json() for item in report["result"]]
        assert len(observations) == 1
        (found,) = observations
        assert found["valueCodeableConcept"]["coding"][0]["code"] in ("52101004", "2667000", "82334004")
        assert 0 <= found["component"][0]["valueQuantity"]["value"] <= 1
        assert fhir.get(f"/{found['device']['reference']}").json()["resourceType"] == "Device"
        patient = fhir.get(f"/{report['subject']['reference']}").json()
        assert patient["identifier"]


@pytest.mark.requirement("R3")
@pytest.mark.parametrize("name", ["RG3_J2KI.dcm", "MR_small.dcm", "CT_small.dcm"])
def test_what_no_model_is_there_for_gets_no_report(stack: Stack, name: str) -> None:
    data, study_uid, sop_uid = renewed(sample(name), PatientID=f"E{uuid.uuid4().hex[:8]}")
    with stack.client("ingestion") as ingestion, stack.client("fhir") as fhir:
        stow(ingestion, data)
        wait_for("the registered study", lambda: _study(fhir, study_uid))
        wait_for("no pending work", lambda: stack.status()["ledger"]["pending"] == 0)
        assert reports(fhir, study_uid) == []
    assert sop_uid


def _study(fhir: httpx.Client, study_uid: str) -> bool:
    return fhir.get(f"/ImagingStudy/{resource_id(study_uid, 'imaging-study')}").status_code == 200


def test_a_png_and_a_dropped_blob_end_in_reports(stack: Stack) -> None:
    picture = render_png(sample("RG1_UNCI.dcm").read_bytes())
    fields = {
        "patient_id": f"E{uuid.uuid4().hex[:8]}",
        "birth_date": "1950-01-01",
        "family": "Picture",
        "body_part": "CHEST",
        "view": "PA",
        "acquired_at": "2024-05-06T07:08:09+02:00",
    }
    with stack.client("ingestion") as ingestion, stack.client("fhir") as fhir:
        response = ingestion.post("/images", data=fields, files={"file": ("x.png", picture, "image/png")})
        assert response.status_code == 201, response.text
        answer = response.json()
        assert answer["outcome"] == "accepted"
        ended = wait_for("the analysis", lambda: state_of(ingestion, answer["intake_id"]))
        assert ended["study"]["state"] == "analysed", ended
        one_report(fhir, answer["study_uid"])

        data, study_uid, sop_uid = renewed(sample("RG1_J2KI.dcm"), PatientID=f"E{uuid.uuid4().hex[:8]}", **ADULT)
        blobs = BlobServiceClient.from_connection_string(stack.status()["parts"]["blob"]["token"])
        blobs.get_blob_client("incoming", f"hand/{sop_uid}").upload_blob(data)
        one_report(fhir, study_uid)


def test_sending_again_changes_nothing(stack: Stack) -> None:
    data, study_uid, _ = renewed(sample("RG1_UNCI.dcm"), PatientID=f"E{uuid.uuid4().hex[:8]}", **ADULT)
    with stack.client("ingestion") as ingestion, stack.client("fhir") as fhir:
        stow(ingestion, data)
        one_report(fhir, study_uid)
        wait_for("no pending work", lambda: stack.status()["ledger"]["pending"] == 0)
        before = versions(fhir)
        for _ in range(3):
            stow(ingestion, data)
        wait_for("no pending work", lambda: stack.status()["ledger"]["pending"] == 0)
        assert versions(fhir) == before


def versions(fhir: httpx.Client) -> dict[str, str]:
    """Return the version of every resource of the clinical record."""
    found: dict[str, str] = {}
    for kind in (
        "Patient",
        "ImagingStudy",
        "Endpoint",
        "DiagnosticReport",
        "Observation",
        "Device",
        "Provenance",
        "Media",
    ):
        url: str | None = f"/{kind}?_count=200"
        while url:
            bundle = fhir.get(url).raise_for_status().json()
            for entry in bundle.get("entry", []):
                resource = entry["resource"]
                found[f"{kind}/{resource['id']}"] = resource["meta"]["versionId"]
            url = next((link["url"] for link in bundle.get("link", []) if link["relation"] == "next"), None)
    return found


def test_one_trace_from_upload_to_report(stack: Stack) -> None:
    data, study_uid, _ = renewed(sample("RG1_UNCI.dcm"), PatientID=f"E{uuid.uuid4().hex[:8]}", **ADULT)
    trace_id = uuid.uuid4().hex
    body, kind = multipart(data)
    with stack.client("ingestion") as ingestion, stack.client("fhir") as fhir:
        headers = {"Content-Type": kind, "traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
        assert ingestion.post("/dicomweb/studies", content=body, headers=headers).status_code == 200
        one_report(fhir, study_uid)
    parts = stack.status()["parts"]
    for part in ("ingestion", "ai"):
        lines = [json.loads(line) for line in Path(parts[part]["log"]).read_text().splitlines() if trace_id in line]
        assert lines, f"the log of {part} does not hold the trace"


@pytest.mark.requirement("D43")
def test_no_log_holds_what_identifies_a_patient(stack: Stack) -> None:
    marker = uuid.uuid4().hex[:10].upper()
    data, study_uid, sop_uid = renewed(
        sample("RG1_UNCI.dcm"),
        PatientName=f"Marker{marker}^Given{marker}",
        PatientID=f"ID{marker}",
        AccessionNumber=f"AC{marker}"[:16],
        **ADULT,
    )
    with stack.client("ingestion") as ingestion, stack.client("fhir") as fhir:
        stow(ingestion, data)
        one_report(fhir, study_uid)
        stow(ingestion, part10(instance(PatientName=f"Marker{marker}")))
    for part in stack.status()["parts"].values():
        log = Path(part["log"]).read_text(errors="replace")
        assert marker not in log, part["log"]
        assert study_uid not in log, part["log"]
        assert sop_uid not in log, part["log"]


def test_the_accounting_holds(stack: Stack) -> None:
    wait_for("no pending work", lambda: stack.status()["ledger"]["pending"] == 0)
    environment = stack.environment | {"IMAGING_DATA_DIR": str(stack.folder)}
    done = Stack(stack.folder, environment).run("intake", "check", check=False)
    assert done.returncode == 0, done.stdout + done.stderr

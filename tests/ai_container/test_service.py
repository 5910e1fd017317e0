from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse

import ai_container
from ai_container.activation import Pinned, TaskModels, change
from ai_container.app import Parts, create_app
from fhir_adapter.client import FhirClient
from fhir_adapter.identity import IMAGING_STUDY, report_role, resource_id
from imaging_core.blobs import BlobStore
from imaging_core.dicom.pixels import decode, render
from imaging_core.errors import Permanent
from imaging_core.settings import Settings
from tests.ai_container.conftest import CHILDREN, bundle_folder, changed, sample

CODE = "409609008"


@pytest.fixture(scope="session")
def app(settings: Settings) -> Flask:
    # other tests activate models meanwhile: this service shall not take them over
    return create_app(settings, Parts(settings.model_copy(update={"model_poll_s": 3600.0})))


@pytest.fixture(scope="session")
def token(settings: Settings) -> str:
    return settings.ai_token.get_secret_value()


@pytest.fixture
def client(app: Flask, token: str) -> Iterator[FlaskClient]:
    with app.test_client() as opened:
        opened.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {token}"
        yield opened


class Study:
    """A study of some instances: their blobs, and its ImagingStudy."""

    def __init__(self, uid: str, blobs: BlobStore) -> None:
        self.uid = uid
        self._blobs = blobs
        self.instances: list[dict[str, str]] = []
        self._modalities: list[str] = []

    def add(self, data: bytes, modality: str, **attributes: object) -> str:
        number = len(self.instances) + 1
        sop_uid, series_uid = f"{self.uid}.1.{number}", f"{self.uid}.1"
        stored = changed(
            data, StudyInstanceUID=self.uid, SeriesInstanceUID=series_uid, SOPInstanceUID=sop_uid, **attributes
        )
        blob = f"{self.uid}/{series_uid}/{sop_uid}.dcm"
        self._blobs.put("images", blob, stored, content_type="application/dicom")
        self.instances.append({"sop_uid": sop_uid, "blob": blob})
        self._modalities.append(modality)
        return sop_uid

    def register(self, fhir: FhirClient) -> None:
        patient = {"resourceType": "Patient", "id": f"p-{resource_id(self.uid, 'test')[:20]}"}
        fhir.update(patient)
        series = [
            {
                "uid": f"{self.uid}.{number}",
                "modality": {"system": "http://dicom.nema.org/resources/ontology/DCM", "code": modality},
                "instance": [{"uid": item["sop_uid"], "sopClass": {"code": "urn:oid:1.2.840.10008.5.1.4.1.1.1"}}],
            }
            for number, (item, modality) in enumerate(zip(self.instances, self._modalities, strict=True), 1)
        ]
        fhir.update(
            {
                "resourceType": "ImagingStudy",
                "id": resource_id(self.uid, IMAGING_STUDY),
                "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{self.uid}"}],
                "status": "available",
                "subject": {"reference": f"Patient/{patient['id']}"},
                "started": "2004-08-26",
                "series": series,
            }
        )

    def request(self, **changes: Any) -> dict[str, Any]:
        return {"study_uid": self.uid, "instances": self.instances, "publish": True, **changes}


@pytest.fixture
def study(blob_store: BlobStore, fresh_uid: str) -> Study:
    return Study(fresh_uid[:40], blob_store)


def ok(response: TestResponse) -> dict[str, Any]:
    assert response.status_code == 200, response.get_data(as_text=True)
    found: dict[str, Any] = json.loads(response.data)
    return found


def problem(response: TestResponse, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.get_data(as_text=True)
    assert response.content_type.startswith("application/problem+json")
    found: dict[str, Any] = json.loads(response.data)
    assert found["code"] == code
    assert found["status"] == status
    assert set(found) == {"type", "title", "status", "detail", "code", "trace_id"}
    return found


@pytest.mark.requirement("R1", "R2", "R9", "I1")
def test_analysis_is_published_and_doing_it_again_changes_nothing(
    client: FlaskClient, study: Study, chest: bytes, fhir_client: FhirClient, blob_store: BlobStore
) -> None:
    sop_uid = study.add(chest, "CR")
    study.register(fhir_client)
    answer = ok(client.post("/v1/analyses", json=study.request()))
    (finding,) = answer["findings"]
    assert finding["code"] == CODE
    assert finding["state"] in ("present", "indeterminate")
    assert 0 < finding["probability"] < 1
    assert answer["not_analysed"] == []
    assert {"read", "decode", "gate", "model", "publish", "total"} <= set(answer["timings_ms"])
    report_id = resource_id(study.uid, report_role("chest-opacity"))
    assert f"DiagnosticReport/{report_id}" in answer["resources"]
    report = fhir_client.read("DiagnosticReport", report_id)
    assert report
    assert report["status"] == "preliminary"

    folder = f"{study.uid}/chest-opacity/0"
    for name in ("result.json", "heatmap.png", "heatmap.npy"):
        assert answer["artifacts"][name] == f"results/{folder}/{name}"
    result = json.loads(blob_store.get("results", f"{folder}/result.json"))
    assert result["key_image"] == sop_uid
    assert result["per_image"] == [{"sop_uid": sop_uid, "finding": CODE, "probability": finding["probability"]}]
    assert {"en": "Pneumothorax", "fr": "Pneumothorax"} in result["not_assessed"]
    (instance,) = result["instances"]
    assert (instance["rows"], instance["columns"], instance["analysed"]) == (1955, 1841, True)
    with Image.open(io.BytesIO(blob_store.get("results", f"{folder}/heatmap.png"))) as picture:
        assert picture.convert("RGBA").getextrema()[3] == (0, 153)
        assert picture.width / picture.height == pytest.approx(1841 / 1955, rel=0.01)
    strength = np.load(io.BytesIO(blob_store.get("results", f"{folder}/heatmap.npy")))
    assert strength.shape == (14, 14)

    again = ok(client.post("/v1/analyses", json=study.request()))
    assert again["resources"] == answer["resources"]
    assert again["findings"] == answer["findings"]
    after = fhir_client.read("DiagnosticReport", report_id)
    assert after
    assert after["meta"]["versionId"] == report["meta"]["versionId"]


@pytest.mark.requirement("R2")
def test_the_largest_probability_is_the_study_s(
    client: FlaskClient, study: Study, chest: bytes, fhir_client: FhirClient
) -> None:
    """Two frontal images and a lateral: one finding, two values, the lateral named; the order changes nothing."""
    study.add(chest, "CR")
    pixels = np.frombuffer(chest, np.uint8)  # only to make the second image another one
    assert pixels.size
    study.add(sample("RG1_J2KI.dcm"), "CR")
    lateral = study.add(chest, "CR", ViewPosition="LL")
    study.register(fhir_client)
    answer = ok(client.post("/v1/analyses", json=study.request()))
    assert answer["not_analysed"] == [{"sop_uid": lateral, "reason": "not-frontal"}]
    study.instances.reverse()
    assert ok(client.post("/v1/analyses", json=study.request()))["findings"] == answer["findings"]
    observation = next(name for name in answer["resources"] if name.startswith("Observation/"))
    stored = fhir_client.read("Observation", observation.partition("/")[2])
    assert stored
    assert stored["status"] == "preliminary"


@pytest.mark.requirement("R3")
def test_what_the_model_was_not_made_for_gets_a_report_without_finding(
    client: FlaskClient, study: Study, chest: bytes, fhir_client: FhirClient
) -> None:
    study.add(chest, "CR", PatientBirthDate="20000305")
    study.register(fhir_client)
    answer = ok(client.post("/v1/analyses", json=study.request()))
    assert answer["findings"] == []
    assert [item["reason"] for item in answer["not_analysed"]] == ["child"]
    observation = next(name for name in answer["resources"] if name.startswith("Observation/"))
    stored = fhir_client.read("Observation", observation.partition("/")[2])
    assert stored
    assert "dataAbsentReason" in stored
    assert "valueCodeableConcept" not in stored


@pytest.mark.requirement("R3")
def test_an_examination_without_a_model_gets_no_report(
    client: FlaskClient, study: Study, fhir_client: FhirClient
) -> None:
    study.add(sample("RG3_UNCR.dcm"), "CR")
    study.register(fhir_client)
    answer = ok(client.post("/v1/analyses", json=study.request()))
    assert [item["reason"] for item in answer["not_analysed"]] == ["no-model"]
    assert answer["resources"] == []
    assert answer["artifacts"] == {}
    assert answer["model"] is None
    assert fhir_client.read("DiagnosticReport", resource_id(study.uid, report_role("chest-opacity"))) is None


def test_what_no_model_takes_is_not_even_read(client: FlaskClient, study: Study, fhir_client: FhirClient) -> None:
    study.add(sample("MR2_UNCR.dcm"), "MR")
    study.register(fhir_client)
    study.instances[0]["blob"] = f"{study.uid}/there/is/no/such.dcm"
    answer = ok(client.post("/v1/analyses", json=study.request()))
    assert [item["reason"] for item in answer["not_analysed"]] == ["no-model"]


def test_a_broken_instance_does_not_stop_its_study(
    client: FlaskClient, study: Study, chest: bytes, blob_store: BlobStore, fhir_client: FhirClient
) -> None:
    study.add(chest, "CR")
    broken = study.add(sample("RG1_J2KR.dcm"), "CR")
    blob = study.instances[1]["blob"]
    data = blob_store.get("images", blob)
    blob_store.put("images", blob, data[: len(data) // 2])
    study.register(fhir_client)
    answer = ok(client.post("/v1/analyses", json=study.request()))
    assert answer["not_analysed"] == [{"sop_uid": broken, "reason": "pixels-unreadable"}]
    assert len(answer["findings"]) == 1


def test_a_study_that_is_not_registered_may_be_tried_again(client: FlaskClient, study: Study, chest: bytes) -> None:
    study.add(chest, "CR")
    response = client.post("/v1/analyses", json=study.request())
    problem(response, 409, "study-not-registered")
    assert int(response.headers["Retry-After"]) > 0


def test_without_publishing_nothing_is_written(
    client: FlaskClient, study: Study, chest: bytes, blob_store: BlobStore
) -> None:
    study.add(chest, "CR")
    answer = ok(client.post("/v1/analyses", json=study.request(publish=False)))
    assert len(answer["findings"]) == 1
    assert answer["resources"] == []
    assert list(blob_store.list("results", study.uid)) == []


def test_fhir_bundle_on_demand(client: FlaskClient, study: Study, chest: bytes) -> None:
    study.add(chest, "CR")
    response = client.post(
        "/v1/analyses", json=study.request(publish=False), headers={"Accept": "application/fhir+json"}
    )
    assert response.content_type == "application/fhir+json"
    types = {entry["resource"]["resourceType"] for entry in ok(response)["entry"]}
    assert {"DiagnosticReport", "Observation", "Device"} <= types


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"study_uid": None}, 400, "missing-field"),
        ({"study_uid": "../1"}, 400, "bad-uid"),
        ({"instances": []}, 400, "missing-field"),
        ({"instances": ["x"]}, 400, "bad-field"),
        ({"instances": [{"sop_uid": "1.2", "blob": "9.9.9/other/study.dcm"}]}, 400, "bad-field"),
        ({"model": "chest-opacity"}, 400, "bad-field"),
        ({"model": "chest-opacity:0.0.0", "publish": False}, 404, "not-found"),
        ({"publish": "yes"}, 400, "bad-field"),
    ],
)
def test_bad_requests(
    client: FlaskClient, study: Study, chest: bytes, change: dict[str, Any], status: int, code: str
) -> None:
    study.add(chest, "CR")
    problem(client.post("/v1/analyses", json=study.request(**change)), status, code)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff"])
def test_a_body_that_is_no_request(client: FlaskClient, body: bytes) -> None:
    problem(client.post("/v1/analyses", data=body, content_type="application/json"), 400, "bad-field")


def test_a_blob_with_another_instance_is_refused(client: FlaskClient, study: Study, chest: bytes) -> None:
    study.add(chest, "CR")
    study.instances[0]["sop_uid"] = "1.2.3"
    problem(client.post("/v1/analyses", json=study.request(publish=False)), 400, "uid-mismatch")


@pytest.mark.parametrize("authorization", ["", "Bearer ", "Bearer wrong", "Basic eDp5", "bearer"])
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/analyses"), ("POST", "/v1/analyses:preview"), ("GET", "/v1/models")]
)
def test_a_token_is_needed(app: Flask, method: str, path: str, authorization: str) -> None:
    response = app.test_client().open(path, method=method, headers={"Authorization": authorization})
    problem(response, 401, "unauthenticated")
    assert response.headers["WWW-Authenticate"] == "Bearer"


def test_problems_in_french(app: Flask) -> None:
    response = app.test_client().get("/v1/models", headers={"Accept-Language": "fr"})
    assert problem(response, 401, "unauthenticated")["title"] == "Un jeton d'accès valide est requis."


def test_a_service_without_a_token_does_not_start(settings: Settings) -> None:
    with pytest.raises(Permanent, match="AI_TOKEN"):
        create_app(settings.model_copy(update={"ai_token": type(settings.ai_token)("")}))


def test_health_readiness_metrics_and_models(app: Flask, client: FlaskClient) -> None:
    anonymous = app.test_client()
    assert anonymous.get("/healthz").status_code == 200
    client.get("/v1/models")  # waits for the models
    assert anonymous.get("/readyz").status_code == 200
    (model,) = [item for item in ok(client.get("/v1/models"))["models"] if item["active"]]
    assert model["name"] == "chest-opacity"
    assert model["outputs"][0]["code"] == CODE
    assert len(model["files"]["weights.tflite"]) == 64
    text = anonymous.get("/metrics").get_data(as_text=True)
    assert "ai_model_ready 1.0" in text
    assert "ai_requests_total" in text


def test_not_ready_while_models_load(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    load = Parts._load

    def slow(self: Parts) -> None:
        go.wait(30)
        load(self)

    monkeypatch.setattr(Parts, "_load", slow)
    parts = Parts(settings)
    anonymous = create_app(settings, parts).test_client()
    assert anonymous.get("/healthz").status_code == 200
    problem(anonymous.get("/readyz"), 503, "service-unavailable")
    go.set()
    parts.analyser(wait_s=60)
    assert anonymous.get("/readyz").status_code == 200


def test_preview_of_dicom(client: FlaskClient, chest: bytes) -> None:
    answer = ok(client.post("/v1/analyses:preview?heatmap=true", data=chest, content_type="application/dicom"))
    assert answer["findings"][0]["code"] == CODE
    with Image.open(io.BytesIO(base64.b64decode(answer["heatmap_png"]))) as picture:
        assert picture.convert("RGBA").getextrema()[3] == (0, 153)


@pytest.mark.requirement("R3")
def test_preview_of_a_picture(client: FlaskClient, chest: bytes) -> None:
    """A picture has no header: without an age an adult is assumed and the answer says so; a child is refused."""
    out = io.BytesIO()
    Image.fromarray(render(decode(chest))).save(out, "PNG")
    picture = {"data": out.getvalue(), "content_type": "image/png"}
    answer = ok(client.post("/v1/analyses:preview", **picture))
    assert answer["assumed"] == ["adult"]
    child = ok(client.post("/v1/analyses:preview?age=4", **picture))
    assert [item["reason"] for item in child["not_analysed"]] == ["child"]
    aged = ok(client.post("/v1/analyses:preview?age=64", **picture))
    direct = ok(client.post("/v1/analyses:preview", data=chest, content_type="application/dicom"))
    assert aged["findings"][0]["probability"] == pytest.approx(direct["findings"][0]["probability"], abs=1e-3)


@pytest.mark.parametrize(
    ("body", "media_type", "status", "code"),
    [
        (b"", "application/dicom", 400, "empty-body"),
        (b"x" * 200, "application/dicom", 400, "not-dicom"),
        (b"GIF89a", "image/png", 415, "not-an-image"),
        (b"GIF89a", "image/gif", 415, "unsupported-media-type"),
    ],
)
def test_preview_of_what_is_no_image(client: FlaskClient, body: bytes, media_type: str, status: int, code: str) -> None:
    problem(client.post("/v1/analyses:preview?age=50", data=body, content_type=media_type), status, code)


def test_the_trace_goes_on(client: FlaskClient, study: Study) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    response = client.post("/v1/analyses", json={}, headers={"traceparent": parent})
    assert problem(response, 400, "missing-field")["trace_id"] == "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.requirement("R3")
def test_what_nobody_looked_for_is_listed(
    client: FlaskClient, study: Study, chest: bytes, fhir_client: FhirClient, blob_store: BlobStore
) -> None:
    """Of ChestX-ray14's findings those that no model covers; where the gate refuses, all fourteen."""
    study.add(chest, "CR")
    study.register(fhir_client)
    answer = ok(client.post("/v1/analyses", json=study.request()))
    words = {text["en"]: text["fr"] for text in answer["not_assessed"]}
    assert len(words) == 11
    assert words["Pleural effusion"] == "Épanchement pleural"
    assert not {"Pneumonia", "Consolidation", "Infiltration"} & set(words)
    result = json.loads(blob_store.get("results", f"{study.uid}/chest-opacity/0/result.json"))
    assert result["not_assessed"] == answer["not_assessed"]
    report = fhir_client.read("DiagnosticReport", resource_id(study.uid, report_role("chest-opacity")))
    assert report
    assert "Not assessed: atelectasis, cardiomegaly" in report["conclusion"]
    refused = ok(
        client.post("/v1/analyses:preview", data=changed(chest, PatientAge="004Y"), content_type="application/dicom")
    )
    assert len(refused["not_assessed"]) == 14


def test_the_result_file_has_regions_in_pixels(
    client: FlaskClient, study: Study, chest: bytes, fhir_client: FhirClient, blob_store: BlobStore
) -> None:
    study.add(chest, "CR")
    study.register(fhir_client)
    ok(client.post("/v1/analyses", json=study.request()))
    heatmap = json.loads(blob_store.get("results", f"{study.uid}/chest-opacity/0/result.json"))["heatmap"]
    assert (heatmap["rows"], heatmap["columns"]) == (1955, 1841)
    assert heatmap["regions"]
    for region in heatmap["regions"]:
        box = region["box"]
        assert 0 <= box["x"] < box["x"] + box["width"] <= 1841
        assert 0 <= box["y"] < box["y"] + box["height"] <= 1955
        assert 0.5 <= region["score"] <= 1


@pytest.fixture
def several(settings: Settings, blob_store: BlobStore, token: str, tmp_path: Path) -> Iterator[FlaskClient]:
    """A service with two active models on adults' chests, one with a shadow, and one for children."""
    bundle_folder(tmp_path, name="chest-second", task="second")
    bundle_folder(tmp_path, version="2.0.0", research=True)
    bundle_folder(tmp_path, **CHILDREN)
    shadowed = TaskModels(Pinned("chest-opacity:1.0.0"), (Pinned("chest-opacity:2.0.0"),))
    change(blob_store, "chest-opacity", shadowed, who="ada", at="2026-01-01T00:00:00+00:00", reason="trial")
    parts = Parts(settings.model_copy(update={"model_dir": str(tmp_path), "model_poll_s": 3600.0}))
    with create_app(settings, parts).test_client() as opened:
        opened.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {token}"
        yield opened
    parts.close()
    for blob in list(blob_store.list("models")):
        blob_store.delete("models", blob.name)


@pytest.mark.requirement("R1", "R7")
def test_several_models_on_one_study_and_a_shadow_beside(
    several: FlaskClient, study: Study, chest: bytes, fhir_client: FhirClient, blob_store: BlobStore
) -> None:
    study.add(chest, "CR")
    study.register(fhir_client)
    answer = ok(several.post("/v1/analyses", json=study.request()))
    assert [item["task"] for item in answer["analyses"]] == ["chest-opacity", "second"]
    assert len(answer["findings"]) == 2
    for task in ("chest-opacity", "second"):
        report = resource_id(study.uid, report_role(task))
        assert f"DiagnosticReport/{report}" in answer["resources"]
        assert fhir_client.read("DiagnosticReport", report) is not None
    names = {blob.name.removeprefix(f"{study.uid}/") for blob in blob_store.list("results", f"{study.uid}/")}
    shadow = "chest-opacity/shadow/chest-opacity-2.0.0.json"
    assert {"chest-opacity/0/result.json", "second/0/result.json", shadow} <= names
    kept = json.loads(blob_store.get("results", f"{study.uid}/{shadow}"))
    assert kept["model"]["version"] == "2.0.0"
    assert kept["per_image"][0]["probability"] > 0
    assert "2.0.0" not in json.dumps(answer)
    roles = {f"{item['name']}:{item['version']}": item["role"] for item in ok(several.get("/v1/models"))["models"]}
    assert roles["chest-opacity:2.0.0"] == "shadow"
    drift = ok(several.get("/v1/models/chest-opacity/drift?version=2.0.0"))
    assert drift["images"] == 1
    text = several.get("/metrics").get_data(as_text=True)
    assert 'ai_shadow_runs_total{model="chest-opacity:2.0.0",outcome="kept"}' in text
    assert 'ai_model_info{model="chest-opacity:1.0.0",role="active",task="chest-opacity"} 1.0' in text


def test_a_model_named_in_the_request_answers_alone(
    several: FlaskClient, study: Study, chest: bytes, blob_store: BlobStore
) -> None:
    study.add(chest, "CR")
    answer = ok(several.post("/v1/analyses", json=study.request(publish=False, model="chest-opacity:2.0.0")))
    assert answer["model"]["version"] == "2.0.0"
    assert len(answer["analyses"]) == 1
    assert list(blob_store.list("results", study.uid)) == []


@pytest.mark.requirement("R3")
def test_the_age_decides_whose_report_a_study_gets(
    several: FlaskClient, study: Study, chest: bytes, fhir_client: FhirClient
) -> None:
    study.add(chest, "CR", PatientBirthDate="20010305")
    study.register(fhir_client)
    answer = ok(several.post("/v1/analyses", json=study.request()))
    assert answer["model"]["name"] == "chest-child"
    assert answer["not_analysed"] == []
    assert fhir_client.read("DiagnosticReport", resource_id(study.uid, report_role("child-pneumonia"))) is not None
    assert fhir_client.read("DiagnosticReport", resource_id(study.uid, report_role("chest-opacity"))) is None


def test_assume_adult_is_told_where_it_was_needed(settings: Settings, token: str, chest: bytes) -> None:
    parts = Parts(settings.model_copy(update={"assume_adult": True, "model_poll_s": 3600.0}))
    client = create_app(settings, parts).test_client()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/dicom"}

    def ask(data: bytes) -> dict[str, Any]:
        return ok(client.post("/v1/analyses:preview", data=data, headers=headers))

    unknown = ask(changed(chest, PatientBirthDate=""))
    assert unknown["assumed"] == ["adult"]
    assert len(unknown["findings"]) == 1
    assert ask(chest)["assumed"] == []
    assert [item["reason"] for item in ask(changed(chest, PatientAge="003Y"))["not_analysed"]] == ["child"]
    parts.close()


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/models/none/drift", 404, "not-found"),
        ("/v1/models/chest-opacity/drift?version=0.0.1", 404, "not-found"),
        ("/v1/models/chest-opacity/drift?days=0", 400, "bad-field"),
        ("/v1/models/chest-opacity/drift?days=x", 400, "bad-field"),
    ],
)
def test_drift_of_what_is_not_there(client: FlaskClient, path: str, status: int, code: str) -> None:
    problem(client.get(path), status, code)


def test_metrics_say_what_the_committee_asks(client: FlaskClient, study: Study, chest: bytes) -> None:
    """Model latency, findings, refusals by reason, out of distribution, queue (architecture, Telemetry)."""
    study.add(chest, "CR")
    leg = changed(sample("RG3_UNCR.dcm"), BodyPartExamined="CHEST", StudyDescription="", PatientBirthDate="19400101")
    study.add(leg, "CR")
    ok(client.post("/v1/analyses", json=study.request(publish=False)))
    text = client.get("/metrics").get_data(as_text=True)
    for line in (
        'ai_model_seconds_count{model="chest-opacity:1.0.0",stage="network"}',
        'ai_model_seconds_count{model="chest-opacity:1.0.0",stage="gate"}',
        'ai_findings_total{finding="lung-opacity",model="chest-opacity:1.0.0",state="',
        'ai_gate_refusals_total{model="chest-opacity:1.0.0",reason="out-of-distribution"}',
        'ai_out_of_distribution_total{model="chest-opacity:1.0.0",verdict="refused"}',
        "ai_queue_waiting ",
        "ai_queue_running ",
        "ai_queue_wait_seconds_count",
        "ai_bytes_in_work ",
        "ai_batch_size_count",
        'ai_step_seconds_count{step="decode"}',
    ):
        assert line in text, line
    assert study.uid not in text


def test_many_at_once_answer_as_one_by_one(app: Flask, token: str, chest: bytes) -> None:
    def ask() -> float:
        response = app.test_client().post(
            "/v1/analyses:preview",
            data=chest,
            content_type="application/dicom",
            headers={"Authorization": f"Bearer {token}"},
        )
        return float(ok(response)["findings"][0]["probability"])

    alone = ask()
    found: list[float] = []
    threads = [threading.Thread(target=lambda: found.append(ask())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [alone] * 6


def test_gunicorn_serves_it(settings: Settings, token: str, chest: bytes) -> None:
    """The entry point as the local stack and the container start it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "FHIR_BASE_URL": settings.fhir_base_url,
        "FHIR_AUTH": "bearer",
        "FHIR_TOKEN": settings.fhir_token.get_secret_value(),
        "STORAGE_CONNECTION_STRING": settings.storage_connection_string.get_secret_value(),
        "AI_TOKEN": token,
    }
    config = Path(ai_container.__file__).with_name("gunicorn_config.py")
    command = [sys.executable, "-P", "-m", "gunicorn", "ai_container.wsgi:app", "-c", str(config)]
    with subprocess.Popen([*command, "--bind", f"127.0.0.1:{port}"], env=environment) as server:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
                for _ in range(600):
                    with contextlib.suppress(httpx.TransportError):
                        if http.get("/readyz").status_code == 200:
                            break
                    time.sleep(0.1)
                response = http.post(
                    "/v1/analyses:preview",
                    content=chest,
                    headers={"Authorization": f"Bearer {token}", "Content-Type": "application/dicom"},
                )
                assert response.status_code == 200, response.text
                assert response.json()["findings"][0]["code"] == CODE
        finally:
            server.terminate()
        assert server.wait(30) == 0

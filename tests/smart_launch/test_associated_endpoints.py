"""Services beside the FHIR service that take the launch's token, such as DICOMweb (SMART Imaging Access)."""

from __future__ import annotations

from typing import Any

import pytest

from smart_launch import FhirAccessError, FhirSession, SessionStore
from tests.smart_launch.scene import BASE, Scene, registration_of
from tests.smart_launch.strict_ehr import StrictEhr, json_answer, raw_answer

IMAGING = "smart-imaging-access"


def listed(ehr: StrictEhr, *entries: Any) -> None:
    ehr.discovery["associated_endpoints"] = [*entries, {"url": f"{ehr.origin}/associated", "capabilities": [IMAGING]}]


def session(scene: Scene, capability: str = IMAGING, address: str = "") -> FhirSession | None:
    launch_id = scene.launch().split("/")[2]
    jar = scene.browser._cookies or {}
    cookies = "; ".join(f"{cookie.key}={cookie.value}" for cookie in jar.values())
    with scene.app.test_request_context(f"/l/{launch_id}/", base_url=BASE, headers={"Cookie": cookies}):
        return scene.smart.associated(scene.smart.require(launch_id), capability, address)


@pytest.mark.requirement("S22", "S71", "S90", "S92")
def test_images_of_a_study_are_read_where_its_endpoint_and_the_ehr_both_say(scene: Scene) -> None:
    ehr = scene.ehr
    listed(ehr)
    address = f"{ehr.origin}/associated/dicomweb"
    ehr.associated["dicomweb/studies/1.2.3/metadata"] = lambda: json_answer([])
    study = {
        "resourceType": "ImagingStudy",
        "id": "s",
        "subject": {"reference": "Patient/p1"},
        "endpoint": [{"reference": "Endpoint/e"}],
    }
    endpoint = {
        "resourceType": "Endpoint",
        "id": "e",
        "connectionType": {"code": "dicom-wado-rs"},
        "address": address,
    }
    ehr.resources["ImagingStudy"] = {"resourceType": "Bundle", "entry": [{"resource": study}, {"resource": endpoint}]}
    path = scene.launch()
    query = "read/ImagingStudy?patient=p1&_include=ImagingStudy:endpoint&identifier=urn:dicom:uid|urn:oid:1.2.3"
    from urllib.parse import quote

    found = scene.get(f"{path}{quote(query, safe='/')}").get_json()
    assert [entry["resource"]["id"] for entry in found["entry"]] == ["s", "e"]
    sent = ehr.last("/fhir/ImagingStudy").query
    assert sent["_include"] == ["ImagingStudy:endpoint"]
    assert sent["identifier"] == ["urn:dicom:uid|urn:oid:1.2.3"]
    assert sent["patient"] == ["p1"]
    images = session(scene, address=address)
    assert images is not None
    response = images.get(f"{address}/studies/1.2.3/metadata", headers={"Accept": "application/dicom+json"})
    assert response.status_code == 200
    request = ehr.last("/associated/dicomweb/studies/1.2.3/metadata")
    assert request.headers["Authorization"].removeprefix("Bearer ") in ehr.access_tokens
    assert request.headers["Accept"] == "application/dicom+json"


@pytest.mark.requirement("S71", "S69")
def test_an_archive_that_is_still_fetching_says_when_to_come_back(scene: Scene) -> None:
    listed(scene.ehr)
    scene.ehr.associated["studies/1"] = lambda: raw_answer("", 503, headers={"Retry-After": "12"})
    images = session(scene)
    assert images is not None
    with pytest.raises(FhirAccessError) as error:
        images.get("studies/1")
    assert (error.value.code, error.value.retry_after) == ("ehr-busy", 12)


@pytest.mark.requirement("S22", "S68", "XE2")
@pytest.mark.parametrize(
    ("capability", "address"),
    [
        ("something-else", ""),
        (IMAGING, "https://evil.example/dicomweb"),
        (IMAGING, "{origin}/other"),
        (IMAGING, "{origin}/associated-evil"),
        (IMAGING, "//evil.example/associated"),
    ],
)
def test_what_is_not_listed_for_the_purpose_gets_no_token(scene: Scene, capability: str, address: str) -> None:
    listed(scene.ehr)
    assert session(scene, capability, address.format(origin=scene.ehr.origin)) is None


@pytest.mark.requirement("S22", "S68", "XE2")
@pytest.mark.parametrize(
    "target",
    [
        "{origin}/fhir/Patient/p1",
        "{origin}/associated/../fhir/Patient/p1",
        "{origin}/associated/%2e%2e/fhir/Patient/p1",
        "{origin}/associated-evil",
        "https://evil.example/associated/x",
        "../fhir/Patient/p1",
    ],
)
def test_a_session_to_an_associated_endpoint_stays_below_it(scene: Scene, target: str) -> None:
    listed(scene.ehr)
    images = session(scene)
    assert images is not None
    before = len(scene.ehr.seen)
    with pytest.raises(FhirAccessError, match="fhir-denied"):
        images.get(target.format(origin=scene.ehr.origin))
    assert len(scene.ehr.seen) == before


@pytest.mark.requirement("S22", "S15")
@pytest.mark.parametrize(
    "entry",
    [
        {"url": "https://evil.example/dicomweb", "capabilities": [IMAGING]},
        {"url": "javascript:alert(1)", "capabilities": [IMAGING]},
        {"url": "http://evil.example/dicomweb", "capabilities": [IMAGING]},
        {"url": 7, "capabilities": [IMAGING]},
        {"url": "{origin}/x", "capabilities": IMAGING},
        {"capabilities": [IMAGING]},
        "text",
        None,
    ],
)
def test_entries_elsewhere_or_malformed_are_left_out(scene: Scene, entry: Any) -> None:
    scene.ehr.discovery["associated_endpoints"] = [entry]
    assert session(scene) is None
    listed(scene.ehr, entry)


@pytest.mark.requirement("S22")
def test_an_endpoint_on_a_registered_host_of_its_own(
    ehr: StrictEhr, second_ehr: StrictEhr, sessions: SessionStore
) -> None:
    ehr.discovery["associated_endpoints"] = [{"url": "https://images.example/wado/", "capabilities": [IMAGING]}]
    assert session(Scene(ehr, sessions)) is None
    found = session(Scene(ehr, sessions, [registration_of(ehr, hosts=("images.example",))]))
    assert found is not None
    assert found.url("studies/1") == "https://images.example/wado/studies/1"
    assert found.url("https://images.example/wado/studies/1") == "https://images.example/wado/studies/1"
    with pytest.raises(FhirAccessError):
        found.url("https://images.example/other")


@pytest.mark.requirement("S59")
@pytest.mark.parametrize(
    ("details", "status"),
    [
        ([{"type": "smart_on_fhir", "locations": ["{iss}"]}], 200),
        ([{"type": "smart_on_fhir", "locations": ["{iss}/"]}], 200),
        ([{"type": "smart_on_fhir", "locations": ["https://other.example/fhir", "{iss}"]}], 200),
        ([{"type": "smart_on_fhir", "locations": ["https://other.example/fhir"]}], 403),
        ([{"type": "smart_on_fhir", "locations": ["{iss}-other"]}], 403),
        ([{"type": "another", "locations": ["https://other.example/fhir"]}], 200),
        ([{"type": "smart_on_fhir"}], 200),
        ({"type": "smart_on_fhir", "locations": ["https://other.example/fhir"]}, 200),
        ("text", 200),
        ([{"type": "smart_on_fhir", "locations": "{iss}"}, 7, None], 200),
    ],
)
def test_the_token_goes_only_where_authorization_details_let_it(scene: Scene, details: Any, status: int) -> None:
    def filled(value: Any) -> Any:
        if isinstance(value, str):
            return value.format(iss=scene.ehr.iss)
        if isinstance(value, list):
            return [filled(item) for item in value]
        return {name: filled(item) for name, item in value.items()} if isinstance(value, dict) else value

    scene.ehr.token = {"authorization_details": filled(details)}
    scene.ehr.resources["Patient/p1"] = {"resourceType": "Patient", "id": "p1"}
    path = scene.launch()
    before = scene.ehr.paths().count("/fhir/Patient/p1")
    assert scene.get(f"{path}patient").status_code == status
    assert scene.ehr.paths().count("/fhir/Patient/p1") - before == (1 if status == 200 else 0)

"""FHIR access: the token goes to the launching EHR only, and only the launch's patient is shown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from smart_launch import FhirAccessError, SessionStore
from tests.smart_launch.scene import Scene, refused, registration_of
from tests.smart_launch.strict_ehr import StrictEhr, json_answer, raw_answer

FOREIGN = [
    "https://evil.example/fhir/Patient/p1",
    "//evil.example/Patient/p1",
    "http://127.0.0.1:1/fhir/Patient/p1",
    "https://127.0.0.1:{port}/fhir/Patient/p1",
    "http://127.0.0.1:{port}@evil.example/Patient/p1",
    "http://user:pw@127.0.0.1:{port}/fhir/Patient/p1",
    "http://127.0.0.1:{port}\\@evil.example/",
    "ftp://127.0.0.1/x",
    "javascript://127.0.0.1/%0aalert(1)",
    "../../admin",
    "Patient/../../admin",
    "Patient/%2e%2e/%2e%2e/admin",
]


def bundle(*resources: dict[str, Any], following: str | None = None) -> dict[str, Any]:
    links = [{"relation": "next", "url": following}] if following else []
    return {
        "resourceType": "Bundle",
        "type": "searchset",
        "entry": [{"resource": item} for item in resources],
        "link": links,
    }


def study(name: str, patient: str = "p1", **members: Any) -> dict[str, Any]:
    return {"resourceType": "ImagingStudy", "id": name, "subject": {"reference": f"Patient/{patient}"}, **members}


@pytest.mark.requirement("S67")
def test_the_token_is_in_the_header(scene: Scene) -> None:
    scene.ehr.resources["Patient/p1"] = {"resourceType": "Patient", "id": "p1"}
    path = scene.launch()
    assert scene.home(f"{path}patient")["id"] == "p1"
    sent = scene.ehr.last("/fhir/Patient/p1")
    assert sent.headers["Authorization"].removeprefix("Bearer ") in scene.ehr.access_tokens
    assert sent.headers["Accept"] == "application/fhir+json"
    assert sent.query == {}


@pytest.mark.requirement("S68", "XE1", "XE2")
@pytest.mark.parametrize("target", FOREIGN)
def test_no_request_leaves_the_fhir_server(scene: Scene, second_ehr: StrictEhr, target: str) -> None:
    path = scene.launch()
    launch_id = path.split("/")[2]
    with scene.app.test_request_context(
        path, base_url="https://app.example", headers={"Cookie": _cookie_header(scene)}
    ):
        session = scene.smart.fhir(scene.smart.require(launch_id))
        before = len(scene.ehr.seen)
        with pytest.raises(FhirAccessError):
            session.get(target.format(port=scene.ehr.origin.rpartition(":")[2]))
    assert len(scene.ehr.seen) == before
    assert second_ehr.seen == []


def _cookie_header(scene: Scene) -> str:
    jar = scene.browser._cookies or {}
    return "; ".join(f"{cookie.key}={cookie.value}" for cookie in jar.values())


@pytest.mark.requirement("S68", "XE1")
@pytest.mark.parametrize("kind", ["other host", "other port", "other scheme", "relative scheme", "user information"])
def test_a_next_link_elsewhere_gets_no_token(scene: Scene, second_ehr: StrictEhr, kind: str) -> None:
    port = scene.ehr.origin.rpartition(":")[2]
    following = {
        "other host": f"{second_ehr.iss}/ImagingStudy?page=2",
        "other port": "http://127.0.0.1:9/fhir/ImagingStudy?page=2",
        "other scheme": f"https://127.0.0.1:{port}/fhir/ImagingStudy?page=2",
        "relative scheme": "//evil.example/fhir/ImagingStudy",
        "user information": f"http://a@127.0.0.1:{port}/fhir/ImagingStudy",
    }[kind]
    scene.ehr.resources["ImagingStudy"] = bundle(study("a"), following=following)
    path = scene.launch()
    refused(scene.get(f"{path}studies"), "fhir-denied")
    assert second_ehr.seen == []


@pytest.mark.requirement("S70", "XE3")
def test_other_patients_resources_are_left_out(scene: Scene) -> None:
    scene.ehr.resources["ImagingStudy"] = bundle(
        study("own"),
        study("foreign", patient="p2"),
        study("absolute", subject={"reference": f"{scene.ehr.iss}/Patient/p1"}),
        study("other server", subject={"reference": "https://evil.example/fhir/Patient/p1"}),
        study("versioned", subject={"reference": "Patient/p1/_history/3"}),
        {"resourceType": "OperationOutcome", "issue": [{"severity": "warning"}]},
        {"resourceType": "Endpoint", "id": "shared"},
    )
    path = scene.launch()
    assert scene.get(f"{path}studies").get_json() == ["own", "absolute", "versioned", "shared"]
    sent = scene.ehr.last("/fhir/ImagingStudy")
    assert sent.query["patient"] == ["p1"]


@pytest.mark.requirement("S70", "XE3")
def test_another_patient_s_resource_is_not_read(scene: Scene) -> None:
    scene.ehr.resources |= {
        "ImagingStudy/x": study("x", patient="p2"),
        "Patient/p2": {"resourceType": "Patient", "id": "p2"},
    }
    path = scene.launch()
    refused(scene.get(f"{path}read/ImagingStudy/x"), "fhir-denied")
    refused(scene.get(f"{path}read/Patient/p2"), "fhir-denied")


@pytest.mark.requirement("S69", "XE7")
@pytest.mark.parametrize("kind", ["same", "endless"])
def test_paging_ends(scene: Scene, kind: str) -> None:
    pages = iter(range(10_000))

    def answer(rest: str) -> Any:
        if not rest.startswith("ImagingStudy"):
            return None
        number = 1 if kind == "same" else next(pages)
        return json_answer(bundle(study(f"s{number}"), following=f"{scene.ehr.iss}/ImagingStudy?page={number}"))

    scene.ehr.fhir_answer = answer
    path = scene.launch()
    refused(scene.get(f"{path}studies"), "fhir-unreachable")
    assert sum(item.path == "/fhir/ImagingStudy" for item in scene.ehr.seen) <= 60


@pytest.mark.requirement("S69", "XE6")
def test_after_a_401_the_token_is_refreshed_once(scene: Scene) -> None:
    scene.ehr.resources["Patient/p1"] = {"resourceType": "Patient", "id": "p1"}
    path = scene.launch()
    scene.ehr.access_tokens.clear()
    assert scene.home(f"{path}patient")["id"] == "p1"
    assert scene.ehr.paths().count("/token") == 2


@pytest.mark.requirement("S69", "XE6")
def test_a_401_that_stays_ends_in_a_page(scene: Scene) -> None:
    scene.ehr.fhir_answer = lambda rest: raw_answer("", 401)
    path = scene.launch()
    refused(scene.get(f"{path}patient"), "launch-ended")
    assert scene.ehr.paths().count("/token") == 2
    assert scene.ehr.paths().count("/fhir/Patient/p1") == 2


@pytest.mark.requirement("S66")
@pytest.mark.parametrize("status", [403, 404])
def test_the_user_s_own_record_may_be_out_of_reach(scene: Scene, status: int) -> None:
    """The claim names the user; his Practitioner is read for his name at most."""
    scene.ehr.fhir_answer = lambda rest: raw_answer("", status) if rest.startswith("Practitioner/") else None
    scene.ehr.resources["Patient/p1"] = {"resourceType": "Patient", "id": "p1"}
    path = scene.launch()
    assert scene.home(path)["fhir_user"] == "Practitioner/dr1"
    assert scene.get(f"{path}read/Practitioner/dr1").status_code == status
    assert scene.home(f"{path}patient")["id"] == "p1"


@pytest.mark.requirement("S70", "XE3")
def test_a_bundle_that_is_read_whole_holds_the_patient_s_alone(scene: Scene) -> None:
    scene.ehr.resources["ImagingStudy"] = bundle(study("own"), study("foreign", patient="p2"))
    path = scene.launch()
    found = scene.get(f"{path}read/ImagingStudy").get_json()
    assert [entry["resource"]["id"] for entry in found["entry"]] == ["own"]


@pytest.mark.requirement("S69")
@pytest.mark.parametrize(
    ("status", "code"),
    [
        (403, "fhir-denied"),
        (404, "fhir-missing"),
        (410, "fhir-missing"),
        (429, "ehr-busy"),
        (503, "ehr-busy"),
        (500, "fhir-unreachable"),
    ],
)
def test_each_refusal_has_its_page(scene: Scene, status: int, code: str) -> None:
    scene.ehr.fhir_answer = lambda rest: raw_answer('{"issue": "<script>"}', status, headers={"Retry-After": "17"})
    path = scene.launch()
    response = scene.get(f"{path}patient")
    refused(response, code)
    assert "<script>" not in response.text.split("<main>")[1]
    if status in (429, 503):
        assert response.headers["Retry-After"] == "17"
    assert scene.get(path).status_code == 200  # the session goes on


@pytest.mark.requirement("XE5")
@pytest.mark.parametrize("body", ["{", "[]", "<Patient/>", '{"a":' * 3000 + "1" + "}" * 3000, '{"id":"a","id":"b"}'])
def test_answers_that_are_no_resource(scene: Scene, body: str) -> None:
    scene.ehr.fhir_answer = lambda rest: raw_answer(body)
    path = scene.launch()
    refused(scene.get(f"{path}patient"), "fhir-unreachable")


@pytest.mark.requirement("XE5")
def test_an_answer_that_is_too_large(ehr: StrictEhr, sessions: SessionStore) -> None:
    scene = Scene(ehr, sessions, options={"max_fhir_bytes": 100_000})
    ehr.fhir_answer = lambda rest: raw_answer(json.dumps({"resourceType": "Patient", "text": "x" * 200_000}))
    path = scene.launch()
    refused(scene.get(f"{path}patient"), "fhir-unreachable")


@pytest.mark.requirement("S68")
def test_a_redirect_of_the_fhir_server_is_not_followed(scene: Scene, second_ehr: StrictEhr) -> None:
    scene.ehr.fhir_answer = lambda rest: raw_answer("", 307, headers={"Location": f"{second_ehr.iss}/Patient/p1"})
    path = scene.launch()
    refused(scene.get(f"{path}patient"), "fhir-unreachable")
    assert second_ehr.seen == []


@pytest.mark.requirement("S22", "S68")
def test_fhir_may_be_read_elsewhere_by_registration_only(
    ehr: StrictEhr, second_ehr: StrictEhr, sessions: SessionStore
) -> None:
    scene = Scene(ehr, sessions, [registration_of(ehr, fhir_base=second_ehr.iss)])
    path = scene.launch()
    second_ehr.access_tokens |= ehr.access_tokens
    second_ehr.resources["Patient/p1"] = {"resourceType": "Patient", "id": "p1"}
    assert scene.home(f"{path}patient")["id"] == "p1"
    assert "/fhir/Patient/p1" not in ehr.paths()

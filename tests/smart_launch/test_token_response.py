"""The token response: granted scopes and launch context."""

from __future__ import annotations

from typing import Any

import pytest

from smart_launch import SessionStore
from tests.smart_launch.scene import Scene, refused, registration_of
from tests.smart_launch.strict_ehr import GRANTED, StrictEhr


def answer(scene: Scene, **members: Any) -> Any:
    scene.ehr.token = members
    return scene.callback(scene.authorized())


@pytest.mark.requirement("S48", "XD14")
@pytest.mark.parametrize(
    "members",
    [
        {"token_type": "mac"},
        {"token_type": None},
        {"token_type": ["Bearer"]},
        {"access_token": None},
        {"access_token": ""},
        {"access_token": 7},
        {"access_token": "line\r\nX-Evil: 1"},
        {"access_token": "two words"},
        {"scope": "patient/Patient.rs\0"},
    ],
)
def test_an_unusable_token_is_refused(scene: Scene, members: dict[str, Any]) -> None:
    refused(answer(scene, **members), "token-unusable")


@pytest.mark.requirement("S48")
@pytest.mark.parametrize("kind", ["bearer", "BEARER", "Bearer"])
def test_token_type_in_any_case(scene: Scene, kind: str) -> None:
    assert answer(scene, token_type=kind).status_code == 303


@pytest.mark.requirement("S48")
@pytest.mark.parametrize("life", [3240, "570", 1e3, None, "soon", -5, True, 10**12])
def test_any_life_is_understood(scene: Scene, life: Any) -> None:
    assert answer(scene, expires_in=life).status_code == 303


@pytest.mark.requirement("S49")
def test_a_cacheable_token_response_is_noted(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.smart_launch.strict_ehr import json_answer

    document: dict[str, Any] = {}
    original = scene.ehr.token_response

    def remember(parameters: Any) -> dict[str, Any]:
        document.update(original(parameters))
        return document

    scene.ehr.token_response = remember  # type: ignore[method-assign]
    scene.ehr.token_answer = lambda: json_answer(document)
    assert scene.callback(scene.authorized()).status_code == 303
    assert "no-store" in capsys.readouterr().out


@pytest.mark.requirement("S50", "XD16")
@pytest.mark.parametrize(
    ("scope", "may"),
    [
        ("patient/ImagingStudy.rs", True),
        ("patient/ImagingStudy.s patient/ImagingStudy.r", True),
        ("patient/*.read", True),
        ("patient/ImagingStudy.read launch", True),
        ("patient/ImagingStudy.cruds user/*.rs system/*.*", True),
        ("patient/ImagingStudy.r", False),
        ("patient/Patient.rs", False),
        ("patient/imagingstudy.rs", False),
        ("patient/ImagingStudy.sr", False),
        ("user/ImagingStudy.rs patient/Patient.rs", False),
        ("ImagingStudy.read ImagingStudy.search", True),
        ("patient.ImagingStudy.rs", True),
        ("patient.all.read", True),
        ("patient/ImagingStudy.rs?status=available", True),
        ("", False),
        ("completely other words", False),
    ],
)
def test_what_counts_is_what_was_granted(scene: Scene, scope: str, may: bool) -> None:
    response = answer(scene, scope=scope)
    assert scene.home(response.location)["may_read_studies"] is may


@pytest.mark.requirement("S50")
def test_without_a_scope_member_the_request_counts(scene: Scene) -> None:
    response = answer(scene, scope=None)
    assert scene.home(response.location)["scopes"].split() == GRANTED.split()


@pytest.mark.requirement("S51", "XD17")
@pytest.mark.parametrize(
    ("patient", "kept"),
    [
        ("p1", "p1"),
        ("Patient/p1", "p1"),
        (12345, "12345"),
        ("{iss}/Patient/p1", "p1"),
        ("a.b-C.9", "a.b-C.9"),
    ],
)
def test_patients_of_this_server(scene: Scene, patient: Any, kept: str) -> None:
    value = patient.format(iss=scene.ehr.iss) if isinstance(patient, str) else patient
    assert scene.home(answer(scene, patient=value).location)["patient"] == kept


@pytest.mark.requirement("S51", "XD17")
@pytest.mark.parametrize(
    "patient",
    [
        "../Practitioner/1?x=",
        "p1,p2",
        "*",
        "<b>p1</b>",
        "p1/../p2",
        "..",
        ".",
        "https://other.example/fhir/Patient/p1",
        "{iss}/Practitioner/p1",
        "Practitioner/p1",
        "p" * 65,
        "p 1",
        "p1\n",
        "p1?x=1",
        "p%31",
        ["p1"],
        {"reference": "Patient/p1"},
        True,
        1.5,
    ],
)
def test_a_patient_that_is_none_opens_nothing(scene: Scene, patient: Any) -> None:
    value = patient.format(iss=scene.ehr.iss) if isinstance(patient, str) else patient
    refused(answer(scene, patient=value), "token-unusable")


@pytest.mark.requirement("S51")
@pytest.mark.parametrize("patient", [None, ""])
def test_rights_at_patient_level_without_a_patient_open_nothing(scene: Scene, patient: Any) -> None:
    refused(answer(scene, patient=patient), "no-patient")
    refused(answer(scene, patient=patient, scope="openid fhirUser"), "no-patient")


@pytest.mark.requirement("S51")
def test_a_user_s_rights_need_no_patient(ehr: StrictEhr, sessions: SessionStore) -> None:
    scene = Scene(ehr, sessions, [registration_of(ehr, scopes="launch openid fhirUser user/*.rs")])
    assert scene.home(answer(scene, patient=None, scope="openid fhirUser user/*.rs").location)["patient"] is None


@pytest.mark.requirement("S52")
@pytest.mark.parametrize(("encounter", "kept"), [("e1", "e1"), (7, "7"), (None, None), ("../x", None), (["e"], None)])
def test_encounter_is_optional(scene: Scene, encounter: Any, kept: str | None) -> None:
    assert scene.home(answer(scene, encounter=encounter).location)["encounter"] == kept


@pytest.mark.requirement("S53", "S89", "XD18")
def test_fhir_context(scene: Scene) -> None:
    own = scene.ehr.iss
    entries = [
        {"reference": "ImagingStudy/a"},
        {"reference": f"{own}/ImagingStudy/b", "role": "https://roles.example/compare"},
        {"reference": "https://evil.example/fhir/ImagingStudy/c"},
        {"reference": "//evil.example/ImagingStudy/d"},
        {"reference": "ImagingStudy/../Patient/p2"},
        {"identifier": {"system": "urn:dicom:uid", "value": "urn:oid:1.2.3"}, "type": "ImagingStudy"},
        {"canonical": "http://example.org/x|1"},
        {"reference": "DiagnosticReport/e", "role": ""},
        "ImagingStudy/f",
        {},
        {"role": "launch"},
        7,
        None,
        {"reference": 8},
        {"reference": {"reference": "ImagingStudy/g"}},
    ]
    kept = scene.home(answer(scene, fhirContext=entries).location)["context"]
    assert [item["reference"] for item in kept if item["reference"]] == [
        "ImagingStudy/a",
        "ImagingStudy/b",
        "DiagnosticReport/e",
        "ImagingStudy/f",
        "ImagingStudy/g",
    ]
    assert [item["role"] for item in kept[:2]] == ["launch", "https://roles.example/compare"]
    assert kept[2]["identifier_system"] == "urn:dicom:uid"
    assert kept[2]["identifier_value"] == "urn:oid:1.2.3"
    assert kept[3]["canonical"] == "http://example.org/x|1"
    assert kept[4]["role"] == "launch"


@pytest.mark.requirement("S53", "XD18")
@pytest.mark.parametrize(
    "context", ["text", {"reference": "ImagingStudy/a"}, [{"reference": "ImagingStudy/a"}] * 10_000, 5]
)
def test_a_fhir_context_that_is_none_is_ignored(scene: Scene, context: Any) -> None:
    assert scene.home(answer(scene, fhirContext=context).location)["context"] == []


@pytest.mark.requirement("S55", "XD20")
@pytest.mark.parametrize(("banner", "shown"), [(True, True), (None, True), (False, False), ("false", True), (0, True)])
def test_the_banner_is_left_out_only_where_the_ehr_says_so(scene: Scene, banner: Any, shown: bool) -> None:
    assert scene.home(answer(scene, need_patient_banner=banner).location)["banner"] is shown


@pytest.mark.requirement("S56")
@pytest.mark.parametrize(
    ("intent", "kept"), [("summary-timeline-view", "summary-timeline-view"), (None, ""), (["x"], "")]
)
def test_intent(scene: Scene, intent: Any, kept: str) -> None:
    assert scene.home(answer(scene, intent=intent).location)["intent"] == kept


@pytest.mark.requirement("S57", "S58", "S60", "XD19")
def test_other_members_do_no_harm(scene: Scene) -> None:
    response = answer(
        scene,
        **{
            "__epic.dstu2.patient": "x",
            "location": "https://evil.example",
            "state": "whatever",
            "smart_style_url": "javascript:alert(1)",
            "tenant": "t-1",
            "appointment": 4,
            "authorization_details": [{"type": "smart_on_fhir", "locations": ["https://evil.example"]}],
        },
    )
    page = scene.get(response.location)
    assert "evil.example" not in page.text
    assert "javascript" not in page.text
    assert scene.ehr.paths()[-1] == "/jwks"  # nothing was fetched by an address of the response

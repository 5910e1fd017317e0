"""Two FHIR servers, one patient: results of the one Patient who carries the launch patient's number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from clinician_app.services import Services
from fhir_adapter.client import FhirClient
from imaging_core.errors import Permanent
from imaging_core.settings import Settings
from tests.clinician_app.conftest import MARIES_CHEST, MARIES_REPORT, OTHERS_CHEST, OTHERS_REPORT, Clinic, registration
from tests.clinician_app.made_up_chart import PATIENT_SYSTEM, patient
from tests.clinician_app.odd_fhir import OddFhir, of_resources, running


def _ehr_patient(number: str, system: str = PATIENT_SYSTEM) -> dict[str, Any]:
    person = patient("ehr-7", "Dupont", ["Marie"], "1958-04-03", "female", number)
    person["identifier"][0]["system"] = system
    return person


@pytest.fixture
def ehr(charts: None) -> Iterator[OddFhir]:
    with running(of_resources(_ehr_patient("4711"))) as server:
        yield server


@pytest.fixture
def clinic(make_clinic: Callable[..., Clinic], settings: Settings, ehr: OddFhir, fhir_client: FhirClient) -> Clinic:
    told = {"imaging_fhir": settings.fhir_base_url, "patient_identifier_systems": (PATIENT_SYSTEM,)}
    return make_clinic(registration(ehr.base, **told), imaging=fhir_client)


def test_one_match_shows_that_patient_s_imaging(clinic: Clinic, ehr: OddFhir) -> None:
    launch = clinic.launch("ehr-7", scopes="launch patient/Patient.r")
    page = clinic.get(f"{launch}/").text
    assert "Chest PA" in page
    assert "Dupont" in page
    assert "Otherson" not in page
    assert clinic.get(f"{launch}/reports/{MARIES_REPORT.id}").status_code == 200
    image = f"/studies/{MARIES_CHEST.uid}/series/{MARIES_CHEST.series_uid}/instances/{MARIES_CHEST.sop_uid()}/rendered"
    assert clinic.get(launch + image).status_code == 200
    assert clinic.get(f"{launch}/reports/{OTHERS_REPORT.id}").status_code == 404
    assert clinic.get(f"{launch}/studies/{OTHERS_CHEST.uid}").status_code == 404
    assert all(path.startswith("/fhir/Patient/ehr-7") for path in ehr.asked)  # nothing else is asked of the EHR


@pytest.mark.parametrize(
    "person",
    [
        _ehr_patient("no such number"),
        _ehr_patient("4711", "urn:oid:another.assigner"),  # another hospital's equal number
        {**_ehr_patient("4711"), "identifier": []},
        {**_ehr_patient("4711"), "identifier": [{"value": "4711"}]},
        _ehr_patient("4711|4712"),
        _ehr_patient("47"),
    ],
)
def test_no_match_shows_nothing(clinic: Clinic, ehr: OddFhir, person: dict[str, Any]) -> None:
    ehr.answer = of_resources(person)
    page = clinic.get(f"{clinic.launch('ehr-7')}/")
    assert page.status_code == 404
    assert "not known to the imaging service" in page.text
    assert "Chest" not in page.text


def test_several_matches_show_nothing(clinic: Clinic, ehr: OddFhir, fhir_client: FhirClient) -> None:
    for name in ("made-up-twin-1", "made-up-twin-2"):
        fhir_client.update(patient(name, "Twin", ["One"], "1958-04-03", "female", "twins"))
    ehr.answer = of_resources(_ehr_patient("twins"))
    page = clinic.get(f"{clinic.launch('ehr-7')}/")
    assert page.status_code == 409
    assert "Several imaging records" in page.text


def test_without_the_launch_patient_s_details_nothing_is_shown(clinic: Clinic) -> None:
    page = clinic.get(f"{clinic.launch('ehr-7', scopes='launch patient/ImagingStudy.rs', subject='no details')}/")
    assert page.status_code == 404
    assert "Chest" not in page.text


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (
            {"imaging_fhir": "https://elsewhere.example/fhir", "patient_identifier_systems": [PATIENT_SYSTEM]},
            "FHIR_BASE_URL",
        ),
        ({"imaging_fhir": "", "patient_identifier_systems": []}, "patient_identifier_systems"),
    ],
)
def test_a_registration_that_can_not_work_stops_the_start(
    settings: Settings, stores: Any, tmp_path: Any, changes: dict[str, Any], named: str
) -> None:
    values = {"imaging_fhir": settings.fhir_base_url, **{key: value for key, value in changes.items() if value}}
    lines = [f"{key} = {value!r}".replace("'", '"') for key, value in values.items()]
    file = tmp_path / "ehrs.toml"
    fixed = [
        'name = "e"',
        'iss = "https://ehr.example/fhir"',
        'client_id = "c"',
        'client_auth = "none"',
        'scopes = "launch"',
    ]
    file.write_text("\n".join(["[[ehr]]", *fixed, *lines]))
    told = settings.model_copy(
        update={"smart_registrations": str(file), "app_keys": type(settings.fhir_token)("k1:" + "A" * 43)}
    )
    with pytest.raises(Permanent, match=named):
        Services.from_settings(told)

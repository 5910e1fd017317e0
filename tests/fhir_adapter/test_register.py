"""Patients and studies against a real FHIR server."""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from fhir_adapter.assigner import Policy
from fhir_adapter.client import FhirClient
from fhir_adapter.errors import FhirRetryable
from fhir_adapter.identity import patient_id
from fhir_adapter.patient import compare, identity_of, made_by_intake, match_patient
from fhir_adapter.register import Hold, Registered, ensure_study
from imaging_core.sites import Site
from tests.fhir_adapter.conftest import Wire
from tests.fhir_adapter.headers import fresh_uid, instance, real_header, study

ADDRESS = "https://app.example/dicomweb/"


def chart(client: FhirClient, site: Site, **elements: Any) -> dict[str, Any]:
    """Put a Patient of the hospital's own on the server."""
    return client.update(
        {
            "resourceType": "Patient",
            "id": str(uuid.uuid4()),
            "identifier": [{"system": site.assigner_system, "value": "4711"}],
            "name": [{"family": "Doe", "given": ["Jane"]}],
            "birthDate": "1970-01-31",
        }
        | elements
    )


def registered(outcome: Registered | Hold) -> Registered:
    assert isinstance(outcome, Registered), outcome
    return outcome


@pytest.mark.requirement("P2")
def test_a_patient_on_file_is_linked(client: FhirClient, site: Site) -> None:
    patient = chart(client, site)
    match = match_patient(client, instance(), "hold", site)
    assert (match.linked, match.created, match.hold) == (f"Patient/{patient['id']}", None, None)


@pytest.mark.requirement("P2", "P4")
@pytest.mark.parametrize(
    ("elements", "header", "expected"),
    [
        ({}, {}, "agrees"),
        ({}, {"PatientName": "DOE^JANE^M"}, "agrees"),
        ({}, {"PatientName": "Smith^Jane"}, "agrees"),  # married
        ({}, {"PatientName": None}, "agrees"),
        ({}, {"PatientBirthDate": "19700201"}, "patient-mismatch"),
        ({}, {"PatientName": "Doe^Jill"}, "patient-mismatch"),  # a twin
        ({}, {"PatientName": "Roe^Jill"}, "patient-mismatch"),
        ({}, {"PatientBirthDate": None}, "agrees"),
        ({}, {"PatientBirthDate": None, "PatientName": "Roe^Jane"}, "patient-mismatch"),
        ({}, {"PatientBirthDate": None, "PatientName": None}, "no-second-identifier"),
        ({}, {"PatientBirthDate": "unknown", "PatientName": None}, "no-second-identifier"),
        ({"birthDate": None, "name": None}, {}, "no-second-identifier"),
        ({"birthDate": None}, {}, "agrees"),
        ({"birthDate": "1970"}, {"PatientName": None}, "no-second-identifier"),
        ({"birthDate": "1970-01"}, {}, "agrees"),
        ({"birthDate": "1971"}, {}, "patient-mismatch"),
        ({"name": [{"family": "Müller"}]}, {"PatientName": "MUELLER^J", "PatientBirthDate": None}, "agrees"),
    ],
)
def test_a_second_item_of_identity(elements: dict[str, Any], header: dict[str, Any], expected: str, site: Site) -> None:
    patient = {"name": [{"family": "Doe", "given": ["Jane"]}], "birthDate": "1970-01-31"} | elements
    patient = {key: value for key, value in patient.items() if value is not None}
    _, details, _ = identity_of([instance(**header)], "hold", site)
    assert compare(patient, details[0]) == expected


@pytest.mark.requirement("P4")
@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"PatientBirthDate": "19990101"}, "patient-mismatch"),
        ({"PatientBirthDate": None, "PatientName": None}, "no-second-identifier"),
        ({"PatientID": None}, "patient-id-empty"),
        ({"PatientID": "  "}, "patient-id-empty"),
        ({"IssuerOfPatientID": "Elsewhere"}, "unknown-assigner"),
        ({"PatientID": "0815"}, "patient-not-found"),
    ],
)
def test_holds(client: FhirClient, site: Site, wire: Wire, header: dict[str, Any], reason: str) -> None:
    chart(client, site)
    wire.requests.clear()
    policies: list[Policy] = ["hold"] if reason in ("unknown-assigner", "patient-not-found") else ["hold", "create"]
    for policy in policies:
        assert ensure_study(client, [instance(**header)], site, policy) == Hold(reason)  # type: ignore[arg-type]
    assert not wire.writes, "nothing is linked and nothing is written"


@pytest.mark.requirement("P4")
def test_two_charts_with_one_number_are_a_hold(client: FhirClient, site: Site) -> None:
    chart(client, site)
    chart(client, site)
    assert match_patient(client, instance(), "create", site).hold == "patient-ambiguous"


@pytest.mark.requirement("P1", "D17")
def test_no_key_crosses_assigners(client: FhirClient, site: Site) -> None:
    patient = chart(client, site)
    match = match_patient(client, instance(IssuerOfPatientID="2.999.1"), "create", site)
    assert match.created
    assert match.created["id"] != patient["id"]


@pytest.mark.requirement("P4")
def test_an_assigner_of_another_site_is_a_hold(client: FhirClient, site: Site) -> None:
    strict = dataclasses.replace(site, exclusive=True, assigners={"OWN": "urn:oid:2.999.2"})
    assert match_patient(client, instance(IssuerOfPatientID="2.999.1"), "create", strict).hold == "assigner-not-allowed"
    assert match_patient(client, instance(IssuerOfPatientID="OWN"), "create", strict).created


@pytest.mark.requirement("P4", "D16")
def test_two_numbers_in_one_study_are_a_hold(client: FhirClient, site: Site) -> None:
    uid = fresh_uid()
    headers = [instance(StudyInstanceUID=uid), instance(StudyInstanceUID=uid, PatientID="4712")]
    assert ensure_study(client, headers, site, "create") == Hold("patient-conflict")


@pytest.mark.requirement("P3", "P5")
def test_create_makes_one_patient_for_all_studies(client: FhirClient, site: Site, wire: Wire) -> None:
    first = registered(ensure_study(client, [instance()], site, "create"))
    second = registered(ensure_study(client, [instance()], site, "create"))
    assert first.created_patient
    assert not second.created_patient
    assert first.subject == second.subject
    patient = client.read("Patient", first.subject.removeprefix("Patient/"))
    assert patient
    assert made_by_intake(patient)
    assert len(client.history("Patient", patient["id"])) == 1
    assert patient["identifier"][0]["system"] == site.assigner_system
    assert (patient["gender"], patient["birthDate"]) == ("female", "1970-01-31")
    assert patient["id"] == patient_id(str(site.assigner_system), "4711"), "it follows from the header alone"


@pytest.mark.requirement("P3", "P5", "P6")
def test_a_patient_of_intake_whose_number_a_merge_took_away_is_not_made_anew(client: FhirClient, site: Site) -> None:
    """To write him again would undo the merge: the study goes to the survivor, if he agrees, else to a person."""
    first = registered(ensure_study(client, [instance()], site, "create"))
    made = client.read("Patient", first.subject.removeprefix("Patient/"))
    assert made
    survivor = chart(client, site, identifier=[{"system": "urn:other", "value": "1"}])
    link = [{"type": "replaced-by", "other": {"reference": f"Patient/{survivor['id']}"}}]
    bare = {key: value for key, value in made.items() if key != "identifier"} | {"active": False, "link": link}
    merged = client.update(bare, if_match=made["meta"]["versionId"])
    second = registered(ensure_study(client, [instance()], site, "create"))
    assert (second.subject, second.created_patient) == (f"Patient/{survivor['id']}", False)
    assert ensure_study(client, [instance(PatientBirthDate="19800101")], site, "create") == Hold("patient-mismatch")
    after = client.read("Patient", made["id"])
    assert after
    assert after["meta"]["versionId"] == merged["meta"]["versionId"]
    stored = client.read("ImagingStudy", second.imaging_study_id)
    assert stored
    assert stored["subject"] == {"reference": f"Patient/{survivor['id']}"}


@pytest.mark.requirement("P3", "P5")
def test_a_patient_of_intake_whose_number_a_person_corrected_is_not_written_back(
    client: FhirClient, site: Site
) -> None:
    first = registered(ensure_study(client, [instance()], site, "create"))
    made = client.read("Patient", first.subject.removeprefix("Patient/"))
    assert made
    corrected = [made["identifier"][0] | {"value": "4712"}]
    kept = client.update({**made, "identifier": corrected}, if_match=made["meta"]["versionId"])
    uid = fresh_uid()
    headers = [instance(StudyInstanceUID=uid)]
    assert ensure_study(client, headers, site, "create") == Hold("patient-mismatch")
    decided = registered(ensure_study(client, headers, site, "create", make_patient=True))
    assert decided.subject != first.subject
    after = client.read("Patient", made["id"])
    assert after
    assert after["meta"]["versionId"] == kept["meta"]["versionId"]


@pytest.mark.requirement("P2")
@pytest.mark.parametrize(
    "header", [{"PatientBirthDate": "19700201"}, {"PatientBirthDate": None}, {"PatientName": "A^B"}]
)
def test_a_patient_of_intake_agrees_only_where_all_is_equal(
    client: FhirClient, site: Site, header: dict[str, Any]
) -> None:
    registered(ensure_study(client, [instance()], site, "create"))
    assert ensure_study(client, [instance(**header)], site, "create") == Hold("patient-mismatch")


@pytest.mark.requirement("P2")
def test_a_patient_of_intake_without_name_and_birth_date(client: FhirClient, site: Site) -> None:
    nameless = {"PatientName": None, "PatientBirthDate": None}
    first = registered(ensure_study(client, [instance(**nameless)], site, "create"))
    assert registered(ensure_study(client, [instance(**nameless)], site, "create")).subject == first.subject


@pytest.mark.requirement("P5")
def test_a_chart_is_never_written(client: FhirClient, site: Site) -> None:
    patient = chart(client, site)
    outcome = registered(ensure_study(client, [instance(PatientName="DOE^JANE^X", PatientSex="M")], site, "create"))
    assert outcome.subject == f"Patient/{patient['id']}"
    after = client.read("Patient", patient["id"])
    assert after == patient


@pytest.mark.requirement("P6", "D23")
def test_after_a_merge_the_study_moves_to_the_survivor(client: FhirClient, site: Site) -> None:
    old = chart(client, site)
    headers = [instance()]
    before = registered(ensure_study(client, headers, site, "hold"))
    survivor = chart(client, site, identifier=[{"system": "urn:other", "value": "1"}])
    client.update(
        {
            **old,
            "active": False,
            "link": [{"type": "replaced-by", "other": {"reference": f"Patient/{survivor['id']}"}}],
        },
        if_match=old["meta"]["versionId"],
    )
    after = registered(ensure_study(client, headers, site, "hold"))
    assert after.subject == f"Patient/{survivor['id']}"
    assert len(client.history("ImagingStudy", after.imaging_study_id)) == 2
    first = client.vread("ImagingStudy", after.imaging_study_id, before.version_id)
    assert first
    assert first["subject"]["reference"] == f"Patient/{old['id']}"


@pytest.mark.requirement("P4")
def test_a_study_does_not_move_to_another_patient_by_itself(client: FhirClient, site: Site) -> None:
    headers = [instance()]
    chart(client, site)
    outcome = registered(ensure_study(client, headers, site, "hold"))
    other = dataclasses.replace(site, assigner_system=f"{site.assigner_system}.9")
    chart(client, other)
    assert ensure_study(client, headers, other, "hold") == Hold("patient-conflict")
    # an admin may decide so
    moved = registered(ensure_study(client, headers, other, "hold", subject="Patient/x"))
    assert moved.subject == "Patient/x"
    assert moved.imaging_study_id == outcome.imaging_study_id


@pytest.mark.requirement("I1", "I2")
def test_the_same_study_again_changes_nothing(client: FhirClient, site: Site, wire: Wire) -> None:
    headers = [real_header("CT_small.dcm"), *study(3)]
    uid = fresh_uid()
    for header in headers:
        header["0020000D"]["Value"] = [uid]
        header["00100020"] = {"vr": "LO", "Value": ["4711"]}
        header["00100010"] = {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane"}]}
        header["00100030"] = {"vr": "DA", "Value": ["19700131"]}
    first = registered(ensure_study(client, headers, site, "create", endpoint_address=ADDRESS))
    wire.requests.clear()
    again = registered(ensure_study(client, headers[::-1], site, "create", endpoint_address=ADDRESS))
    assert again.version_id == first.version_id
    assert again.written == ()
    assert not wire.writes


@pytest.mark.requirement("I3", "D22")
@pytest.mark.parametrize("count", [1, 1000])
def test_three_calls_for_one_or_a_thousand_instances(client: FhirClient, site: Site, wire: Wire, count: int) -> None:
    client.capabilities()
    headers = study(count, 4 if count > 3 else 1, AccessionNumber="A1", AdmissionID="V1")
    wire.requests.clear()
    outcome = registered(ensure_study(client, headers, site, "create", endpoint_address=ADDRESS))
    assert len(wire.requests) == 3
    stored = client.read("ImagingStudy", outcome.imaging_study_id)
    assert stored
    assert stored["numberOfInstances"] == count


@pytest.mark.requirement("D43")
def test_no_url_holds_a_number_or_name(client: FhirClient, site: Site, wire: Wire) -> None:
    chart(client, site)
    ensure_study(client, [instance(AccessionNumber="ACC77", AdmissionID="VIS88")], site, "hold")
    urls = " ".join(str(request.url) for request in wire.requests)
    for secret in ("4711", "ACC77", "VIS88", "Doe", site.assigner_system):
        assert secret not in urls


@pytest.mark.requirement("M2")
def test_order_and_stay_are_linked_where_they_are_the_patients(client: FhirClient, site: Site) -> None:
    patient = chart(client, site)
    accession, visit = (uuid.uuid4().hex[:12] for _ in range(2))

    def order(subject: str) -> dict[str, Any]:
        return client.update(
            {
                "resourceType": "ServiceRequest",
                "id": str(uuid.uuid4()),
                "identifier": [{"system": site.assigner_system, "value": accession}],
                "status": "active",
                "intent": "order",
                "subject": {"reference": subject},
            }
        )

    own = order(f"Patient/{patient['id']}")
    stay = client.update(
        {
            "resourceType": "Encounter",
            "id": str(uuid.uuid4()),
            "identifier": [{"system": "urn:visits", "value": visit}],
            "status": "in-progress",
            "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "IMP"},
            "subject": {"reference": f"Patient/{patient['id']}"},
        }
    )
    headers = [instance(AccessionNumber=accession, AdmissionID=visit)]
    outcome = registered(ensure_study(client, headers, site, "hold"))
    stored = client.read("ImagingStudy", outcome.imaging_study_id)
    assert stored
    assert stored["basedOn"][0]["reference"] == f"ServiceRequest/{own['id']}"
    assert stored["basedOn"][0]["identifier"]["value"] == accession
    assert stored["encounter"] == {"reference": f"Encounter/{stay['id']}"}
    # a second order with that number: which one it is can't be told
    order("Patient/other")
    other = registered(ensure_study(client, [instance(AccessionNumber=accession)], site, "hold"))
    unsure = client.read("ImagingStudy", other.imaging_study_id)
    assert unsure
    assert "reference" not in unsure["basedOn"][0]


@pytest.mark.requirement("M2")
def test_each_accession_number_of_a_study_finds_its_own_order(client: FhirClient, site: Site) -> None:
    """Two orders that were fulfilled by one examination."""
    patient = chart(client, site)
    numbers = [uuid.uuid4().hex[:12] for _ in range(2)]
    orders = {
        number: client.update(
            {
                "resourceType": "ServiceRequest",
                "id": str(uuid.uuid4()),
                "identifier": [{"system": site.assigner_system, "value": number}],
                "status": "active",
                "intent": "order",
                "subject": {"reference": f"Patient/{patient['id']}"},
            }
        )["id"]
        for number in numbers
    }
    uid = fresh_uid()
    headers = [instance(StudyInstanceUID=uid, AccessionNumber=number) for number in numbers]
    outcome = registered(ensure_study(client, headers, site, "hold"))
    stored = client.read("ImagingStudy", outcome.imaging_study_id)
    assert stored
    found = {item["identifier"]["value"]: item.get("reference") for item in stored["basedOn"]}
    assert found == {number: f"ServiceRequest/{id_}" for number, id_ in orders.items()}


@pytest.mark.requirement("M2")
def test_an_order_is_found_by_the_accession_number_and_a_stay_by_the_admission_s(
    client: FhirClient, site: Site, wire: Wire
) -> None:
    """Searched all at once, an order may turn up because it carries the number of the stay, and the other way round."""
    patient = chart(client, site)
    subject = {"reference": f"Patient/{patient['id']}"}
    crossed = [
        {"resourceType": "ServiceRequest", "id": "s", "identifier": [{"value": "V8"}], "subject": subject},
        {"resourceType": "Encounter", "id": "e", "identifier": [{"value": "A7"}], "subject": subject},
    ]

    def azure(request: httpx.Request) -> httpx.Response | None:
        if request.url.path.endswith("/metadata"):
            return httpx.Response(200, json={"rest": [{"interaction": [{"code": "search-system"}]}]})
        if request.url.path.endswith("/fhir/_search"):
            entry = [{"resource": resource} for resource in crossed]
            return httpx.Response(200, json={"resourceType": "Bundle", "type": "searchset", "entry": entry})
        return None

    wire.before = azure
    header = instance(AccessionNumber="A7", AdmissionID="V8")
    outcome = registered(ensure_study(client, [header], site, "hold"))
    stored = client.read("ImagingStudy", outcome.imaging_study_id)
    assert stored
    assert "encounter" not in stored
    assert "reference" not in stored["basedOn"][0]


def test_a_server_that_searches_all_types_is_asked_once(client: FhirClient, site: Site, wire: Wire) -> None:
    """As Azure's does; it says so in its CapabilityStatement."""
    forms: list[str] = []

    def azure(request: httpx.Request) -> httpx.Response | None:
        if request.url.path.endswith("/metadata"):
            return httpx.Response(200, json={"rest": [{"interaction": [{"code": "search-system"}]}]})
        if request.url.path.endswith("/fhir/_search"):
            forms.append(request.content.decode())
            return httpx.Response(200, json={"resourceType": "Bundle", "type": "searchset"})
        return None

    chart(client, site)
    wire.before = azure
    wire.requests.clear()
    registered(ensure_study(client, [instance(AccessionNumber="A1")], site, "create"))
    assert "_type=ImagingStudy%2CServiceRequest%2CEncounter" in forms[0]
    assert len([item for item in wire.requests if not item.url.path.endswith("/metadata")]) == 3


@pytest.mark.requirement("I2")
def test_a_412_is_read_and_merged_again(client: FhirClient, site: Site, wire: Wire) -> None:
    headers = study(2)
    first = registered(ensure_study(client, headers, site, "create"))
    disturbed = False

    def disturb(request: httpx.Request) -> httpx.Response | None:
        nonlocal disturbed
        if not disturbed and b'"type":"transaction"' in request.content:
            disturbed = True
            stored = client.read("ImagingStudy", first.imaging_study_id)
            assert stored
            client.update({**stored, "note": [{"text": "a person was faster"}]}, if_match=first.version_id)
        return None

    wire.before = disturb
    uid = headers[0]["0020000D"]["Value"][0]
    more = [*headers, *study(1, 1, StudyInstanceUID=uid)]
    registered(ensure_study(client, more, site, "create"))
    stored = client.read("ImagingStudy", first.imaging_study_id)
    assert stored
    assert stored["note"] == [{"text": "a person was faster"}]
    assert stored["numberOfInstances"] == 3
    assert len(client.history("ImagingStudy", first.imaging_study_id)) == 3


@pytest.mark.requirement("I2")
def test_an_answer_that_gets_lost_writes_nothing_twice(client: FhirClient, site: Site, wire: Wire) -> None:
    lost = 0

    def lose(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        nonlocal lost
        if not lost and b'"type":"transaction"' in request.content:
            lost += 1
            response.read()
            raise httpx.ReadTimeout("the answer got lost")
        return response

    wire.after = lose
    outcome = registered(ensure_study(client, [instance()], site, "create"))
    assert lost
    assert len(client.history("ImagingStudy", outcome.imaging_study_id)) == 1


def test_a_server_that_is_away_is_retryable(site: Site) -> None:
    from fhir_adapter._retry import Retry

    away = FhirClient("http://127.0.0.1:1/fhir", retry=Retry(tries=2, sleep=lambda _: None))
    with pytest.raises(FhirRetryable):
        ensure_study(away, [instance()], site, "create")


def test_the_patient_lock_is_held_while_a_patient_is_made(client: FhirClient, site: Site, wire: Wire) -> None:
    held: list[str] = []

    @contextmanager
    def lock(key: str) -> Iterator[None]:
        held.append(key)
        yield
        assert wire.writes

    ensure_study(client, [instance()], site, "create", patient_lock=lock)
    assert held == [f"{site.assigner_system}|4711"]


@pytest.mark.requirement("M9")
def test_the_endpoint(client: FhirClient, site: Site) -> None:
    outcome = registered(ensure_study(client, [instance()], site, "create", endpoint_address=ADDRESS + "studies"))
    stored = client.read("ImagingStudy", outcome.imaging_study_id)
    assert stored
    endpoint = client.read("Endpoint", stored["endpoint"][0]["reference"].removeprefix("Endpoint/"))
    assert endpoint
    assert endpoint["address"] == "https://app.example/dicomweb"
    assert endpoint["connectionType"]["code"] == "dicom-wado-rs"
    assert json.dumps(endpoint).count("requires-access-token") == 1

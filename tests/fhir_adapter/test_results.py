"""Publishing against a real FHIR server."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
from collections.abc import Callable
from typing import Any

import httpx
import pypdf
import pytest

from fhir_adapter.client import FhirClient
from fhir_adapter.diagnostic_report import report_id
from fhir_adapter.errors import FhirRetryable
from fhir_adapter.findings import PerImage
from fhir_adapter.register import Registered, ensure_study
from fhir_adapter.results import Published, bundle, publish
from imaging_core.errors import Retryable
from imaging_core.sites import Site
from tests.fhir_adapter.analyses import MODEL, finding, not_analysed, result
from tests.fhir_adapter.conftest import Wire
from tests.fhir_adapter.headers import instance

Resource = dict[str, Any]


@pytest.fixture
def header(client: FhirClient, site: Site) -> Resource:
    """A registered study of one chest radiograph."""
    made = instance(AccessionNumber="A1", StudyDescription="Thorax")
    outcome = ensure_study(client, [made], site, "create")
    assert isinstance(outcome, Registered)
    return made


def read(client: FhirClient, published: Published, type_: str) -> list[Resource]:
    found = []
    for name in published.resources:
        kind, _, id_ = name.partition("/")
        if kind == type_:
            resource = client.read(kind, id_)
            assert resource
            found.append(resource)
    return found


def report_of(client: FhirClient, published: Published) -> Resource:
    return read(client, published, "DiagnosticReport")[0]


def versions(client: FhirClient, published: Published) -> dict[str, str]:
    held = {}
    for name in published.resources:
        resource = client.read(*name.split("/"))
        assert resource
        held[name] = resource["meta"]["versionId"]
    return held


def sign(client: FhirClient, report: Resource, status: str = "final", state: str | None = None) -> Resource:
    """Do what a signer does, by the shortest way."""
    for item in report["result"]:
        observation = client.read(*item["reference"].split("/"))
        assert observation
        changed = {**observation, "status": status}
        if state:
            changed["valueCodeableConcept"] = {"coding": [{"system": "http://snomed.info/sct", "code": state}]}
        client.update(changed, if_match=observation["meta"]["versionId"])
    return client.update({**report, "status": status}, if_match=report["meta"]["versionId"])


@pytest.mark.requirement("R1", "R5", "R9")
def test_the_report(client: FhirClient, header: Resource) -> None:
    published = publish(client, result(header))
    report = report_of(client, published)
    assert report["status"] == "preliminary"
    assert {coding["code"] for item in report["category"] for coding in item["coding"]} == {"RAD", "LP29684-5"}
    assert report["code"]["coding"][0]["code"] == "36554-4"
    assert report["subject"]["reference"].startswith("Patient/")
    assert report["effectiveDateTime"] == "2024-02-29T10:15:30+01:00"
    assert report["issued"]
    assert report["imagingStudy"][0]["reference"].startswith("ImagingStudy/")
    assert report["result"] == [{"reference": name} for name in published.resources if name.startswith("Observation/")]
    assert report["conclusionCode"][0]["coding"][0]["code"] == "RID28530"
    assert report["basedOn"][0]["identifier"]["value"] == "A1"
    assert "Automated analysis, not reviewed." in report["conclusion"]
    assert "Lung opacity, version 1.0.0" in report["conclusion"]
    assert "probability 0.83" in report["conclusion"]
    assert report["meta"]["security"][0]["code"] == "AIAST"
    assert "resultsInterpreter" not in report
    study_uid = header["0020000D"]["Value"][0]
    assert report["identifier"][0]["value"] == f"{study_uid}/chest-opacity/0"
    assert report["id"] == report_id(study_uid, "chest-opacity", 0)
    media = read(client, published, "Media")[0]
    assert report["media"][0]["link"]["reference"] == f"Media/{media['id']}"
    assert media["content"]["contentType"] == "image/jpeg"


@pytest.mark.requirement("R1", "R9")
@pytest.mark.parametrize(("language", "words"), [("en", "NOT REVIEWED"), ("fr", "NON RELUE")])
def test_the_document(client: FhirClient, header: Resource, language: str, words: str) -> None:
    report = report_of(client, publish(client, result(header, language=language)))
    form = report["presentedForm"][0]
    assert (form["contentType"], form["language"]) == ("application/pdf", language)
    shown = document_text(base64.b64decode(form["data"]))
    for wanted in (words, "Jane Doe", "1970-01-31", "4711", "Thorax", "A1", "Test hospital", "1.0.0"):
        assert wanted in shown
    assert ("0,83" if language == "fr" else "0.83") in shown


def document_text(document: bytes) -> str:
    """Return the words of a PDF."""
    return " ".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(document)).pages)


@pytest.mark.requirement("R9")
def test_the_reports_words_in_french(client: FhirClient, header: Resource) -> None:
    report = report_of(client, publish(client, result(header, language="fr")))
    assert report["conclusion"].split("\n") == [
        "Analyse automatisée, non relue.",
        "Opacité pulmonaire (pneumonie possible) : présence (probabilité 0,83, seuil 0,50).",
        "Modèle : Opacité pulmonaire, version 1.0.0.",
    ]
    assert report["language"] == "fr"


@pytest.mark.requirement("R2")
@pytest.mark.parametrize(
    ("state", "code", "interpretation"),
    [("present", "52101004", "POS"), ("absent", "2667000", "NEG"), ("indeterminate", "82334004", "IND")],
)
def test_the_observation(client: FhirClient, header: Resource, state: Any, code: str, interpretation: str) -> None:
    found = finding(state, 0.456789, band=(0.4, 0.6), per_image=(PerImage("1.2", 0.4568), PerImage("1.3", 0.1)))
    published = publish(client, result(header, found))
    observation = read(client, published, "Observation")[0]
    assert observation["status"] == "preliminary"
    assert observation["category"][0]["coding"][0]["code"] == "imaging"
    assert observation["code"]["coding"][0] == {"system": "http://radlex.org", "code": "RID28530", "display": "opacity"}
    assert observation["valueCodeableConcept"]["coding"][0]["code"] == code
    assert observation["interpretation"][0]["coding"][0]["code"] == interpretation
    values = [(c["code"]["coding"][0]["code"], c["valueQuantity"]["value"]) for c in observation["component"]]
    assert values == [
        ("probability", 0.4568),
        ("threshold", 0.5),
        ("band-low", 0.4),
        ("band-high", 0.6),
        ("image-probability", 0.4568),
        ("image-probability", 0.1),
    ]
    assert observation["bodySite"]["coding"][0]["code"] == "39607008"
    assert observation["method"]["text"] == "Lung opacity 1.0.0"
    assert observation["derivedFrom"][0]["reference"].startswith("ImagingStudy/")
    device = read(client, published, "Device")[0]
    assert observation["device"]["reference"] == f"Device/{device['id']}"
    assert "performer" not in observation
    assert observation["subject"] == report_of(client, published)["subject"]
    assert observation["effectiveDateTime"] == "2024-02-29T10:15:30+01:00"


@pytest.mark.requirement("R3")
def test_what_the_model_was_not_made_for_gets_no_finding(client: FhirClient, header: Resource) -> None:
    published = publish(client, not_analysed(header, "not-frontal"))
    observation = read(client, published, "Observation")[0]
    assert "valueCodeableConcept" not in observation
    assert "component" not in observation
    assert observation["dataAbsentReason"]["text"] == "not a frontal view"
    assert observation["dataAbsentReason"]["coding"][0]["code"] == "not-performed"
    assert "interpretation" not in observation
    report = report_of(client, published)
    assert "Not analysed: not a frontal view." in report["conclusion"]
    assert "conclusionCode" not in report
    assert "Automated analysis, not reviewed." in report["conclusion"]
    assert "Lung opacity, version 1.0.0" in report["conclusion"], "which model it was not made for"


@pytest.mark.requirement("R3")
def test_no_model_no_report(client: FhirClient, header: Resource, wire: Wire) -> None:
    wire.requests.clear()
    published = publish(client, not_analysed(header, "no-model"))
    assert (published.skipped_reason, published.report_id, published.resources) == ("no-model", None, ())
    assert not wire.requests
    wanted = publish(client, not_analysed(header, "no-model", report_without_model=True))
    assert "no model for this examination" in report_of(client, wanted)["conclusion"]


@pytest.mark.requirement("R4")
def test_the_device(client: FhirClient, header: Resource, wire: Wire) -> None:
    udi = "(01)04012345678901(10)1.0.0"
    published = publish(client, result(header, model=dataclasses.replace(MODEL, udi=udi)))
    device = read(client, published, "Device")[0]
    assert device["udiCarrier"] == [{"carrierHRF": udi}]
    assert device["deviceName"] == [{"name": "Lung opacity", "type": "user-friendly-name"}]
    assert device["type"]["coding"][0]["code"] == "Medical-Image-Analysis"
    report = report_of(client, published)
    assert all(item.get("type") == "Organization" for item in report["performer"]), "a Device may not be one in R4"
    assert device["identifier"][0]["value"] == "chest-opacity:1.0.0"
    assert device["version"][0]["value"] == "1.0.0"
    assert device["manufacturer"] == "Imaging"
    assert device["contained"][0]["content"][0]["attachment"]["url"] == MODEL.model_card_url
    newer = dataclasses.replace(MODEL, version="1.1.0")
    wire.requests.clear()
    other = publish(client, result(header, model=newer))
    assert read(client, other, "Device")[0]["id"] != device["id"]
    written = [item for item in wire.requests if item.method == "PUT" or b'"type":"transaction"' in item.content]
    assert "/Device/" in str(written[0].url), "before the transaction that refers to it"
    assert written[1].method == "POST"


@pytest.mark.requirement("R5")
def test_the_provenance(client: FhirClient, header: Resource) -> None:
    published = publish(client, result(header))
    provenance = read(client, published, "Provenance")[0]
    targets = {item["reference"] for item in provenance["target"]}
    assert targets == {name for name in published.resources if not name.startswith(("Provenance/", "Device/"))}
    assert provenance["reason"][0]["coding"][0]["code"] == "AIAST"
    assert provenance["agent"][0]["who"]["reference"].startswith("Device/")
    image = next(e for e in provenance["entity"] if e["what"]["identifier"]["system"] == "urn:dicom:uid")
    assert image["what"]["identifier"]["value"] == f"urn:oid:{header['00080018']['Value'][0]}"
    assert image["extension"][0]["valueString"] == "cd" * 32
    assert any(e["what"]["identifier"]["value"] == MODEL.model_card_url for e in provenance["entity"])
    assert provenance["meta"]["security"][0]["code"] == "AIAST"
    assert provenance["agent"][0]["who"]["reference"] in published.resources
    labels = [r["meta"]["security"][0]["code"] for t in ("Observation", "Media") for r in read(client, published, t)]
    assert set(labels) == {"AIAST"}


@pytest.mark.requirement("I1", "I3")
def test_the_same_result_again_changes_nothing(client: FhirClient, header: Resource, wire: Wire) -> None:
    first = publish(client, result(header))
    before = versions(client, first)
    wire.requests.clear()
    again = publish(client, result(header, created="2030-01-01T00:00:00Z"))
    assert again.written == ()
    assert again.resources == first.resources
    assert not wire.writes
    # neither do the last digits of another machine's arithmetic, nor another encoding of the same picture
    said = result(header).findings[0]
    noise = tuple(PerImage(item.sop_uid, item.probability + 4e-5) for item in said.per_image)
    noisy = dataclasses.replace(said, probability=0.83004, per_image=noise)
    picture = result(header).key_image_picture + b"\x00"
    assert publish(client, result(header, noisy, key_image_picture=picture)).written == ()
    assert not wire.writes
    assert versions(client, publish(client, result(header))) == before


@pytest.mark.requirement("I1", "I2")
def test_another_model_updates_the_unsigned_report(client: FhirClient, header: Resource, wire: Wire) -> None:
    first = publish(client, result(header))
    newer = dataclasses.replace(MODEL, version="2.0.0")
    second = publish(client, result(header, finding("absent", 0.1), model=newer))
    assert second.report_id == first.report_id
    assert second.revision == 0
    _, old = client.history("DiagnosticReport", str(first.report_id))
    assert "present" in old["conclusion"]
    assert not [name for name in second.resources if name not in first.resources and not name.startswith("Device/")]
    assert all(b"ifNoneExist" not in request.content for request in wire.requests)
    for entry in json.loads(wire.writes[-1].content)["entry"]:
        assert entry["request"]["method"] == "PUT"
        assert entry["request"]["ifMatch"], "an update is conditional on the version that was read"


@pytest.mark.requirement("R2")
def test_a_finding_that_is_no_longer_looked_for_is_cancelled(client: FhirClient, header: Resource) -> None:
    other = finding(code="RID5350", display="effusion", key="effusion")
    first = publish(client, result(header, finding(), other))
    second = publish(client, result(header))
    gone = next(name for name in first.resources if name.startswith("Observation/") and name not in second.resources)
    resource = client.read(*gone.split("/"))
    assert resource
    assert resource["status"] == "cancelled"
    assert gone not in [item["reference"] for item in report_of(client, second)["result"]]
    # and comes back where the other model looks again
    third = publish(client, result(header, finding(), other))
    assert third.revision == 0
    assert gone in third.resources
    back = client.read(*gone.split("/"))
    assert back
    assert back["status"] == "preliminary"


CAUSES: list[tuple[str, Callable[[Resource], Any]]] = [
    ("the same again", lambda header: result(header)),
    ("another probability", lambda header: result(header, finding(probability=0.91))),
    ("another model, same finding", lambda header: result(header, model=dataclasses.replace(MODEL, version="9"))),
    ("another language", lambda header: result(header, language="fr")),
    ("a rebuild at another time", lambda header: result(header, created="2031-01-01T00:00:00Z")),
]


@pytest.mark.requirement("R7")
@pytest.mark.parametrize("status", ["final", "amended", "corrected", "cancelled"])
@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause[0])
def test_a_signed_report_is_not_touched(
    client: FhirClient, header: Resource, wire: Wire, status: str, cause: tuple[str, Callable[[Resource], Any]]
) -> None:
    first = publish(client, result(header))
    sign(client, report_of(client, first), status)
    before = versions(client, first)
    wire.requests.clear()
    again = publish(client, cause[1](header))
    assert again.skipped_reason == "signed"
    assert again.report_id == first.report_id
    assert not wire.writes
    assert versions(client, first) == before


@pytest.mark.requirement("R7", "I1")
def test_what_is_new_after_a_signature_is_a_new_report(client: FhirClient, header: Resource) -> None:
    first = publish(client, result(header))
    sign(client, report_of(client, first))
    before = versions(client, first)
    revisions: list[int] = []
    second = publish(client, result(header, finding("absent", 0.1)), before_write=revisions.append)
    assert (second.revision, revisions) == (1, [1])
    assert not set(second.resources) & set(first.resources) - {f"Device/{second.resources[-1].split('/')[1]}"}
    report = report_of(client, second)
    assert report["status"] == "preliminary"
    assert report["identifier"][0]["value"].endswith("/chest-opacity/1")
    follows = [e for e in read(client, second, "Provenance")[0]["entity"] if e["role"] == "revision"]
    assert follows[0]["what"]["reference"] == f"DiagnosticReport/{first.report_id}"
    assert versions(client, first) == before
    # the second one is the machine's to update until somebody signs it
    third = publish(client, result(header, finding("absent", 0.2)))
    assert third.revision == 1
    again = publish(client, result(header, finding("absent", 0.2)))
    assert again.written == ()
    sign(client, report_of(client, third))
    assert publish(client, result(header, finding("indeterminate", 0.5))).revision == 2


@pytest.mark.requirement("R7")
def test_a_signer_who_corrected_the_finding_is_not_contradicted_by_a_repetition(
    client: FhirClient, header: Resource
) -> None:
    first = publish(client, result(header))
    sign(client, report_of(client, first), state="2667000")
    assert publish(client, result(header)).skipped_reason == "signed"  # the machine said so before
    assert publish(client, result(header, finding("absent", 0.1))).skipped_reason == "signed"  # the signer said so
    assert publish(client, result(header, finding("indeterminate", 0.5))).revision == 1


@pytest.mark.requirement("R7", "I2")
def test_a_signature_between_reading_and_writing_wins(client: FhirClient, header: Resource, wire: Wire) -> None:
    first = publish(client, result(header))
    signed: list[Resource] = []

    def race(request: httpx.Request) -> httpx.Response | None:
        if not signed and b'"type":"transaction"' in request.content:
            signed.append({})
            signed.append(sign(client, report_of(client, first)))
        return None

    wire.before = race
    second = publish(client, result(header, finding("absent", 0.1)))
    assert second.revision == 1
    assert report_of(client, first)["meta"]["versionId"] == signed[1]["meta"]["versionId"]


@pytest.mark.requirement("R7", "I2")
def test_a_signature_after_an_answer_that_got_lost_wins(client: FhirClient, header: Resource, wire: Wire) -> None:
    """The first try made the report, its answer got lost, and a person signed before the second try."""
    lost: list[Resource] = []

    def lose(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if not lost and b'"type":"transaction"' in request.content:
            lost.append({})
            uid = header["0020000D"]["Value"][0]
            report = client.read("DiagnosticReport", report_id(uid, "chest-opacity", 0))
            assert report
            lost.append(sign(client, report))
            raise httpx.ReadTimeout("the answer got lost")
        return response

    wire.after = lose
    published = publish(client, result(header))
    assert published.skipped_reason == "signed"
    assert report_of(client, Published((f"DiagnosticReport/{published.report_id}",)))["status"] == "final"


@pytest.mark.requirement("R7")
def test_a_report_of_others_under_our_id_is_not_written(client: FhirClient, header: Resource) -> None:
    first = publish(client, result(header))
    report = report_of(client, first)
    client.update({**report, "identifier": [{"system": "urn:others", "value": "1"}]}, report["meta"]["versionId"])
    assert publish(client, result(header, finding("absent", 0.1))).revision == 1


def test_a_study_that_is_not_registered(client: FhirClient) -> None:
    with pytest.raises(Retryable) as caught:
        publish(client, result(instance()))
    assert caught.value.code == "study-not-registered"


def test_a_server_that_stays_away_is_retryable(client: FhirClient, header: Resource, wire: Wire) -> None:
    wire.before = lambda request: httpx.Response(503, headers={"Retry-After": "30"})
    with pytest.raises(FhirRetryable) as caught:
        publish(client, result(header))
    assert caught.value.retry_after == 30


@pytest.mark.requirement("I3")
def test_calls_of_one_result(client: FhirClient, header: Resource, wire: Wire) -> None:
    publish(client, result(header))
    wire.requests.clear()
    publish(client, result(header, finding("absent", 0.1)))
    assert len(wire.requests) == 3


def test_a_bundle_for_those_who_ask_for_fhir(header: Resource) -> None:
    made = bundle(result(header), base_url="https://fhir.example")
    kinds = [entry["resource"]["resourceType"] for entry in made["entry"]]
    assert kinds == ["DiagnosticReport", "Observation", "Media", "Provenance", "Device"]
    assert made["entry"][0]["fullUrl"].startswith("https://fhir.example/DiagnosticReport/")
    json.dumps(made)

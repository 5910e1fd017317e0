"""Signing, rejecting and amending against a real FHIR server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from fhir_adapter.client import FhirClient
from fhir_adapter.errors import FhirRetryable, PreconditionFailed
from fhir_adapter.register import Registered, ensure_study
from fhir_adapter.results import publish
from fhir_adapter.severity import severity_of
from fhir_adapter.signoff import Assessment, Signed, Signer, amend, reject, restore, sign
from imaging_core.errors import Permanent
from imaging_core.sites import Site
from tests import fhir_validation
from tests.fhir_adapter.analyses import finding, not_analysed, result
from tests.fhir_adapter.conftest import Wire
from tests.fhir_adapter.headers import instance

Resource = dict[str, Any]
SIGNER = Signer("Dr Marie Curie", "https://ehr.example/fhir", "Practitioner/7")


class Kept(list[Resource]):
    """The durable copies of a test."""

    def __call__(self, copy: Resource) -> None:
        self.append(copy)


@pytest.fixture
def keep() -> Kept:
    return Kept()


@pytest.fixture
def header(client: FhirClient, site: Site) -> Resource:
    made = instance()
    assert isinstance(ensure_study(client, [made], site, "create"), Registered)
    return made


@pytest.fixture
def report(client: FhirClient, header: Resource) -> Resource:
    """A preliminary report."""
    published = publish(client, result(header))
    stored = client.read("DiagnosticReport", str(published.report_id))
    assert stored
    return stored


def observation(client: FhirClient, report: Resource) -> Resource:
    stored = client.read(*report["result"][0]["reference"].split("/"))
    assert stored
    return stored


def version(resource: Resource) -> str:
    """Return the version, which is not a number on every server."""
    return str(resource["meta"]["versionId"])


def provenance(client: FhirClient, signed: Signed) -> Resource:
    stored = client.read(*signed.provenance.split("/"))
    assert stored
    return stored


@pytest.mark.requirement("R6")
def test_sign(client: FhirClient, report: Resource, keep: Kept) -> None:
    signed = sign(client, report["id"], version(report), SIGNER, keep)
    stored = client.read("DiagnosticReport", report["id"])
    assert stored
    assert stored["status"] == "final"
    assert stored["meta"]["versionId"] == signed.version_id != report["meta"]["versionId"]
    assert stored["resultsInterpreter"] == [
        {
            "type": "Practitioner",
            "identifier": {"system": "https://ehr.example/fhir", "value": "Practitioner/7"},
            "display": "Dr Marie Curie",
        }
    ]
    assert "Reviewed and signed by Dr Marie Curie" in stored["conclusion"]
    assert "not reviewed" not in stored["conclusion"]
    assert stored["presentedForm"][0]["data"] != report["presentedForm"][0]["data"]
    assert observation(client, stored)["status"] == "final"
    act = provenance(client, signed)
    assert act["agent"][0]["who"]["display"] == "Dr Marie Curie"
    assert {item["reference"] for item in act["target"]} == {
        f"DiagnosticReport/{report['id']}",
        report["result"][0]["reference"],
    }
    original = client.vread("DiagnosticReport", report["id"], version(report))
    assert original
    assert original["conclusion"] == report["conclusion"], "what the machine said stays readable"


@pytest.mark.requirement("R6")
def test_sign_a_finding_as_the_signer_left_it(client: FhirClient, report: Resource, keep: Kept) -> None:
    before = observation(client, report)
    sign(
        client, report["id"], version(report), SIGNER, keep, findings={before["id"]: "absent"}, conclusion="No opacity."
    )
    after = observation(client, report)
    assert after["valueCodeableConcept"]["coding"][0]["code"] == "2667000"
    assert after["interpretation"][0]["coding"][0]["code"] == "NEG"
    assert after["component"] == before["component"], "the model's probability stays as what the model said"
    stored = client.read("DiagnosticReport", report["id"])
    assert stored
    assert stored["conclusion"] == "No opacity."
    assert "conclusionCode" not in stored
    with pytest.raises(Permanent, match="does not belong"):
        amend(client, report["id"], version(stored), SIGNER, keep, "typo", findings={"other": "absent"})


@pytest.mark.requirement("R6", "R3")
def test_a_person_may_say_what_the_model_could_not(
    client: FhirClient,
    header: Resource,
    keep: Kept,
    validate_resources: Callable[[list[Resource]], list[fhir_validation.Issue]],
) -> None:
    """A finding that was not assessed stays so under a signature, unless the signer states it himself."""
    published = publish(client, not_analysed(header, "not-frontal"))
    held = client.read("DiagnosticReport", str(published.report_id))
    assert held
    first = sign(client, held["id"], version(held), SIGNER, keep)
    untouched = observation(client, held)
    assert untouched["status"] == "final"
    assert untouched["dataAbsentReason"]["text"] == "not a frontal view"
    assert "valueCodeableConcept" not in untouched
    amend(client, held["id"], first.version_id, SIGNER, keep, "seen", findings={untouched["id"]: "present"})
    stated = observation(client, held)
    assert stated["valueCodeableConcept"]["coding"][0]["code"] == "52101004"
    assert "dataAbsentReason" not in stated
    after = client.read("DiagnosticReport", held["id"])
    assert after
    assert after["conclusionCode"][0]["coding"] == stated["code"]["coding"]
    kept = [entry["resource"] for copy in keep for entry in copy["entry"]]
    assert validate_resources(kept) == []


@pytest.mark.requirement("R6")
def test_on_behalf_of_the_signer(client: FhirClient, report: Resource, keep: Kept) -> None:
    signer = Signer("Dr Curie", system="http://hl7.org/fhir/sid/us-npi", value="1234567893")
    act = provenance(client, sign(client, report["id"], version(report), signer, keep, written_by="imaging app"))
    assert act["agent"][1]["onBehalfOf"] == signer.reference()
    assert act["agent"][0]["who"]["identifier"]["value"] == "1234567893"
    assert Signer("x", fhir_user="Practitioner/1", local=True).reference()["reference"] == "Practitioner/1"


@pytest.mark.requirement("R6")
def test_reject(client: FhirClient, report: Resource, keep: Kept, header: Resource) -> None:
    signed = reject(client, report["id"], version(report), SIGNER, keep, "motion blur")
    stored = client.read("DiagnosticReport", report["id"])
    assert stored
    assert stored["status"] == "cancelled"
    assert "motion blur" in stored["conclusion"]
    assert observation(client, stored)["status"] == "cancelled"
    assert provenance(client, signed)["reason"] == [{"text": "motion blur"}]
    assert "resultsInterpreter" not in stored, "nobody stands for what is rejected"
    assert "conclusionCode" not in stored
    with pytest.raises(Permanent, match="reason"):
        reject(client, report["id"], version(report), SIGNER, keep, " ")
    assert publish(client, result(header)).skipped_reason == "signed"


@pytest.mark.requirement("R6")
def test_amend(client: FhirClient, report: Resource, keep: Kept) -> None:
    with pytest.raises(PreconditionFailed, match="not signed"):
        amend(client, report["id"], version(report), SIGNER, keep, "why")
    first = sign(client, report["id"], version(report), SIGNER, keep)
    id_ = observation(client, report)["id"]
    second = amend(client, report["id"], first.version_id, SIGNER, keep, "second look", findings={id_: "indeterminate"})
    stored = client.read("DiagnosticReport", report["id"])
    assert stored
    assert stored["status"] == "amended"
    assert observation(client, stored)["status"] == "amended"
    assert provenance(client, second)["reason"] == [{"text": "second look"}]
    assert second.provenance != first.provenance
    third = amend(client, report["id"], second.version_id, SIGNER, keep, "typo", status="corrected", conclusion="x")
    assert third.report["status"] == "corrected"
    assert observation(client, stored)["status"] == "amended", "what is not changed is not written"
    assert len(keep) == 3


@pytest.mark.requirement("R6", "I2")
def test_another_version_than_the_person_saw(
    client: FhirClient, report: Resource, header: Resource, keep: Kept
) -> None:
    publish(client, result(header, finding("absent", 0.1)))
    with pytest.raises(PreconditionFailed, match="changed"):
        sign(client, report["id"], version(report), SIGNER, keep)
    newer = client.read("DiagnosticReport", report["id"])
    assert newer
    signed = sign(client, report["id"], version(newer), SIGNER, keep)
    with pytest.raises(PreconditionFailed, match="already"):
        sign(client, report["id"], signed.version_id, SIGNER, keep)
    with pytest.raises(Permanent, match="not-found"):
        sign(client, "nobody", "1", SIGNER, keep)


@pytest.mark.requirement("R6", "I2")
def test_a_race_is_told_and_not_tried_again(
    client: FhirClient, report: Resource, header: Resource, keep: Kept, wire: Wire
) -> None:
    done: list[bool] = []

    def machine_is_faster(request: httpx.Request) -> httpx.Response | None:
        if not done and b'"type":"transaction"' in request.content:
            done.append(True)
            publish(client, result(header, finding("absent", 0.1)))
        return None

    wire.before = machine_is_faster
    with pytest.raises(PreconditionFailed):
        sign(client, report["id"], version(report), SIGNER, keep)
    stored = client.read("DiagnosticReport", report["id"])
    assert stored
    assert stored["status"] == "preliminary"


@pytest.mark.requirement("R6")
def test_without_a_durable_copy_nothing_is_signed(client: FhirClient, report: Resource, wire: Wire) -> None:
    def full(_: Resource) -> None:
        raise OSError("no space")

    wire.requests.clear()
    with pytest.raises(OSError, match="no space"):
        sign(client, report["id"], version(report), SIGNER, full)
    assert not wire.writes


@pytest.mark.requirement("R6")
@pytest.mark.parametrize("arrived", [True, False])
def test_an_answer_that_gets_lost(client: FhirClient, report: Resource, keep: Kept, wire: Wire, arrived: bool) -> None:
    def lose_before(request: httpx.Request) -> httpx.Response | None:
        if b'"type":"transaction"' in request.content:
            raise httpx.ReadTimeout("lost")
        return None

    def lose_after(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if b'"type":"transaction"' in request.content:
            raise httpx.ReadTimeout("lost")
        return response

    if arrived:
        wire.after = lose_after
        assert sign(client, report["id"], version(report), SIGNER, keep).version_id != version(report)
    else:
        wire.before = lose_before
        with pytest.raises(FhirRetryable):
            sign(client, report["id"], version(report), SIGNER, keep)
    assert len([item for item in wire.writes if b"Dr Marie Curie" in item.content]) == 1


@pytest.mark.requirement("R6")
def test_a_lost_answer_is_not_taken_for_another_person_s_act(client: FhirClient, report: Resource, keep: Kept) -> None:
    def too_late(_: object) -> list[Resource]:
        sign(
            client,
            report["id"],
            version(report),
            Signer("Dr Irène Joliot", "https://ehr.example/fhir", "Practitioner/8"),
            keep,
        )
        raise FhirRetryable("the answer, a 412, got lost")

    with pytest.raises(PreconditionFailed, match="somebody else"):
        sign(client, report["id"], version(report), SIGNER, keep, write=too_late)


@pytest.mark.requirement("R6")
def test_the_signer_s_own_token_may_write(client: FhirClient, report: Resource, keep: Kept) -> None:
    sent: list[int] = []

    def with_token(entries: Any) -> list[Resource]:
        sent.append(len(entries))
        return client.transaction(entries)

    assert sign(client, report["id"], version(report), SIGNER, keep, write=with_token).version_id != version(report)
    assert sent == [3]


@pytest.mark.requirement("R6")
def test_what_was_said_before_stays_readable(client: FhirClient, report: Resource, keep: Kept) -> None:
    sign(client, report["id"], version(report), SIGNER, keep)
    versions = client.history("DiagnosticReport", report["id"])
    assert [item["status"] for item in versions] == ["final", "preliminary"]
    assert versions[1]["conclusion"] == report["conclusion"]
    assert client.history("DiagnosticReport", "nobody") == []


@pytest.mark.requirement("R6", "R7")
def test_a_lost_signature_is_restored_from_its_copy(
    client: FhirClient, report: Resource, header: Resource, keep: Kept
) -> None:
    sign(client, report["id"], version(report), SIGNER, keep)
    stored = client.read("DiagnosticReport", report["id"])
    assert stored
    assert not restore(client, keep[0]), "nothing was lost"
    # the service goes back to a backup from before the signature, and the machine writes again
    for item in (report, observation(client, report) | {"status": "preliminary"}):
        held = client.read(item["resourceType"], item["id"])
        assert held
        client.update({**item, "issued": "2099-01-01T00:00:00Z"}, held["meta"]["versionId"])
    assert restore(client, keep[0])
    after = client.read("DiagnosticReport", report["id"])
    assert after
    assert {key: value for key, value in after.items() if key != "meta"} == {
        key: value for key, value in stored.items() if key != "meta"
    }
    # but a later signature is not undone by an earlier copy
    amend(client, report["id"], after["meta"]["versionId"], SIGNER, keep, "later", conclusion="x")
    assert not restore(client, keep[0])


@pytest.mark.requirement("R6")
def test_what_a_person_signs_is_valid(
    client: FhirClient,
    report: Resource,
    keep: Kept,
    validate_resources: Callable[[list[Resource]], list[fhir_validation.Issue]],
) -> None:
    sign(client, report["id"], version(report), SIGNER, keep, written_by="imaging app")
    assert validate_resources([entry["resource"] for entry in keep[0]["entry"]]) == []


@pytest.mark.requirement("R6")
def test_a_severity_is_kept_with_the_finding_and_said_in_the_report(
    client: FhirClient,
    report: Resource,
    keep: Kept,
    validate_resources: Callable[[list[Resource]], list[fhir_validation.Issue]],
) -> None:
    before = observation(client, report)
    sign(
        client, report["id"], version(report), SIGNER, keep, findings={before["id"]: Assessment("present", "moderate")}
    )
    after = observation(client, report)
    assert severity_of(after) == "moderate"
    assert after["component"][: len(before["component"])] == before["component"], "what the model said stays"
    stored = client.read("DiagnosticReport", report["id"])
    assert stored
    assert "(moderate): present" in stored["conclusion"]
    assert validate_resources([entry["resource"] for entry in keep[0]["entry"]]) == []
    second = amend(client, report["id"], version(stored), SIGNER, keep, "x", findings={before["id"]: "present"})
    assert severity_of(observation(client, report)) == "moderate", "a state alone leaves the severity"
    third = Assessment("present", "severe")
    amend(client, report["id"], second.version_id, SIGNER, keep, "x", findings={before["id"]: third})
    assert severity_of(observation(client, report)) == "severe"
    latest = version(client.read("DiagnosticReport", report["id"]) or {})
    amend(client, report["id"], latest, SIGNER, keep, "x", findings={before["id"]: Assessment("absent", "severe")})
    assert severity_of(observation(client, report)) is None, "what is not there has no severity"

"""The right to sign: the rule is parsed strictly, and asked of the EHR's own PractitionerRoles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from clinician_app.signing_right import SignersRule, SigningRights, find_right
from imaging_core.errors import Permanent
from tests.clinician_app.conftest import MARIE, READER_SCOPES, SIGNERS, Clinic, registration
from tests.clinician_app.made_up_chart import practitioner
from tests.clinician_app.odd_fhir import bundle, of_resources, refusal, running

RULE = SignersRule.parse(SIGNERS)
NPI = {"system": "http://hl7.org/fhir/sid/us-npi", "value": "1234567893"}


@pytest.mark.requirement("R6")
@pytest.mark.parametrize(
    ("rule", "roles"),
    [
        ("", set()),
        ("  ", set()),
        (SIGNERS, {("http://snomed.info/sct", "66862007")}),
        ("PractitionerRole.code in urn:oid:1.2|A, urn:oid:1.2|B", {("urn:oid:1.2", "A"), ("urn:oid:1.2", "B")}),
    ],
)
def test_a_rule(rule: str, roles: set[tuple[str, str]]) -> None:
    assert SignersRule.parse(rule).roles == roles


@pytest.mark.requirement("R6")
@pytest.mark.parametrize(
    "rule",
    [
        "*",
        "anybody",
        "Practitioner.active = true",
        "PractitionerRole.code = http://snomed.info/sct|66862007",
        "PractitionerRole.code in 66862007",
        "PractitionerRole.code in |66862007",
        "PractitionerRole.code in http://snomed.info/sct|",
        "PractitionerRole.code in http://snomed.info/sct|*|x",
        "PractitionerRole.code in http://snomed.info/sct|1 or true",
        "PractitionerRole.specialty in http://snomed.info/sct|1",
        "PractitionerRole.code in",
        "practitionerrole.code in http://snomed.info/sct|1",
    ],
)
def test_a_rule_that_is_half_understood_stops_the_start(rule: str) -> None:
    with pytest.raises(Permanent, match="signers"):
        SignersRule.parse(rule)


def _right(
    make_clinic: Callable[..., Clinic],
    resources: list[dict[str, Any]],
    *,
    fhir_user: str = "Practitioner/lefevre",
    scopes: str = READER_SCOPES,
    rule: SignersRule = RULE,
) -> Any:
    with running(of_resources(*resources)) as server:
        clinic = make_clinic(registration(server.base))
        launch_id = clinic.launch(MARIE, scopes=scopes, fhir_user=fhir_user).removeprefix("/l/")
        with clinic.app.test_request_context(f"/l/{launch_id}/", headers={"Cookie": _cookie(clinic, launch_id)}):
            launch = clinic.services.smart.require(launch_id)
            return find_right(launch, clinic.services.smart.fhir(launch), rule, local=False)


def _cookie(clinic: Clinic, launch_id: str) -> str:
    found = clinic.client.get_cookie(f"__Host-launch-{launch_id}", domain="localhost")
    assert found
    return f"{found.key}={found.value}"


@pytest.mark.requirement("R6", "S64")
@pytest.mark.parametrize("fhir_user", ["Practitioner/lefevre", "PractitionerRole/lefevre-role"])
def test_the_role_gives_the_right_and_the_ehr_the_name(make_clinic: Callable[..., Clinic], fhir_user: str) -> None:
    person, role = practitioner("lefevre", "66862007")
    person["identifier"] = [{"system": "urn:other", "value": "1"}, NPI]
    right = _right(make_clinic, [person, role], fhir_user=fhir_user)
    assert right.signer.display == "Dr. Lefevre"
    assert (right.signer.system, right.signer.value) == (NPI["system"], NPI["value"])
    assert right.signer.fhir_user == fhir_user
    assert right.signer.local is False


@pytest.mark.requirement("R6", "S66")
def test_without_the_practitioner_the_claim_is_enough_for_a_name(make_clinic: Callable[..., Clinic]) -> None:
    _, role = practitioner("lefevre", "66862007")
    assert _right(make_clinic, [role]).signer.display == "Dr. Lefevre"
    del role["practitioner"]["display"]
    assert _right(make_clinic, [role]).signer.display == "Practitioner/lefevre"


@pytest.mark.requirement("R6")
@pytest.mark.parametrize(
    "changes",
    [
        {"code": [{"coding": [{"system": "http://snomed.info/sct", "code": "62247001"}]}]},
        {"code": [{"coding": [{"system": "urn:another-system", "code": "66862007"}]}]},
        {"code": [{"coding": [{"code": "66862007"}]}]},
        {"code": [{"text": "66862007"}]},
        {"code": []},
        {"active": False},
        {"period": {"end": "2020-01-01"}},
        {"period": {"start": "2999-01-01"}},
        {"period": {"end": "soon"}},
        {"practitioner": {"reference": "Practitioner/somebody-else"}},
        {"practitioner": {"reference": "https://elsewhere.example/fhir/Practitioner/lefevre"}},
        {"practitioner": {"display": "Dr. Lefevre"}},
    ],
)
def test_what_is_no_such_role_gives_no_right(make_clinic: Callable[..., Clinic], changes: dict[str, Any]) -> None:
    right = _right(make_clinic, practitioner("lefevre", "66862007", **changes))
    assert (right.signer, right.why_not) == (None, "no-role")


@pytest.mark.requirement("R6")
def test_a_second_role_may_give_the_right(make_clinic: Callable[..., Clinic]) -> None:
    other = {**practitioner("lefevre", "62247001")[1], "id": "other-role"}
    assert _right(make_clinic, [other, *practitioner("lefevre", "66862007")]).signer is not None


@pytest.mark.requirement("R6", "S50")
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"fhir_user": ""}, "no-user"),
        ({"fhir_user": "Patient/lefevre"}, "no-user"),
        ({"rule": SignersRule()}, "no-rule"),
        ({"scopes": "launch patient/Patient.rs"}, "not-known"),
        ({"fhir_user": "PractitionerRole/nobody"}, "not-known"),
        ({"fhir_user": "Practitioner/nobody"}, "no-role"),
    ],
)
def test_no_right(make_clinic: Callable[..., Clinic], changes: dict[str, Any], why: str) -> None:
    right = _right(make_clinic, practitioner("lefevre", "66862007"), **changes)
    assert (right.signer, right.why_not) == (None, why)


@pytest.mark.requirement("R6")
@pytest.mark.parametrize("status", [403, 404, 429, 500, 503])
def test_a_lookup_that_fails_is_no_right_and_is_not_remembered(make_clinic: Callable[..., Clinic], status: int) -> None:
    roles = practitioner("lefevre", "66862007")
    with running(lambda path, query: refusal(status)) as server:
        clinic = make_clinic(registration(server.base, signers=SIGNERS))
        launch_id = clinic.launch(MARIE, scopes=READER_SCOPES).removeprefix("/l/")
        with clinic.app.test_request_context(headers={"Cookie": _cookie(clinic, launch_id)}):
            launch = clinic.services.smart.require(launch_id)
            session = clinic.services.smart.fhir(launch)
            rights = SigningRights({"ehr": RULE})
            assert rights.of(launch, session, local=False).signer is None
            server.answer = lambda path, query: bundle(*(item for item in roles if item["resourceType"] in path))
            assert rights.of(launch, session, local=False).signer is not None
            server.answer = lambda path, query: refusal(503)
            assert rights.of(launch, session, local=False).signer is not None, "remembered for a moment"
            assert rights.of(launch, session, local=False, fresh=True).signer is None, "an act asks anew"

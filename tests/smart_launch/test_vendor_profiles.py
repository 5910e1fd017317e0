"""Launches from EHRs that behave as their vendors' documents say."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from html import unescape
from typing import Any

import psycopg
import pytest

from smart_launch import SessionStore
from tests.smart_launch.scene import Scene, query_of, refused
from tests.smart_launch.strict_ehr import json_answer, raw_answer
from tests.smart_launch.test_fhir_session import bundle, study
from tests.smart_launch.test_refresh import expire
from tests.smart_launch.vendor_profiles import PROFILES, Profile, azure_gateway, epic, oracle_health

Make = Callable[..., "Launched"]


class Launched:
    """A profile and the application that is registered with it."""

    def __init__(self, profile: Profile, sessions: SessionStore) -> None:
        self.profile, self.ehr, self.fhir = profile, profile.ehr, profile.fhir
        self.scene = Scene(profile.ehr, sessions, [profile.registration])

    def answer(self, launch: str = "launch-1", iss: str = "") -> dict[str, str]:
        response = self.scene.start(iss=iss or self.profile.registration.iss, launch=launch)
        if response.status_code == 302:
            found = self.ehr.authorize(response.location)
        else:
            fields = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)"', response.text)
            assert f'action="{self.ehr.origin}/authorize"' in response.text, response.text
            found = self.ehr.grant({name: unescape(value) for name, value in fields})
        issuer = self.ehr.configuration().get("issuer")
        if "iss" in found and not self.ehr.discovery.get("authorization_response_iss_parameter_supported"):
            del found["iss"]  # most EHRs do not send it yet
        elif issuer:
            found["iss"] = issuer
        return found

    def callback(self, **options: Any) -> Any:
        response = self.scene.callback(self.answer(**options), name=self.profile.registration.name)
        self.profile.sync_tokens()
        return response

    def launch(self, **options: Any) -> str:
        response = self.callback(**options)
        assert response.status_code == 303, response.text
        return str(response.location)


@pytest.fixture
def made(sessions: SessionStore) -> Iterator[Make]:
    with ExitStack() as stack:

        def make(profile: Callable[..., Profile], **changes: Any) -> Launched:
            found = profile(**changes)
            stack.callback(found.stop)
            return Launched(found, sessions)

        yield make


@pytest.mark.requirement("S5", "S23", "S27", "S62")
@pytest.mark.parametrize("name", PROFILES)
def test_a_launch_opens_the_patient_and_reads_him(made: Make, name: str) -> None:
    launched = made(PROFILES[name])
    path = launched.launch()
    home = launched.scene.home(path)
    patient = home["patient"]
    assert patient == launched.ehr.token.get("patient", "p1")
    assert home["fhir_user"].startswith("Practitioner/")
    assert home["issuer"] == launched.ehr.claims.get("iss", launched.ehr.origin)
    launched.fhir.resources[f"Patient/{patient}"] = {"resourceType": "Patient", "id": patient}
    assert launched.scene.home(f"{path}patient")["id"] == patient
    assert launched.ehr.failures == []


# Epic


@pytest.mark.requirement("S6", "S24", "S36")
def test_epic_launch_and_code_are_long_jwts_and_the_request_is_posted(made: Make) -> None:
    launched = made(epic)
    launch = "eyJhbGciOiJSUzI1NiJ9." + "A" * 3000 + ".sig"
    answer = launched.answer(launch=launch)
    grant = launched.ehr.grants.pop(answer["code"])
    assert grant.parameters["launch"] == launch
    code = "eyJ0eXAiOiJKV1QifQ." + "b" * 4000
    launched.ehr.grants[code] = grant
    assert launched.scene.callback({**answer, "code": code}, name="epic").status_code == 303


@pytest.mark.requirement("S13", "S18", "S63")
def test_epic_discovery_names_the_client_and_its_keys_are_below_oauth2(made: Make) -> None:
    launched = made(epic)
    launched.launch()
    first = launched.ehr.seen[0]
    assert first.headers["Epic-Client-Id"] == launched.ehr.client_id
    assert first.headers["Accept"] == "application/json"
    assert "/oauth2/.well-known/openid-configuration" in launched.ehr.paths()
    assert all("Epic-Client-Id" not in item.headers for item in launched.ehr.seen if item.path == "/token")


@pytest.mark.requirement("S42", "XF5")
def test_epic_secret_is_form_encoded_before_base64(made: Make) -> None:
    launched = made(epic)
    launched.launch()
    sent = launched.ehr.last("/token").headers["Authorization"].removeprefix("Basic ")
    assert base64.b64decode(sent) == b"11aa22bb-cc:q%2Fw%2Be%3D"


@pytest.mark.requirement("S50", "S60")
def test_epic_s_words_for_scopes_count_for_what_they_allow(made: Make) -> None:
    launched = made(epic)
    path = launched.launch()
    home = launched.scene.home(path)
    assert home["may_read_studies"] is False  # ImagingStudy.read without ImagingStudy.search
    assert home["banner"] is True  # "true" in quotes does not hide it either
    assert "dstu2" not in str(home)


@pytest.mark.requirement("S76")
def test_epic_gives_no_refresh_token_and_the_end_is_friendly(made: Make, owner: psycopg.Connection[Any]) -> None:
    launched = made(epic)
    path = launched.launch()
    expire(owner, path)
    refused(launched.scene.get(f"{path}patient"), "launch-ended")
    assert launched.ehr.paths().count("/token") == 1


@pytest.mark.requirement("S64")
def test_epic_s_user_is_taken_from_his_address_below_oauth2_which_is_never_read(made: Make) -> None:
    launched = made(epic)
    assert launched.scene.home(launched.launch())["fhir_user"] == "Practitioner/eM5CWtq15N0WJeuCet5bJlQ3"
    assert all("Practitioner" not in path for path in launched.ehr.paths())


@pytest.mark.requirement("S62")
def test_epic_before_2020_named_the_token_url_as_issuer(made: Make) -> None:
    launched = made(epic)
    launched.ehr.claims["iss"] = launched.ehr.token_url
    refused(launched.callback(), "identity-unproven")  # only the issuer of the registration is believed


# Oracle Health


@pytest.mark.requirement("S8", "S27")
def test_oracle_gets_aud_with_its_slash_however_iss_was_sent(made: Make) -> None:
    for iss in ("{}", "{}/"):
        launched = made(oracle_health)
        answer = launched.answer(iss=iss.format(launched.ehr.iss))
        assert launched.ehr.grants[answer["code"]].parameters["aud"] == f"{launched.ehr.iss}/"
        assert launched.ehr.paths() == [f"{launched.ehr.path}/.well-known/smart-configuration"]


@pytest.mark.requirement("S50", "S65")
@pytest.mark.parametrize(
    "scope",
    ["openid fhirUser launch online_access", "launch patient/Patient.rs", "launch online_access", ""],
)
def test_oracle_grants_what_it_has_left_of_the_request(made: Make, scope: str) -> None:
    """Reported: everything but identity dropped; patient scopes dropped; `openid` missing, hence no id_token."""
    launched = made(oracle_health)
    launched.ehr.token |= {"scope": scope}
    if "openid" not in scope:
        launched.ehr.token["id_token"] = None
    home = launched.scene.home(launched.launch())
    assert home["may_read_studies"] is False
    assert home["patient"] == "12724066"
    assert (home["subject"] is None) is ("openid" not in scope)


@pytest.mark.requirement("S65")
def test_oracle_without_identity_is_refused_where_the_registration_insists(made: Make) -> None:
    launched = made(oracle_health, require_identity=True)
    launched.ehr.token |= {"scope": "launch patient/Patient.rs", "id_token": None}
    refused(launched.callback(), "identity-unproven")


@pytest.mark.requirement("S32", "S74")
def test_oracle_s_short_token_is_refreshed_while_the_ehr_is_open(made: Make, owner: psycopg.Connection[Any]) -> None:
    launched = made(oracle_health)
    path = launched.launch()
    launched.fhir.resources["Patient/12724066"] = {"resourceType": "Patient", "id": "12724066"}
    expire(owner, path)
    assert launched.scene.home(f"{path}patient")["id"] == "12724066"
    launched.ehr.refresh_tokens.clear()  # the user has closed PowerChart
    expire(owner, path)
    refused(launched.scene.get(f"{path}patient"), "launch-ended")


@pytest.mark.requirement("S58")
def test_oracle_s_tenant_is_kept_and_opens_nothing(made: Make) -> None:
    launched = made(oracle_health)
    path = launched.launch()
    launched.fhir.resources["Patient/other"] = {"resourceType": "Patient", "id": "other"}
    refused(launched.scene.get(f"{path}read/Patient/other"), "fhir-denied")
    launched.ehr.token["tenant"] = ["not", "text"]
    assert launched.callback().status_code == 303


@pytest.mark.requirement("S69", "S71")
def test_oracle_s_pages_hold_outcomes_among_the_entries(made: Make) -> None:
    launched = made(oracle_health)
    path = launched.launch()
    outcome = {"resourceType": "OperationOutcome", "issue": [{"severity": "warning", "code": "processing"}]}
    second = f"{launched.ehr.iss}/ImagingStudy?pageContextId=7&pageDirection=NEXT"
    launched.fhir.fhir_answer = lambda rest: json_answer(
        bundle(outcome, study("b", patient="12724066"))
        if "pageContextId" in launched.fhir.seen[-1].query
        else bundle(study("a", patient="12724066"), outcome, following=second)
    )
    assert launched.scene.get(f"{path}studies").get_json() == ["a", "b"]


@pytest.mark.requirement("S69")
def test_oracle_s_missing_right_is_explained(made: Make) -> None:
    launched = made(oracle_health)
    path = launched.launch()
    launched.fhir.fhir_answer = lambda rest: raw_answer(
        '{"error": "insufficient_scope", "error_description": "no_scope_for_resource_path"}', 403
    )
    response = launched.scene.get(f"{path}studies")
    refused(response, "fhir-denied")
    assert "no_scope_for_resource_path" not in response.text


@pytest.mark.requirement("S5")
@pytest.mark.parametrize("query", ["PAT_PersonId=12724066&USR_PersonId=5", ""])
def test_powerchart_without_a_smart_launch_gets_a_page_that_helps(made: Make, query: str) -> None:
    launched = made(oracle_health)
    response = launched.scene.get(f"/launch?{query}")
    refused(response, "launch-incomplete")
    assert "12724066" not in response.text


# Azure Health Data Services with a gateway


@pytest.mark.requirement("S22", "S18", "S62", "S67")
def test_azure_each_host_gets_what_is_meant_for_it(made: Make) -> None:
    launched = made(azure_gateway)
    path = launched.launch()
    launched.fhir.resources["Patient/az-patient"] = {"resourceType": "Patient", "id": "az-patient"}
    assert launched.scene.home(f"{path}patient")["id"] == "az-patient"
    (login,) = launched.profile.others
    assert set(login.paths()) == {"/tenant/v2.0/.well-known/openid-configuration", "/jwks"}
    assert all("Authorization" not in item.headers for item in login.seen)
    assert set(launched.fhir.paths()) == {"/fhir/Patient/az-patient"}
    assert "/api/Patient/az-patient" not in launched.ehr.paths()
    grant = next(iter(launched.ehr.grants.values()))
    assert grant.parameters["aud"] == launched.fhir.iss


@pytest.mark.requirement("S24")
def test_azure_s_gateway_takes_no_post(made: Make) -> None:
    launched = made(azure_gateway)
    response = launched.scene.start(iss=launched.profile.registration.iss, launch="x" * 3000)
    assert response.status_code == 302
    assert query_of(response.location)["launch"] == "x" * 3000


@pytest.mark.requirement("S50")
@pytest.mark.parametrize(
    ("scope", "may"),
    [
        ("patient.ImagingStudy.rs", True),
        ("https://workspace-fhir.fhir.azurehealthcareapis.com/patient.ImagingStudy.rs", True),
        ("api://7d1c0b0e/patient.all.rs", True),
        ("patient.all.read", True),
        ("patient.ImagingStudy.r", False),
        ("user_impersonation", False),
    ],
)
def test_azure_s_dotted_scopes_are_understood(made: Make, scope: str, may: bool) -> None:
    launched = made(azure_gateway)
    launched.ehr.token["scope"] = scope
    assert launched.scene.home(launched.launch())["may_read_studies"] is may


@pytest.mark.requirement("S51")
def test_azure_s_gateway_may_have_forgotten_the_patient(made: Make) -> None:
    """Its sample keeps the context in memory: after a restart the token comes with a banner and without a patient."""
    launched = made(azure_gateway)
    launched.ehr.token |= {"patient": None, "need_patient_banner": True}
    refused(launched.callback(), "no-patient")


@pytest.mark.requirement("S13", "S22")
def test_azure_s_iss_may_be_the_fhir_service_while_discovery_is_at_the_gateway(made: Make) -> None:
    launched = made(azure_gateway)
    gateway, fhir = launched.ehr, launched.fhir
    moved = made(
        azure_gateway,
        iss=fhir.iss,
        discovery=gateway.iss,
        fhir_base="",
        aud="",
        issuer=launched.profile.registration.issuer,
        client_secret=gateway.client_secret,
    )
    moved.profile.ehr, moved.ehr, moved.fhir, moved.profile.fhir = gateway, gateway, fhir, fhir
    path = moved.launch()
    fhir.resources["Patient/az-patient"] = {"resourceType": "Patient", "id": "az-patient"}
    assert moved.scene.home(f"{path}patient")["id"] == "az-patient"
    assert "/fhir/.well-known/smart-configuration" not in fhir.paths()


@pytest.mark.requirement("S20", "S62")
def test_azure_s_tenants_are_told_apart_by_their_issuer(made: Make) -> None:
    launched = made(azure_gateway)
    launched.ehr.claims["iss"] = launched.ehr.claims["iss"].replace("/tenant/", "/another-tenant/")
    refused(launched.callback(), "identity-unproven")


# others


@pytest.mark.requirement("S11")
def test_a_standalone_launch_sends_no_launch_value_at_all(made: Make) -> None:
    """EClinicalWorks refuses even an empty one."""
    for name, profile in PROFILES.items():
        launched = made(profile)
        sent = query_of(launched.scene.get(f"/login?ehr={name}").location)
        assert "launch" not in sent
        assert "launch" not in sent["scope"].split()
        assert "launch/patient" in sent["scope"].split()


@pytest.mark.requirement("S35", "S88")
def test_keycloak_s_issuer_in_the_callback_is_its_realm_and_required(made: Make) -> None:
    launched = made(PROFILES["keycloak"])
    answer = launched.answer()
    assert answer["iss"].endswith("/realms/hospital")
    del answer["iss"]
    refused(launched.scene.callback(answer, name="keycloak"), "wrong-issuer")

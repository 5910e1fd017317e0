"""The whole launch, between the application and the sandbox EHR, as a browser drives it."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import Any

import pytest

from smart_launch import SmartLaunch
from smart_launch.signing_keys import SigningKey
from tests.smart_launch.conftest import SCOPES, Sandbox, with_registration


@pytest.mark.requirement("S5", "S13", "S23", "S27", "S43", "S45", "S62")
def test_launch_from_the_chart_opens_the_chart_s_patient(neutral: Sandbox) -> None:
    browser = neutral.browser()
    address = neutral.launch(browser, "smart-1")
    shown = json.loads(browser.get(address).text)
    assert shown["patient"] == "smart-1"
    assert shown["issuer"] == neutral.origin
    assert shown["subject"] == "sandbox-radiologist"
    assert shown["fhir_user"] == "Practitioner/sandbox-radiologist"
    assert shown["banner"] is False
    assert shown["may_read_studies"] is True
    assert json.loads(browser.get(f"{address}patient").text)["id"] == "smart-1"
    assert json.loads(browser.get(f"{address}studies").text) == ["smart-1-study"]


@pytest.mark.requirement("S10", "XB11")
def test_two_patients_in_one_browser(neutral: Sandbox) -> None:
    browser = neutral.browser()
    first, second = neutral.launch(browser, "smart-1"), neutral.launch(browser, "smart-2")
    assert json.loads(browser.get(f"{first}studies").text) == ["smart-1-study"]
    assert json.loads(browser.get(f"{second}studies").text) == ["smart-2-study"]
    # the EHR itself holds each token to its patient
    assert browser.get(f"{first}read/ImagingStudy/smart-2-study").status == 403


@pytest.mark.requirement("S11", "S12")
def test_standalone_launch_chooses_a_patient(neutral: Sandbox) -> None:
    browser = neutral.browser()
    page = browser.get(f"{neutral.app_origin}/login")
    page = browser.follow(browser.get(page.location or page.url))
    page = browser.follow(browser.get(f"{neutral.app_origin}/login?ehr=sandbox"))
    assert "Sign in to the EHR" in page.text
    target, _ = page.form()
    page = browser.follow(browser.post(target, {"user": "sandbox-physician"}))
    assert "Choose a patient" in page.text
    target, _ = page.form()
    page = browser.follow(browser.post(target, {"patient": "smart-2"}))
    shown = json.loads(page.text)
    assert shown["patient"] == "smart-2"
    assert shown["fhir_user"] == "Practitioner/sandbox-physician"
    assert shown["banner"] is True


@pytest.mark.requirement("S79", "S80")
def test_logout_revokes_the_tokens_at_the_ehr(neutral: Sandbox) -> None:
    browser = neutral.browser()
    address = neutral.launch(browser, "smart-1")
    shown = json.loads(browser.get(address).text)
    assert browser.post(f"{address}logout", {"csrf_token": shown["csrf_token"]}).status == 200
    assert browser.get(address).status == 401


@pytest.mark.requirement("S73", "S74")
def test_refresh_at_the_sandbox(neutral: Sandbox) -> None:
    browser = neutral.browser()
    address = neutral.launch(browser, "smart-1")
    neutral.control("PUT", "state", {})
    launch_id = address.rstrip("/").rpartition("/")[2]
    with neutral.smart.sessions._connection() as connection:
        connection.execute(
            "UPDATE app.launch_token SET expires_at = now() - interval '1 minute' WHERE launch_id = %s", (launch_id,)
        )
    assert json.loads(browser.get(f"{address}patient").text)["id"] == "smart-1"


@pytest.mark.requirement("S50")
def test_narrower_scopes_are_what_counts(neutral: Sandbox) -> None:
    neutral.control("PUT", "state", {"grantScope": "launch openid fhirUser patient/Patient.rs"})
    browser = neutral.browser()
    address = neutral.launch(browser, "smart-1")
    assert json.loads(browser.get(address).text)["may_read_studies"] is False
    assert browser.get(f"{address}studies").status == 403
    assert json.loads(browser.get(f"{address}patient").text)["id"] == "smart-1"


@pytest.mark.requirement("S53", "S55", "S56")
def test_context_of_the_ehr_s_choice(neutral: Sandbox) -> None:
    context = {
        "need_patient_banner": True,
        "intent": "review",
        "fhirContext": [{"reference": "ImagingStudy/smart-1-study"}],
    }
    neutral.control("PUT", "state", {"context": context})
    browser = neutral.browser()
    shown = json.loads(browser.get(neutral.launch(browser, "smart-1")).text)
    assert shown["banner"] is True
    assert shown["intent"] == "review"
    assert shown["context"][0]["reference"] == "ImagingStudy/smart-1-study"


@pytest.mark.requirement("S62", "XD1", "XD4", "XD5", "XD6", "XD8")
@pytest.mark.parametrize(
    "fault",
    [
        {"idTokenClaims": {"iss": "https://evil.example"}},
        {"idTokenClaims": {"aud": "other"}},
        {"idTokenClaims": {"nonce": None}},
        {"idTokenClaims": {"exp": 1}},
        {"idTokenKey": "foreign"},
        {"idTokenKey": "none"},
        {"idTokenHeader": {"jku": "https://evil.example"}},
        {"tokenResponse": {"id_token": None}},
        {"tokenResponse": {"token_type": "mac"}},
        {"tokenResponse": {"patient": "../x"}},
        {"tokenFault": {"status": 500, "body": "down"}},
    ],
)
def test_wrong_answers_of_the_sandbox_open_nothing(neutral: Sandbox, fault: dict[str, Any]) -> None:
    neutral.control("PUT", "state", fault)
    browser = neutral.browser()
    page = browser.follow(browser.get(neutral.launch_url(browser, "smart-1")))
    assert page.status == 502
    assert "/callback/sandbox" in page.url
    assert not any(name.startswith("__Host-launch-") for name in browser.cookies["app.localhost"])


@pytest.mark.requirement("S16", "S21", "XA5", "XA6")
@pytest.mark.parametrize(
    "fault",
    [
        {"discoveryFault": {"status": 500}},
        {"discoveryFault": {"body": "<html></html>"}},
        {"discoveryFault": {"location": "https://evil.example/"}},
        {"discoveryFault": {"bytes": 5_000_000}},
        {"discovery": {"code_challenge_methods_supported": ["plain"]}},
        {"discovery": {"authorization_endpoint": "https://evil.example/authorize"}},
        {"discovery": {"token_endpoint": None}},
    ],
)
def test_wrong_discovery_of_the_sandbox(neutral: Sandbox, fault: dict[str, Any]) -> None:
    neutral.control("PUT", "state", fault)
    neutral.smart.discovery.forget(neutral.smart.registrations[0])
    browser = neutral.browser()
    page = browser.get(neutral.launch_url(browser, "smart-1"))
    assert page.status == 502
    neutral.smart.discovery.forget(neutral.smart.registrations[0])


@pytest.mark.requirement("S68", "XE1", "XE3")
def test_foreign_links_and_resources_of_the_sandbox(neutral: Sandbox) -> None:
    browser = neutral.browser()
    address = neutral.launch(browser, "smart-1")
    planted = {"resourceType": "ImagingStudy", "id": "planted", "subject": {"reference": "Patient/smart-2"}}
    neutral.control("PUT", "state", {"extraEntries": [{"resource": planted}]})
    assert json.loads(browser.get(f"{address}studies").text) == ["smart-1-study"]
    neutral.control("PUT", "state", {"bundle": {"link": [{"relation": "next", "url": "https://evil.test/fhir"}]}})
    assert browser.get(f"{address}studies").status == 403


@pytest.mark.requirement("S43", "S44")
def test_an_rsa_key_works_as_well(neutral: Sandbox, rsa_keys: tuple[SigningKey, ...]) -> None:
    smart = with_registration(neutral.smart, signing_keys=neutral.smart.registrations[0].signing_keys + rsa_keys)
    neutral.serve(with_registration(smart, signing_keys=rsa_keys))
    # a client of its own, for the EHR keeps the first one's key set for a while
    neutral.control(
        "POST",
        "clients",
        {
            "client_id": "imaging-rsa",
            "redirect_uris": [f"{neutral.app_origin}/callback/sandbox"],
            "token_endpoint_auth_method": "private_key_jwt",
            "jwks_uri": f"{neutral.app_origin}/.well-known/jwks.json",
            "scopes": SCOPES,
        },
    )
    neutral.serve(with_registration(smart, signing_keys=rsa_keys, client_id="imaging-rsa"))
    assert json.loads(_page(neutral))["patient"] == "smart-1"


def _page(sandbox: Sandbox) -> str:
    browser = sandbox.browser()
    return browser.get(sandbox.launch(browser, "smart-1")).text


@pytest.mark.requirement("S85", "S86")
def test_a_browser_without_cookies_gets_a_page_and_no_loop(neutral: Sandbox) -> None:
    browser = neutral.browser()
    url = neutral.launch_url(browser, "smart-1")
    browser.cookies["app.localhost"] = {}
    page = browser.get(url)
    browser.cookies["app.localhost"] = {}
    page = browser.follow(browser.get(page.location), until=f"{neutral.app_origin}/callback")
    browser.cookies["app.localhost"] = {}
    page = browser.get(page.location)
    assert page.status == 400
    assert 'target="_blank"' in page.text


@pytest.mark.requirement("S38", "XB10", "XC10")
def test_no_secret_shows_up_in_addresses_of_the_app(neutral: Sandbox) -> None:
    browser = neutral.browser()
    address = neutral.launch(browser, "smart-1")
    browser.get(f"{address}studies")
    for visited in browser.visited:
        if neutral.app_origin in visited and "/l/" in visited:
            assert "?" not in visited


@pytest.mark.requirement("S10", "XB5")
def test_many_launches_at_once_are_not_mixed_up(neutral: Sandbox) -> None:
    results: list[tuple[str, str]] = []
    failures: list[BaseException] = []

    def run(patient: str) -> None:
        try:
            browser = neutral.browser()
            shown = json.loads(browser.get(neutral.launch(browser, patient)).text)
            results.append((patient, shown["patient"]))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(f"smart-{1 + index % 2}",)) for index in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(results) == 16
    assert all(asked == shown for asked, shown in results)


@pytest.mark.requirement("S35")
def test_the_sandbox_s_issuer_is_checked(neutral: Sandbox) -> None:
    changed = replace(neutral.smart.registrations[0], issuer="https://ehr.localhost:1")
    neutral.serve(SmartLaunch([changed], neutral.smart.sessions, neutral.app_origin, rate_limit_per_address=0))
    browser = neutral.browser()
    page = browser.follow(browser.get(neutral.launch_url(browser, "smart-1")))
    assert page.status == 400

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
    tokens = neutral.smart.sessions.tokens(address.rstrip("/").rpartition("/")[2])
    assert tokens is not None

    def at_the_ehr() -> int:
        bearer = {"Authorization": f"Bearer {tokens.access_token}"}
        return neutral.browser().get(f"{neutral.iss}/Patient/smart-1", bearer).status

    assert at_the_ehr() == 200
    assert browser.post(f"{address}logout", {"csrf_token": shown["csrf_token"]}).status == 200
    assert browser.get(address).status == 401
    assert at_the_ehr() == 401


@pytest.mark.requirement("S79")
def test_launches_that_an_administrator_ends_are_ended_at_the_ehr_too(neutral: Sandbox) -> None:
    browser = neutral.browser()
    addresses = [neutral.launch(browser, patient) for patient in ("smart-1", "smart-2")]
    ids = [address.rstrip("/").rpartition("/")[2] for address in addresses]
    tokens = [neutral.smart.sessions.tokens(launch_id) for launch_id in ids]
    assert neutral.smart.revoke(ids) == 2
    for address, token in zip(addresses, tokens, strict=True):
        assert token is not None
        assert browser.get(address).status == 401
        bearer = {"Authorization": f"Bearer {token.access_token}"}
        assert neutral.browser().get(f"{neutral.iss}/Patient/smart-1", bearer).status == 401
    assert neutral.smart.revoke(ids) == 0


@pytest.mark.requirement("S32", "S76")
def test_without_online_access_there_is_no_refresh_token_and_the_launch_ends_with_its_token(neutral: Sandbox) -> None:
    scopes = SCOPES.replace(" online_access", "")
    neutral.serve(with_registration(neutral.smart, scopes=scopes))
    browser = neutral.browser()
    address = neutral.launch(browser, "smart-1")
    launch_id = address.rstrip("/").rpartition("/")[2]
    tokens = neutral.smart.sessions.tokens(launch_id)
    assert tokens is not None
    assert tokens.refresh_token is None
    assert json.loads(browser.get(f"{address}patient").text)["id"] == "smart-1"
    with neutral.smart.sessions._connection() as connection:
        connection.execute(
            "UPDATE app.launch_token SET expires_at = now() - interval '1 minute' WHERE launch_id = %s", (launch_id,)
        )
    page = browser.get(f"{address}patient")
    assert page.status == 401
    assert "Your session in this app has ended" in page.text


@pytest.mark.requirement("S24")
def test_a_long_request_is_posted_to_the_sandbox(neutral: Sandbox) -> None:
    categories = " ".join(f"patient/Observation.rs?category=http://example.org/category|c{n}" for n in range(30))
    neutral.serve(with_registration(neutral.smart, scopes=f"{SCOPES} {categories}"))
    browser = neutral.browser()
    page = browser.get(neutral.launch_url(browser, "smart-1"))
    assert page.status == 200
    target, fields = page.form()
    assert target == f"{neutral.origin}/oauth/authorize"
    page = browser.follow(browser.post(target, fields, {"Sec-Fetch-Site": "cross-site"}))
    assert json.loads(page.text)["patient"] == "smart-1"


@pytest.mark.requirement("S45", "S63")
def test_the_ehr_rotates_its_keys_without_an_outage(neutral: Sandbox) -> None:
    """Published beside the old key, then signing, then alone: no launch fails on the way."""
    smart = with_registration(neutral.smart)
    neutral.serve(smart)

    def launched(**state: str) -> str:
        neutral.control("PUT", "state", state)
        smart.issuer_keys = type(smart.issuer_keys)()  # as after the time for which keys are kept
        return str(json.loads(_page(neutral))["subject"])

    assert launched() == "sandbox-radiologist"
    assert launched(publishedKeys="both") == "sandbox-radiologist"
    assert launched(publishedKeys="both", idTokenKey="next") == "sandbox-radiologist"
    assert launched(publishedKeys="next", idTokenKey="next") == "sandbox-radiologist"
    # a key that has been taken back is not believed any more
    neutral.control("PUT", "state", {"publishedKeys": "next", "idTokenKey": "own", "idTokenClaims": {"x": 1}})
    browser = neutral.browser()
    assert browser.follow(browser.get(neutral.launch_url(browser, "smart-1"))).status == 502


@pytest.mark.requirement("S63", "XD13")
def test_the_sandbox_s_key_set_fails(neutral: Sandbox) -> None:
    for fault in ({"status": 500}, {"body": "<html>"}, {"location": "https://evil.example/jwks"}, {"bytes": 2_000_000}):
        neutral.control("PUT", "state", {"jwksFault": fault})
        neutral.serve(with_registration(neutral.smart))
        browser = neutral.browser()
        page = browser.follow(browser.get(neutral.launch_url(browser, "smart-1")))
        assert page.status == 502
    neutral.control("DELETE", "state")
    neutral.serve(with_registration(neutral.smart))
    assert json.loads(_page(neutral))["patient"] == "smart-1"


@pytest.mark.requirement("S50")
@pytest.mark.parametrize(
    ("scope", "may"),
    [
        ("launch openid fhirUser patient/*.read", True),
        ("launch openid fhirUser patient/Patient.read patient/ImagingStudy.read", True),
        ("openid Patient.read Patient.search ImagingStudy.read ImagingStudy.search", True),
        ("launch openid fhirUser patient/*.cruds user/*.cruds", True),
        ("launch openid fhirUser patient/ImagingStudy.r", False),
        ("", False),
    ],
)
def test_scopes_in_other_words_of_the_sandbox(neutral: Sandbox, scope: str, may: bool) -> None:
    neutral.control("PUT", "state", {"tokenResponse": {"scope": scope}})
    assert json.loads(_page(neutral))["may_read_studies"] is may


@pytest.mark.requirement("S52", "S53", "S55", "S56", "S57", "S58")
def test_every_member_of_a_context_of_the_sandbox(neutral: Sandbox) -> None:
    context = {
        "encounter": "enc-1",
        "need_patient_banner": True,
        "intent": "reconcile-medications",
        "smart_style_url": f"{neutral.origin}/style.json",
        "tenant": "t-1",
        "fhirContext": [
            {"reference": "ImagingStudy/smart-1-study"},
            {"reference": "DiagnosticReport/smart-1-report", "role": "launch"},
            {"reference": f"{neutral.iss}/ImagingStudy/absolute", "role": "https://roles.example/prior"},
            {"identifier": {"system": "urn:dicom:uid", "value": "urn:oid:1.2.3"}, "type": "ImagingStudy"},
        ],
    }
    neutral.control("PUT", "state", {"context": context})
    shown = json.loads(_page(neutral))
    assert (shown["encounter"], shown["banner"], shown["intent"]) == ("enc-1", True, "reconcile-medications")
    assert [item["reference"] for item in shown["context"]] == [
        "ImagingStudy/smart-1-study",
        "DiagnosticReport/smart-1-report",
        "ImagingStudy/absolute",
        "",
    ]
    assert shown["context"][3]["identifier_value"] == "urn:oid:1.2.3"
    requests = neutral.control("GET", "log")
    assert not [item for item in requests if "style.json" in item["url"]]


@pytest.mark.requirement("S21", "XA6")
def test_a_slow_discovery_is_given_up(neutral: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smart_launch.guarded_http._READ_S", 0.3)
    neutral.control("PUT", "state", {"discoveryFault": {"delayMs": 5_000}})
    neutral.serve(with_registration(neutral.smart))
    browser = neutral.browser()
    assert browser.get(neutral.launch_url(browser, "smart-1")).status == 502


@pytest.mark.requirement("XE4", "S69")
def test_what_a_record_holds_is_no_code(neutral: Sandbox) -> None:
    planted = {
        "resourceType": "ImagingStudy",
        "id": "<script>alert(1)</script>",
        "subject": {"reference": "Patient/smart-1"},
    }
    browser = neutral.browser()
    address = neutral.launch(browser, "smart-1")
    neutral.control("PUT", "state", {"extraEntries": [{"resource": planted}]})
    page = browser.get(f"{address}studies")
    assert page.headers["Content-Type"] == "application/json"
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    neutral.control("PUT", "state", {"fhirFault": {"status": 503, "headers": {"retry-after": "9"}}})
    page = browser.get(f"{address}studies")
    assert (page.status, page.headers["Retry-After"]) == (503, "9")


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

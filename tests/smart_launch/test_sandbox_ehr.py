"""The sandbox EHR refuses what a strict EHR refuses, and shows an app no more than its token allows."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from typing import Any
from urllib.parse import urlencode

import pytest
from joserfc import jwt

from smart_launch.client_auth import client_assertion
from smart_launch.discovery import SmartConfiguration
from smart_launch.signing_keys import SigningKey
from tests.smart_launch.browser import Browser, Page
from tests.smart_launch.conftest import SCOPES, Sandbox
from tests.smart_launch.scene import query_of

VERIFIER = "v" * 50
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
REDIRECT = "https://tester.localhost/callback"
BASIC_SECRET = "s/e+c%r:e t"


class RawClient:
    """A client that can send anything."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.browser = sandbox.browser()
        self.browser.get(f"{sandbox.origin}/")

    def new_launch(self, patient: str = "smart-1", **context: Any) -> str:
        return str(self.sandbox.control("POST", "launches", {"patient": patient, **context})["launch"])

    def parameters(self, **changes: str | None) -> dict[str, str]:
        good: dict[str, str | None] = {
            "response_type": "code",
            "client_id": "tester",
            "redirect_uri": REDIRECT,
            "scope": SCOPES,
            "state": "s" * 32,
            "nonce": "n" * 32,
            "aud": self.sandbox.iss,
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
        }
        if "launch" not in changes:
            good["launch"] = self.new_launch()
        if "openid" not in (changes.get("scope") or SCOPES).split():
            good["nonce"] = None  # belongs to OpenID Connect; the engine refuses it otherwise
        return {name: value for name, value in {**good, **changes}.items() if value is not None}

    def authorize(self, **changes: str | None) -> dict[str, str]:
        page = self.send(self.parameters(**changes))
        assert page.status in (302, 303), page.text
        return query_of(page.location)

    def send(self, parameters: dict[str, str]) -> Page:
        url = f"{self.sandbox.origin}/oauth/authorize?{urlencode(parameters)}"
        return self.browser.follow(self.browser.get(url), until=REDIRECT)

    def exchange(self, authorization_code: str, **changes: str | None) -> tuple[int, dict[str, Any]]:
        form = {
            "grant_type": "authorization_code",
            "code": authorization_code,
            "redirect_uri": REDIRECT,
            "code_verifier": VERIFIER,
            "client_id": "tester",
        }
        return self.post({**form, **changes})

    def post(self, form: dict[str, str | None], headers: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
        sent = urlencode({name: value for name, value in form.items() if value is not None})
        fields = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded", **(headers or {})}
        page = self.sandbox.browser()._send("POST", f"{self.sandbox.origin}/oauth/token", sent, fields)
        return page.status, json.loads(page.text)

    def token(self, scope: str = SCOPES, patient: str = "smart-1") -> str:
        answer = self.authorize(scope=scope, launch=self.new_launch(patient))
        status, document = self.exchange(answer["code"])
        assert status == 200, document
        return str(document["access_token"])

    def fhir(self, token: str | None, path: str, method: str = "GET", resource: Any = None) -> tuple[int, Any]:
        browser = self.sandbox.browser()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        headers["Content-Type"] = "application/fhir+json"
        body = json.dumps(resource) if resource is not None else None
        page = browser._send(method, f"{self.sandbox.iss}/{path}", body, headers)
        return page.status, json.loads(page.text or "null")


@pytest.fixture
def tester(neutral: Sandbox) -> RawClient:
    neutral.control(
        "POST",
        "clients",
        {
            "client_id": "tester",
            "redirect_uris": [REDIRECT],
            "token_endpoint_auth_method": "none",
            "scopes": "patient/*.cruds user/*.rs",
        },
    )
    return RawClient(neutral)


def test_a_good_request_gets_all_that_smart_asks_for(tester: RawClient) -> None:
    answer = tester.authorize()
    assert answer["state"] == "s" * 32
    assert answer["iss"] == tester.sandbox.origin
    status, document = tester.exchange(answer["code"])
    assert status == 200, document
    assert document["token_type"] == "Bearer"
    assert document["patient"] == "smart-1"
    assert document["need_patient_banner"] is True
    assert set(document["scope"].split()) == set(SCOPES.split())
    assert document["expires_in"] > 0
    assert document["refresh_token"]
    assert document["id_token"].count(".") == 2


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"aud": None}, "invalid_request"),
        ({"aud": "https://evil.example/fhir"}, "invalid_request"),
        ({"aud": "{iss}/"}, "invalid_request"),
        ({"code_challenge": None, "code_challenge_method": None}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge_method": None}, "invalid_request"),
        ({"launch": "unknown"}, "invalid_request"),
        ({"launch": None}, "invalid_request"),
        ({"scope": "launch patient/Patient.dus"}, "invalid_scope"),
        ({"scope": "openid"}, "invalid_scope"),
        ({"response_type": "none"}, "unsupported_response_type"),
        ({"state": "short"}, "invalid_request"),
    ],
)
def test_wrong_authorization_requests(tester: RawClient, changes: dict[str, str | None], error: str) -> None:
    filled = {name: value.format(iss=tester.sandbox.iss) if value else value for name, value in changes.items()}
    assert tester.authorize(**filled)["error"] == error


@pytest.mark.parametrize("uri", [f"{REDIRECT}/", REDIRECT.upper(), "https://evil.example/callback", None])
def test_a_redirect_uri_is_compared_as_a_string(tester: RawClient, uri: str | None) -> None:
    page = tester.send(tester.parameters(redirect_uri=uri))
    assert page.status == 400
    assert "Location" not in page.headers


def test_a_launch_serves_once(tester: RawClient) -> None:
    launch = tester.new_launch()
    assert "code" in tester.authorize(launch=launch)
    assert tester.authorize(launch=launch)["error"] == "invalid_request"


@pytest.mark.parametrize(
    "changes",
    [
        {"code_verifier": "w" * 50},
        {"code_verifier": None},
        {"redirect_uri": "https://tester.localhost/other"},
        {"redirect_uri": None},
        {"code": "unknown"},
        {"grant_type": "password"},
        {"client_id": "imaging-app"},
    ],
)
def test_wrong_token_requests(tester: RawClient, changes: dict[str, str | None]) -> None:
    status, document = tester.exchange(tester.authorize()["code"], **changes)
    assert status in (400, 401)
    assert "error" in document


def test_a_code_serves_once(tester: RawClient) -> None:
    code = tester.authorize()["code"]
    assert tester.exchange(code)[0] == 200
    assert tester.exchange(code)[1]["error"] == "invalid_grant"


def test_a_refresh_token_serves_once(tester: RawClient) -> None:
    _, document = tester.exchange(tester.authorize()["code"])
    form = {"grant_type": "refresh_token", "refresh_token": document["refresh_token"], "client_id": "tester"}
    status, refreshed = tester.post(dict(form))
    assert status == 200
    assert refreshed["refresh_token"] != document["refresh_token"]
    assert refreshed["patient"] == "smart-1"
    assert tester.post(dict(form))[1]["error"] == "invalid_grant"


def test_without_online_access_there_is_no_refresh_token(tester: RawClient) -> None:
    answer = tester.authorize(scope="launch openid patient/Patient.rs")
    assert "refresh_token" not in tester.exchange(answer["code"])[1]


@pytest.mark.requirement("S42")
def test_a_symmetric_client_encodes_its_secret(tester: RawClient) -> None:
    tester.sandbox.control(
        "POST",
        "clients",
        {
            "client_id": "symmetric",
            "client_secret": BASIC_SECRET,
            "redirect_uris": [REDIRECT],
            "token_endpoint_auth_method": "client_secret_basic",
        },
    )
    from urllib.parse import quote_plus

    def status(pair: str) -> int:
        code = tester.authorize(client_id="symmetric")["code"]
        headers = {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
        form: dict[str, str | None] = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": REDIRECT,
            "code_verifier": VERIFIER,
        }
        return tester.post(form, headers)[0]

    assert status(f"symmetric:{quote_plus(BASIC_SECRET)}") == 200
    assert status(f"symmetric:{BASIC_SECRET}") in (400, 401)


@pytest.mark.requirement("S43", "XF1", "XF2")
@pytest.mark.parametrize(
    ("changes", "header"),
    [
        ({"exp": 600}, {}),
        ({"exp": -60}, {}),
        ({"iat": 120}, {}),
        ({"aud": "{origin}"}, {}),
        ({"aud": "https://other.example/token"}, {}),
        ({"iss": "other"}, {}),
        ({"sub": "other"}, {}),
        ({"jti": None}, {}),
        ({"jti": "j" * 152}, {}),
        ({}, {"typ": "JOSE"}),
        ({}, {"kid": None}),
        ({}, {"jku": "https://evil.example/jwks"}),
    ],
)
def test_client_assertions_that_a_strict_ehr_refuses(
    tester: RawClient, ec_keys: tuple[SigningKey, ...], changes: dict[str, Any], header: dict[str, Any]
) -> None:
    sandbox, now = tester.sandbox, int(time.time())
    claims: dict[str, Any] = {
        "iss": "imaging-app",
        "sub": "imaging-app",
        "aud": f"{sandbox.origin}/oauth/token",
        "iat": now - 5,
        "exp": now + 200,
        "jti": f"jti-{time.monotonic_ns()}",
    }
    for name, value in changes.items():
        if isinstance(value, int):
            claims[name] = now + value
        elif value is None:
            del claims[name]
        else:
            claims[name] = value.format(origin=sandbox.origin)
    full = {"alg": "ES384", "kid": ec_keys[0].kid, "typ": "JWT", **header}
    assertion = jwt.encode({name: value for name, value in full.items() if value}, claims, ec_keys[0], ["ES384"])
    status, document = tester.post(
        {
            "grant_type": "authorization_code",
            "code": "whatever",
            "redirect_uri": REDIRECT,
            "code_verifier": VERIFIER,
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": assertion,
        }
    )
    assert (status, document["error"]) in [(401, "invalid_client"), (400, "invalid_request")]


@pytest.mark.requirement("S43", "XF1")
def test_an_assertion_serves_once(tester: RawClient) -> None:
    registration = tester.sandbox.smart.registrations[0]
    endpoint = f"{tester.sandbox.origin}/oauth/token"
    assertion = client_assertion(registration, SmartConfiguration("", endpoint), endpoint)
    form: dict[str, str | None] = {
        "grant_type": "authorization_code",
        "code": "whatever",
        "redirect_uri": REDIRECT,
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": assertion,
    }
    assert tester.post(dict(form))[1]["error"] == "invalid_grant"
    assert tester.post(dict(form))[1]["error"] == "invalid_client"


def test_fhir_needs_a_token(tester: RawClient) -> None:
    for token in (None, "made-up"):
        status, outcome = tester.fhir(token, "Patient/smart-1")
        assert status == 401
        assert outcome["resourceType"] == "OperationOutcome"


@pytest.mark.requirement("S70", "XE3")
@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("Patient/smart-1", 200),
        ("Patient/smart-2", 403),
        ("Patient?_id=smart-1", 200),
        ("Patient?_id=smart-2", 403),
        ("Patient?_id=smart-1&_id=smart-2", 403),
        ("Patient?_id=smart-1,smart-2", 403),
        ("Patient", 403),
        ("Patient?name=Tester2", 403),
        ("ImagingStudy?patient=smart-1", 200),
        ("ImagingStudy?patient=Patient/smart-1", 200),
        ("ImagingStudy?subject=Patient/smart-1", 200),
        ("ImagingStudy?patient=smart-2", 403),
        ("ImagingStudy?patient=smart-1&patient=smart-2", 403),
        ("ImagingStudy", 403),
        ("ImagingStudy/smart-1-study", 200),
        ("ImagingStudy/smart-2-study", 403),
        ("ImagingStudy/smart-1-study/_history/1", 200),
        ("Encounter?patient=smart-1", 403),
        ("Practitioner/sandbox-radiologist", 403),
        ("Patient/smart-1/$everything", 405),
        ("..%2fadmin", 404),
    ],
)
def test_rights_at_patient_level(tester: RawClient, path: str, status: int) -> None:
    token = tester.token("launch patient/Patient.rs patient/ImagingStudy.rs")
    assert tester.fhir(token, path)[0] == status


def test_read_and_search_are_two_rights(tester: RawClient) -> None:
    reader = tester.token("launch patient/ImagingStudy.r")
    assert tester.fhir(reader, "ImagingStudy/smart-1-study")[0] == 200
    assert tester.fhir(reader, "ImagingStudy?patient=smart-1")[0] == 403
    searcher = tester.token("launch patient/ImagingStudy.s")
    assert tester.fhir(searcher, "ImagingStudy/smart-1-study")[0] == 403
    assert tester.fhir(searcher, "ImagingStudy?patient=smart-1")[0] == 200


def test_writing_needs_a_right_and_the_patient(tester: RawClient) -> None:
    def study(patient: str) -> dict[str, Any]:
        return {
            "resourceType": "ImagingStudy",
            "id": "smart-written",
            "status": "available",
            "subject": {"reference": f"Patient/{patient}"},
        }

    reader = tester.token("launch patient/ImagingStudy.rs")
    assert tester.fhir(reader, "ImagingStudy/smart-written", "PUT", study("smart-1"))[0] == 403
    writer = tester.token("launch patient/ImagingStudy.cruds")
    assert tester.fhir(writer, "ImagingStudy/smart-written", "PUT", study("smart-2"))[0] == 403
    assert tester.fhir(writer, "ImagingStudy/smart-written", "PUT", study("smart-1"))[0] in (200, 201)
    moved = {**study("smart-1"), "id": "smart-2-study"}
    assert tester.fhir(writer, "ImagingStudy/smart-2-study", "PUT", moved)[0] == 403
    bundle = {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [
            {"resource": study("smart-2"), "request": {"method": "PUT", "url": "ImagingStudy/smart-written"}},
        ],
    }
    assert tester.fhir(writer, "", "POST", bundle)[0] == 403
    assert tester.fhir(writer, "ImagingStudy/smart-written", "DELETE")[0] in (200, 204)


def test_scopes_with_a_query_hold_to_it(tester: RawClient) -> None:
    token = tester.token("launch patient/ImagingStudy.rs?status=cancelled")
    status, bundle = tester.fhir(token, "ImagingStudy?patient=smart-1")
    assert status == 200
    assert bundle.get("entry", []) == []
    assert tester.fhir(token, "ImagingStudy/smart-1-study")[0] == 403


def test_addresses_are_the_ehr_s_own(tester: RawClient) -> None:
    token = tester.token("launch patient/ImagingStudy.rs")
    _, bundle = tester.fhir(token, "ImagingStudy?patient=smart-1&_count=1")
    text = json.dumps(bundle)
    assert tester.sandbox.iss in text
    assert "http://127.0.0.1" not in text


def test_included_resources_need_a_right_too(tester: RawClient) -> None:
    narrow = tester.token("launch patient/ImagingStudy.rs")
    path = "ImagingStudy?patient=smart-1&_include=ImagingStudy:patient"
    kinds = {entry["resource"]["resourceType"] for entry in tester.fhir(narrow, path)[1]["entry"]}
    assert kinds == {"ImagingStudy"}
    wide = tester.token("launch patient/ImagingStudy.rs patient/Patient.rs")
    kinds = {entry["resource"]["resourceType"] for entry in tester.fhir(wide, path)[1]["entry"]}
    assert kinds == {"ImagingStudy", "Patient"}


def test_rights_at_user_level_cover_other_patients(tester: RawClient) -> None:
    token = tester.token("launch user/Patient.rs")
    assert tester.fhir(token, "Patient/smart-2")[0] == 200


@pytest.mark.requirement("S19")
def test_the_capability_statement_names_the_endpoints(tester: RawClient) -> None:
    status, statement = tester.fhir(None, "metadata")
    assert status == 200
    security = statement["rest"][0]["security"]
    uris = {part["url"]: part["valueUri"] for part in security["extension"][0]["extension"]}
    assert uris["authorize"] == f"{tester.sandbox.origin}/oauth/authorize"
    assert uris["token"] == f"{tester.sandbox.origin}/oauth/token"
    assert statement["implementation"]["url"] == tester.sandbox.iss


def test_the_control_is_closed_without_its_token(tester: RawClient) -> None:
    browser: Browser = tester.sandbox.browser()
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        page = browser._send("GET", f"{tester.sandbox.origin}/control/log", None, dict(headers))
        assert page.status == 401


def test_pages_are_in_both_languages_and_searchable(neutral: Sandbox) -> None:
    browser = neutral.browser()
    english = browser.get(f"{neutral.origin}/?q=Tester1")
    french = browser.get(f"{neutral.origin}/", {"Accept-Language": "fr"})
    assert "Tester1" in english.text
    assert "Tester2" not in english.text
    assert '<html lang="fr">' in french.text
    assert "Dossiers des patients" in french.text
    by_number = browser.get(f"{neutral.origin}/?q=S2")
    assert "Tester2" in by_number.text
    evil = browser.get(f"{neutral.origin}/?q=%3Cscript%3E")
    assert "<script>" not in evil.text


def test_the_first_users_are_on_the_fhir_service(neutral: Sandbox) -> None:
    role = neutral.fhir("GET", "PractitionerRole/sandbox-radiologist-role")
    assert role["code"][0]["coding"][0] == {
        "system": "http://snomed.info/sct",
        "code": "66862007",
        "display": "Radiologist",
    }
    assert role["practitioner"]["reference"] == "Practitioner/sandbox-radiologist"
    assert neutral.fhir("GET", "Practitioner/sandbox-radiologist")["meta"]["versionId"] == "1"

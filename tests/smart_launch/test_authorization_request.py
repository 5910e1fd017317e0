"""The authorization request that the browser takes to the EHR."""

from __future__ import annotations

import re
from html import unescape

import pytest

from smart_launch import Registration, SessionStore
from smart_launch.signing_keys import SigningKey
from tests.smart_launch.scene import BASE, Scene, query_of, registration_of
from tests.smart_launch.strict_ehr import StrictEhr

LONG = " ".join(
    f"patient/{kind}.rs?category=http://terminology.hl7.org/{kind}|a" for kind in ("Observation", "Condition")
)


@pytest.mark.requirement("S1", "S23", "S27", "S28", "S31")
def test_every_parameter_is_there_once(scene: Scene) -> None:
    response = scene.start(launch="opaque-1")
    sent = query_of(response.location)  # refuses a parameter that occurs twice
    assert response.status_code == 302
    assert sent["response_type"] == "code"
    assert sent["client_id"] == scene.ehr.client_id
    assert sent["redirect_uri"] == f"{BASE}/callback/ehr-a"
    assert sent["aud"] == scene.ehr.iss
    assert sent["launch"] == "opaque-1"
    assert sent["code_challenge_method"] == "S256"
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", sent["code_challenge"])
    assert sent["scope"].split() == scene.smart.registrations[0].scopes.split()
    assert sent["nonce"] != sent["state"]
    assert "max_age" not in sent
    assert "prompt" not in sent


@pytest.mark.requirement("S25", "S26")
def test_state_nonce_and_challenge_are_new_each_time_and_unguessable(scene: Scene) -> None:
    requests = [query_of(scene.start(scene.other_browser()).location) for _ in range(200)]
    for name, least in (("state", 22), ("nonce", 22), ("code_challenge", 43)):
        values = {request[name] for request in requests}
        assert len(values) == len(requests)
        assert all(re.fullmatch(r"[A-Za-z0-9_-]+", value) and len(value) >= least for value in values)
        # 122 bits need 21 characters of 64; each place must take many values for that to be so
        places = zip(*(value[:21] for value in values), strict=True)
        assert all(len(set(place)) > 30 for place in places)


@pytest.mark.requirement("S26", "XB10", "XC10")
def test_verifier_nonce_state_and_launch_are_in_no_cookie_page_or_log(
    scene: Scene, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("DEBUG")
    response = scene.start(launch="secret-launch-value")
    sent = query_of(response.location)
    opened = scene.callback(scene.ehr.grant(sent))
    verifier = scene.ehr.last("/token").form["code_verifier"][0]
    said = capsys.readouterr()
    cookies = " ".join(response.headers.getlist("Set-Cookie") + opened.headers.getlist("Set-Cookie"))
    for secret in (verifier, sent["nonce"], sent["state"], "secret-launch-value"):
        for place in (cookies, opened.text, opened.location, caplog.text, said.out, said.err):
            assert secret not in place
    assert verifier not in response.text + response.location  # the others go to the EHR, by this address
    assert sent["code_challenge"] != verifier


@pytest.mark.requirement("S24")
def test_a_long_request_is_posted_where_the_ehr_takes_that(ehr: StrictEhr, sessions: SessionStore) -> None:
    long_scopes = "launch openid " + " ".join(f"{LONG}{number}" for number in range(12))
    scene = Scene(ehr, sessions, [registration_of(ehr, scopes=long_scopes)])
    response = scene.start(launch="a+b/c=&\"'<")
    assert response.status_code == 200
    policy = response.headers["Content-Security-Policy"]
    nonce = re.search(r"script-src 'self' 'nonce-([^']+)'", policy)
    assert nonce is not None
    assert f'<script nonce="{nonce[1]}">' in response.text
    assert re.search(r"form-action [^;]*" + re.escape(ehr.origin), policy)
    assert f'action="{ehr.origin}/authorize"' in response.text
    assert "<button>" in response.text  # for browsers without scripts
    fields = {
        name: unescape(value)
        for name, value in re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)"', response.text)
    }
    assert fields["launch"] == "a+b/c=&\"'<"
    assert fields["scope"] == long_scopes
    assert scene.callback(ehr.grant(fields)).status_code == 303


@pytest.mark.requirement("S24")
def test_a_long_request_goes_by_get_where_the_ehr_takes_nothing_else(ehr: StrictEhr, sessions: SessionStore) -> None:
    ehr.discovery["capabilities"] = ["launch-ehr", "permission-v2"]
    scene = Scene(ehr, sessions, [registration_of(ehr, scopes="launch " + " ".join(f"{LONG}{n}" for n in range(12)))])
    assert scene.start().status_code == 302


@pytest.mark.requirement("S11", "S12")
def test_standalone_launch_lets_choose_among_the_registered(scene: Scene) -> None:
    page = scene.get("/login")
    assert page.status_code == 200
    assert 'href="/login?ehr=ehr-a"' in page.text
    sent = query_of(scene.get("/login?ehr=ehr-a").location)
    assert "launch" not in sent
    words = sent["scope"].split()
    assert "launch" not in words
    assert "launch/patient" in words
    assert scene.callback(scene.ehr.grant(sent)).status_code == 303
    assert scene.get("/login?ehr=https://evil.example").status_code == 403
    assert scene.get("/login?iss=https://evil.example&ehr=other").status_code == 403


@pytest.mark.requirement("S17", "S30")
def test_scopes_of_version_1_for_a_server_without_version_2(ehr: StrictEhr, sessions: SessionStore) -> None:
    ehr.discovery["capabilities"] = ["launch-ehr", "permission-v1"]
    scopes = (
        "launch openid patient/Patient.rs patient/Observation.cruds patient/DiagnosticReport.rs?status=final user/*.r"
    )
    scene = Scene(ehr, sessions, [registration_of(ehr, scopes=scopes)])
    assert query_of(scene.start().location)["scope"] == (
        "launch openid patient/Patient.read patient/Observation.read patient/Observation.write "
        "patient/DiagnosticReport.read user/*.read"
    )


@pytest.mark.requirement("S31", "S32")
def test_without_openid_there_is_no_nonce(ehr: StrictEhr, sessions: SessionStore) -> None:
    scene = Scene(ehr, sessions, [registration_of(ehr, scopes="launch patient/Patient.rs")])
    sent = query_of(scene.start().location)
    assert "nonce" not in sent
    assert not {"online_access", "offline_access"} & set(sent["scope"].split())


@pytest.mark.requirement("XH8", "XH9")
def test_redirect_uri_does_not_come_from_the_request(scene: Scene) -> None:
    headers = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "http"}
    response = scene.browser.get(
        "/launch", query_string={"iss": scene.ehr.iss, "launch": "x"}, headers=headers, base_url="http://evil.example"
    )
    assert query_of(response.location)["redirect_uri"] == f"{BASE}/callback/ehr-a"
    assert "evil" not in str(response.headers)


@pytest.mark.requirement("S8")
def test_aud_can_be_told_by_the_registration(
    ehr: StrictEhr, sessions: SessionStore, ec_keys: tuple[SigningKey, ...]
) -> None:
    registration: Registration = registration_of(ehr, aud="https://aud.example/r4")
    scene = Scene(ehr, sessions, [registration])
    assert query_of(scene.start().location)["aud"] == "https://aud.example/r4"

"""The launch URL: what an EHR, or somebody who pretends to be one, sends to it."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

import psycopg
import pytest

from smart_launch import SessionStore
from tests.smart_launch.scene import Scene, query_of, refused, registration_of
from tests.smart_launch.strict_ehr import StrictEhr


@pytest.mark.requirement("S5")
@pytest.mark.parametrize(
    "query",
    [
        "",
        "iss={iss}",
        "launch=x",
        "iss={iss}&launch=",
        "iss=&launch=x",
        "iss={iss}&iss={iss}&launch=x",
        "iss={iss}&launch=x&launch=y",
        "iss={iss}&launch={long}",
        "iss={iss}{long}&launch=x",
        "ISS={iss}&launch=x",
    ],
)
def test_incomplete_launch_is_refused_without_a_request(scene: Scene, query: str) -> None:
    refused(scene.get("/launch?" + query.format(iss=quote(scene.ehr.iss), long="a" * 17_000)), "launch-incomplete")
    assert scene.ehr.seen == []


@pytest.mark.requirement("S2")
@pytest.mark.parametrize("path", ["/launch/", "/Launch", "/launch/x", "/l/launch/", "/"])
def test_there_is_one_launch_url(scene: Scene, path: str) -> None:
    response = scene.get(f"{path}?{urlencode({'iss': scene.ehr.iss, 'launch': 'x'})}")
    assert response.status_code in (401, 404, 405)
    assert scene.ehr.seen == []


@pytest.mark.requirement("S5")
def test_launch_is_a_get(scene: Scene) -> None:
    assert scene.post("/launch", data={"iss": scene.ehr.iss, "launch": "x"}).status_code in (403, 405)
    assert scene.ehr.seen == []


@pytest.mark.requirement("S6")
@pytest.mark.parametrize(
    "launch",
    ["a+b/c==", "100%25", "%2B", "é→漢", "a b", "x" * 4096, "&state=evil", "#frag", "eyJhbGciOiJ9.e30." + "A" * 4000],
)
def test_launch_value_comes_back_byte_for_byte(scene: Scene, launch: str) -> None:
    scene.ehr.discovery["capabilities"] = ["launch-ehr", "permission-v2", "sso-openid-connect"]
    sent = query_of(scene.start(launch=launch).location)
    assert sent["launch"] == launch


LOOK_ALIKES = [
    "https://evil.example/fhir",
    "{iss}.evil.example",
    "{iss}@evil.example/fhir",
    "http://evil.example#{iss}",
    "{iss}?x=1",
    "{iss}#x",
    "{iss}/..",
    "{iss}/%2e%2e/fhir",
    "{origin}//fhir",
    "{origin}/FHIR",
    "{origin}/fhir//",
    "http://user:pw@127.0.0.1:{port}/fhir",
    "http://127.0.0.1.:{port}/fhir",
    "http://127.0.0.1:1{port}/fhir",
    "http://127.0.0.1/fhir",
    "https://127.0.0.1:{port}/fhir",
    "http://0x7f.1:{port}/fhir",
    "http://2130706433:{port}/fhir",
    "http://[::ffff:127.0.0.1]:{port}/fhir",
    "http://localhost:{port}/fhir",
    "http://127.0.0.1:{port}\\@evil.example/fhir",
    "http://еhr.example/fhir",
    " {iss}",
    "{iss}\t",
    "file:///etc/passwd",
    "gopher://127.0.0.1:{port}/fhir",
    "http://169.254.169.254/latest/meta-data",
    "http://[::1]:{port}/fhir",
    "javascript:alert(1)",
    "//127.0.0.1:{port}/fhir",
    "127.0.0.1:{port}/fhir",
    "{iss}\r\nX-Evil: 1",
    "{iss}\x00",
]


@pytest.mark.requirement("S7", "XA1", "XA2", "XA3")
@pytest.mark.parametrize("iss", LOOK_ALIKES)
def test_an_iss_that_is_not_registered_is_never_contacted(scene: Scene, iss: str) -> None:
    port = scene.ehr.origin.rpartition(":")[2]
    response = scene.start(iss=iss.format(iss=scene.ehr.iss, origin=scene.ehr.origin, port=port))
    assert response.status_code in (400, 403)
    assert "Location" not in response.headers
    assert scene.ehr.seen == []
    assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]


@pytest.mark.requirement("S8", "S27")
@pytest.mark.parametrize("variant", ["{iss}", "{iss}/", "{upper}"])
def test_iss_is_compared_normalised_and_aud_sent_as_registered(
    ehr: StrictEhr, sessions: SessionStore, variant: str
) -> None:
    scene = Scene(ehr, sessions, [registration_of(ehr, iss=f"{ehr.iss}/")])
    iss = variant.format(iss=ehr.iss, upper=ehr.iss.replace("http", "HTTP", 1))
    sent = query_of(scene.start(iss=iss).location)
    assert sent["aud"] == f"{ehr.iss}/"


@pytest.mark.requirement("S9", "XA7")
@pytest.mark.parametrize("text", ["<script>alert(1)</script>", '"><img src=x>', "\r\nSet-Cookie: a=b", "\x00"])
def test_nothing_of_the_request_is_reflected(scene: Scene, text: str) -> None:
    good = {"iss": scene.ehr.iss, "launch": "x"}
    for query in ({**good, "iss": text}, {**good, "launch": text, "iss": "https://other"}, {**good, "evil": text}):
        response = scene.get("/launch?" + urlencode(query))
        assert text not in response.text
        assert text not in str(response.headers)
        assert "evil" not in response.headers.get("Location", "")


@pytest.mark.requirement("XA8")
def test_launches_of_one_address_are_limited(ehr: StrictEhr, sessions: SessionStore) -> None:
    scene = Scene(ehr, sessions, options={"rate_limit_per_address": 5})
    address = {"REMOTE_ADDR": "203.0.113.9"}
    query = "/launch?" + urlencode({"iss": ehr.iss, "launch": "x"})
    answers = [scene.get(query, scene.other_browser(), environ_overrides=address) for _ in range(12)]
    assert answers[0].status_code == 302
    limited = [answer for answer in answers if answer.status_code == 429]
    assert len(limited) >= 2  # a minute may end meanwhile
    assert 1 <= int(limited[0].headers["Retry-After"]) <= 60
    elsewhere = scene.get(query, scene.other_browser(), environ_overrides={"REMOTE_ADDR": "203.0.113.10"})
    assert elsewhere.status_code == 302


@pytest.mark.requirement("XA8")
def test_a_flood_leaves_nothing_behind(scene: Scene, owner: psycopg.Connection[Any]) -> None:
    scene.start()
    owner.execute("UPDATE app.authorization_request SET expires_at = now() - interval '1 hour'")
    scene.start(scene.other_browser())
    assert owner.execute("SELECT count(*) FROM app.authorization_request").fetchone() == (1,)


@pytest.mark.requirement("XA9", "XA10")
def test_a_forced_launch_leaves_the_running_one_as_it_is(scene: Scene) -> None:
    running = scene.launch()
    scene.ehr.token = {"patient": "attacker-patient"}
    forced = scene.launch()
    assert forced != running
    assert scene.home(running)["patient"] == "p1"
    assert scene.home(forced)["patient"] == "attacker-patient"

"""Pages and header fields: framing, forged requests, languages, and the way out when no cookie comes back."""

from __future__ import annotations

import re
from typing import Any

import pytest

from smart_launch import SessionStore
from smart_launch.errors import FAULTS
from tests.smart_launch.scene import BASE, Scene, query_of, refused, registration_of
from tests.smart_launch.strict_ehr import StrictEhr


def policy(response: Any) -> dict[str, str]:
    parts = (part.strip().partition(" ") for part in response.headers["Content-Security-Policy"].split(";"))
    return {name: value for name, _, value in parts}


@pytest.mark.requirement("S83", "XH1")
def test_only_the_launching_ehr_may_embed(ehr: StrictEhr, second_ehr: StrictEhr, sessions: SessionStore) -> None:
    other = registration_of(second_ehr, name="ehr-b", frame_ancestors=("https://b1.example", "https://b2.example"))
    scene = Scene(ehr, sessions, [registration_of(ehr), other])
    path = scene.launch()
    second = scene.callback(second_ehr.authorize(scene.start(iss=second_ehr.iss).location), name="ehr-b").location
    assert policy(scene.get(path))["frame-ancestors"] == "https://ehr.example"
    assert policy(scene.get(second))["frame-ancestors"] == "https://b1.example https://b2.example"
    # error pages too
    assert policy(scene.get("/callback/ehr-a?state=x"))["frame-ancestors"] == "https://ehr.example"
    assert policy(scene.get(path, scene.other_browser()))["frame-ancestors"] == "https://ehr.example"
    for nobody in ("/launch", "/login", "/nowhere", "/l/unknown/", "/callback/unknown", "/.well-known/jwks.json"):
        assert policy(scene.get(nobody))["frame-ancestors"] == "'none'"
    for page in (path, "/launch", "/nowhere"):
        assert "X-Frame-Options" not in scene.get(page).headers


@pytest.mark.requirement("S38", "S49", "XH6", "XH7", "XH3")
def test_header_fields_of_every_answer(scene: Scene) -> None:
    path = scene.launch()
    for page in (path, "/launch", "/login", "/callback/ehr-a", "/nowhere", f"{path}patient", "/l/x/"):
        response = scene.get(page)
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Referrer-Policy"] == "no-referrer"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in response.headers
        directives = policy(response)
        assert directives["default-src"] == "'none'"
        assert directives["object-src"] == "'none'"
        assert directives["base-uri"] == "'none'"
        assert "unsafe" not in response.headers["Content-Security-Policy"]
        assert directives["form-action"] == "'self'"
    for redirect in (scene.start(), scene.callback(scene.authorized())):
        assert redirect.headers["Cache-Control"] == "no-store"
        assert redirect.headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.requirement("XH7", "S24")
def test_nonces_are_new_each_time_and_there_is_no_inline_code_without_one(scene: Scene) -> None:
    nonces = set()
    for _ in range(5):
        response = scene.get("/launch")
        nonce = re.search(r"'nonce-([^']+)'", policy(response)["script-src"])
        assert nonce is not None
        nonces.add(nonce[1])
        assert f'<style nonce="{nonce[1]}">' in response.text
        assert not re.search(r"<script(?![^>]*nonce)|\son[a-z]+=|\sstyle=|javascript:", response.text)
    assert len(nonces) == 5


@pytest.mark.requirement("XH2")
@pytest.mark.parametrize("path", ["sign", "logout"])
@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({}, ""),
        ({}, "wrong"),
        ({"Sec-Fetch-Site": "cross-site"}, "right"),
        ({"Sec-Fetch-Site": "same-site"}, "right"),
        ({"Origin": "https://evil.example"}, "right"),
        ({"Origin": "https://ehr.example"}, "right"),
        ({"Origin": "http://app.example"}, "right"),
        ({}, "other launch's"),
    ],
)
def test_forged_posts_are_refused(scene: Scene, path: str, headers: dict[str, str], token: str) -> None:
    home, other = scene.launch(), scene.launch()
    sent = {"right": scene.home(home)["csrf_token"], "other launch's": scene.home(other)["csrf_token"]}.get(
        token, token
    )
    response = scene.post(f"{home}{path}", data={"csrf_token": sent}, headers=headers)
    refused(response, "request-forged")
    assert scene.get(home).status_code == 200


@pytest.mark.requirement("XH2")
@pytest.mark.parametrize("headers", [{}, {"Origin": "null"}, {"Origin": BASE, "Sec-Fetch-Site": "same-origin"}])
@pytest.mark.parametrize("place", ["field", "header"])
def test_own_posts_are_taken(scene: Scene, headers: dict[str, str], place: str) -> None:
    home = scene.launch()
    token = scene.home(home)["csrf_token"]
    data = {"csrf_token": token} if place == "field" else {}
    sent = {**headers, "X-CSRF-Token": token} if place == "header" else headers
    assert scene.post(f"{home}sign", data=data, headers=sent).status_code == 200


@pytest.mark.requirement("XH2")
@pytest.mark.parametrize("method", ["put", "patch", "delete", "post"])
def test_every_unsafe_method_is_guarded(scene: Scene, method: str) -> None:
    scene.app.add_url_rule("/l/<launch_id>/any", "any", lambda launch_id: "done", methods=[method.upper()])
    home = scene.launch()
    response = getattr(scene.browser, method)(f"{home}any", base_url=BASE)
    refused(response, "request-forged")


@pytest.mark.requirement("XH10")
def test_a_method_is_not_overridden(scene: Scene) -> None:
    home = scene.launch()
    response = scene.get(f"{home}logout?_method=POST", headers={"X-HTTP-Method-Override": "POST"})
    assert response.status_code == 405
    assert scene.get(home).status_code == 200


@pytest.mark.requirement("S86", "S85")
def test_without_cookies_there_is_a_page_with_a_way_out_and_no_loop(scene: Scene) -> None:
    answer = scene.authorized()
    framed = scene.other_browser()  # a browser that has sent no cookie back
    response = scene.callback(answer, framed)
    refused(response, "no-cookie")
    assert "/token" not in scene.ehr.paths()
    form = re.search(
        r'<form method="post" action="/launch/restart" target="_blank">(.*?)</form>', response.text, re.DOTALL
    )
    assert form is not None
    ticket = re.search(r'name="ticket" value="([0-9a-f]{64})"', form[1])
    assert ticket is not None
    assert answer["state"] not in response.text
    assert "launch-1" not in response.text
    window = scene.other_browser()
    again = scene.post("/launch/restart", window, data={"ticket": ticket[1]}, headers={"Origin": "null"})
    assert again.status_code == 302
    sent = query_of(again.location)
    assert sent["launch"] == "launch-1"
    assert sent["state"] != answer["state"]
    opened = scene.callback(scene.ehr.grant(sent), window)
    assert scene.home(opened.location, window)["patient"] == "p1"
    # once only, and the first state is used up with it
    refused(scene.post("/launch/restart", window, data={"ticket": ticket[1]}), "launch-expired")
    refused(scene.callback(answer), "launch-used")


@pytest.mark.requirement("S86", "S85")
def test_a_frame_without_cookies_is_found_out_before_the_launch_is_spent(scene: Scene) -> None:
    framed = {"Sec-Fetch-Dest": "iframe", "Sec-Fetch-Site": "cross-site"}
    query = {"iss": scene.ehr.iss, "launch": "launch+1/="}
    keeps, keeps_none = scene.other_browser(), scene.app.test_client(use_cookies=False)
    for browser in (keeps, keeps_none):
        first = scene.get("/launch", browser, query_string=query, headers=framed)
        assert first.status_code == 303
        assert first.location.startswith("/launch?")
        assert query_of(BASE + first.location) == {**query, "checked": "1"}
        assert scene.ehr.seen == []
    second = scene.get(first.location, keeps, headers=framed)
    assert query_of(second.location)["launch"] == "launch+1/="
    third = scene.get("/launch", keeps, query_string=query, headers=framed)
    assert third.status_code == 302  # the next time it goes straight on
    page = scene.get(first.location, keeps_none, headers=framed)
    refused(page, "no-cookie")
    assert "launch+1" not in page.text
    assert scene.ehr.origin in policy(page)["form-action"]


@pytest.mark.requirement("S86", "XH2")
def test_a_restart_needs_its_ticket_and_its_own_page(scene: Scene) -> None:
    refused(scene.post("/launch/restart", data={"ticket": "0" * 64}), "launch-expired")
    refused(scene.post("/launch/restart"), "launch-expired")
    refused(
        scene.post("/launch/restart", data={"ticket": "0" * 64}, headers={"Sec-Fetch-Site": "cross-site"}),
        "request-forged",
    )


@pytest.mark.requirement("S37")
def test_pages_are_in_the_browser_s_language(scene: Scene) -> None:
    english = scene.get("/launch", headers={"Accept-Language": "de, en;q=0.8, fr;q=0.5"})
    french = scene.get("/launch", headers={"Accept-Language": "fr-CA, en;q=0.8"})
    assert '<html lang="en">' in english.text
    assert '<html lang="fr">' in french.text
    assert french.headers["Content-Language"] == "fr"
    assert "Accept-Language" in french.headers["Vary"]
    assert FAULTS["launch-incomplete"].fr[0].rpartition("'")[2] in french.text
    assert '<html lang="en">' in scene.get("/launch", headers={"Accept-Language": "zz"}).text


@pytest.mark.requirement("S37")
def test_every_fault_says_what_happened_and_what_to_do_in_both_languages() -> None:
    for code, entry in FAULTS.items():
        for texts in (entry.en, entry.fr):
            assert len(texts) == 2, code
            assert all(text.endswith(".") and len(text) > 15 for text in texts), code
        assert entry.en[0] != entry.fr[0]
    assert len({entry.en[0] for entry in FAULTS.values()}) == len(FAULTS)


@pytest.mark.requirement("S37")
def test_the_reference_number_is_in_the_log(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    response = scene.get("/launch")
    number = re.search(r"<code>([0-9a-f]{12})</code>", response.text)
    assert number is not None
    assert number[1] in capsys.readouterr().out


def test_programs_get_a_problem_document(scene: Scene) -> None:
    response = scene.get("/l/x/", headers={"Accept": "application/json"})
    assert response.status_code == 401
    assert response.mimetype == "application/problem+json"
    assert response.get_json()["code"] == "launch-ended"


@pytest.mark.requirement("S38", "XC10")
def test_access_logs_show_no_query(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    import logging

    caplog.set_level("INFO")
    line = '127.0.0.1 - - "GET /callback/ehr-a?code=secret-code&state=secret-state HTTP/1.1" 303 -'
    logging.getLogger("werkzeug").info(line)
    logging.getLogger("gunicorn.access").info("%s", "GET /launch?iss=x&launch=secret-launch")
    logging.getLogger("werkzeug").info("GET /other?page=2")
    assert "secret" not in caplog.text
    assert "/callback/ehr-a HTTP/1.1" in caplog.text
    assert "/other?page=2" in caplog.text


@pytest.mark.requirement("XH5")
def test_pages_use_no_browser_storage() -> None:
    from importlib import resources

    folder = resources.files("smart_launch") / "templates" / "smart_launch"
    text = "".join(item.read_text("utf-8") for item in folder.iterdir())
    for word in ("localStorage", "sessionStorage", "indexedDB", "serviceWorker", "postMessage", "window.top", "alert("):
        assert word not in text

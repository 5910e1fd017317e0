"""Every failure that a doctor may meet: its page, in both languages, and the number that finds its trace."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pytest
from opentelemetry.sdk.trace import TracerProvider
from psycopg_pool import ConnectionPool
from werkzeug.test import TestResponse

from smart_launch import Keyring, SessionStore
from smart_launch.errors import FAULTS
from tests.smart_launch.scene import Scene, registration_of
from tests.smart_launch.strict_ehr import StrictEhr, json_answer, raw_answer
from tests.smart_launch.test_refresh import expire

_tracer = TracerProvider().get_tracer("test")


class Traced:
    """The application inside of a span for each request, as the clinician app opens them."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.last = ""

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with _tracer.start_as_current_span("request") as span:
            self.last = f"{span.get_span_context().trace_id:032x}"
            result: Iterable[bytes] = self.app(environ, start_response)
            return result


@dataclass
class Stage:
    """What a failure needs to happen."""

    scene: Scene
    owner: psycopg.Connection[Any]
    broken: Callable[[], Scene]

    @property
    def ehr(self) -> StrictEhr:
        return self.scene.ehr

    def discovery(self, answer: Any) -> TestResponse:
        self.ehr.discovery_answer = answer
        return self.scene.start()

    def callback(self, **changes: str | None) -> TestResponse:
        answer = {**self.scene.authorized(), **changes}
        return self.scene.callback({name: value for name, value in answer.items() if value is not None})

    def error(self, name: str) -> TestResponse:
        return self.callback(code=None, error=name)

    def token(self, answer: Any) -> TestResponse:
        self.ehr.token_answer = answer
        return self.callback()

    def response(self, **members: Any) -> TestResponse:
        self.ehr.token = members
        return self.callback()

    def claims(self, **claims: Any) -> TestResponse:
        self.ehr.claims = claims
        return self.callback()

    def fhir(self, answer: Any) -> TestResponse:
        self.ehr.fhir_answer = lambda rest: answer
        return self.scene.get(f"{self.scene.launch()}patient")

    def refreshed(self, answer: Any) -> TestResponse:
        path = self.scene.launch()
        expire(self.owner, path)
        self.ehr.token_answer = answer
        return self.scene.get(f"{path}patient")

    def again(self) -> TestResponse:
        answer = self.scene.authorized()
        self.scene.callback(answer)
        return self.scene.callback(answer)

    def late(self) -> TestResponse:
        answer = self.scene.authorized()
        self.owner.execute("UPDATE app.authorization_request SET expires_at = now() - interval '1 second'")
        return self.scene.callback(answer)

    def without_cookie(self) -> TestResponse:
        return self.scene.callback(self.scene.authorized(), self.scene.app.test_client(use_cookies=False))

    def idle(self) -> TestResponse:
        path = self.scene.launch()
        self.owner.execute("UPDATE app.launch SET last_seen_at = now() - interval '1 hour'")
        return self.scene.get(path)

    def logout(self) -> TestResponse:
        path = self.scene.launch()
        return self.scene.post(f"{path}logout", data={"csrf_token": self.scene.home(path)["csrf_token"]})

    def forged(self) -> TestResponse:
        return self.scene.post(f"{self.scene.launch()}sign", data={"csrf_token": "guess"})

    def flood(self) -> TestResponse:
        self.scene.smart.rate_limit_per_address = 1
        address = {"REMOTE_ADDR": f"203.0.113.{len(self.ehr.seen) + 77}"}
        path = f"/launch?iss={self.ehr.iss}&launch=x"
        answers = [self.scene.get(path, environ_overrides=address) for _ in range(4)]
        return next(answer for answer in reversed(answers) if answer.status_code == 429)


def other_patient() -> Any:
    return json_answer({"access_token": "a", "token_type": "Bearer", "patient": "another"})


FAILURES: list[tuple[str, str, Callable[[Stage], TestResponse]]] = [
    ("launch-incomplete", "bookmark", lambda stage: stage.scene.get("/launch")),
    ("launch-incomplete", "launch is missing", lambda stage: stage.scene.get(f"/launch?iss={stage.ehr.iss}")),
    ("unknown-ehr", "iss is not registered", lambda stage: stage.scene.start(iss="https://other.example/fhir")),
    ("unknown-ehr", "name is not registered", lambda stage: stage.scene.get("/login?ehr=other")),
    ("too-many-launches", "flood", Stage.flood),
    ("ehr-unreachable", "discovery answers 500", lambda stage: stage.discovery(lambda: raw_answer("", 500))),
    ("ehr-unreachable", "discovery redirects", lambda stage: stage.discovery(lambda: raw_answer("", 302))),
    ("ehr-misconfigured", "discovery is HTML", lambda stage: stage.discovery(lambda: raw_answer("<html>"))),
    ("ehr-misconfigured", "discovery lacks endpoints", lambda stage: stage.discovery(lambda: json_answer({}))),
    (
        "ehr-unsupported",
        "no S256",
        lambda stage: stage.discovery(
            lambda: json_answer({**stage.ehr.configuration(), "code_challenge_methods_supported": ["plain"]})
        ),
    ),
    ("launch-unknown", "state is unknown", lambda stage: stage.scene.callback({"state": "A" * 32, "code": "c"})),
    ("launch-unknown", "no state", lambda stage: stage.scene.callback({"code": "c"})),
    ("launch-used", "reload", Stage.again),
    ("launch-expired", "sign-in took too long", Stage.late),
    ("no-cookie", "cookies are blocked", Stage.without_cookie),
    ("wrong-issuer", "mix-up", lambda stage: stage.callback(iss="https://evil.example")),
    ("access-denied", "user declined", lambda stage: stage.error("access_denied")),
    ("scope-refused", "at authorization", lambda stage: stage.error("invalid_scope")),
    ("ehr-busy", "at authorization", lambda stage: stage.error("temporarily_unavailable")),
    ("ehr-busy", "token endpoint", lambda stage: stage.token(lambda: raw_answer("", 503))),
    ("ehr-error", "at authorization", lambda stage: stage.error("server_error")),
    ("ehr-error", "token endpoint", lambda stage: stage.token(lambda: raw_answer("", 500))),
    ("code-refused", "code is spent", lambda stage: stage.token(lambda: json_answer({"error": "invalid_grant"}, 400))),
    (
        "client-refused",
        "key is not known",
        lambda stage: stage.token(lambda: json_answer({"error": "invalid_client"}, 401)),
    ),
    ("token-unusable", "HTML with 200", lambda stage: stage.token(lambda: raw_answer("<html>"))),
    ("token-unusable", "another token_type", lambda stage: stage.response(token_type="mac")),
    ("no-patient", "gateway has forgotten him", lambda stage: stage.response(patient=None)),
    ("identity-unproven", "no id_token", lambda stage: stage.response(id_token=None)),
    ("identity-unproven", "another issuer", lambda stage: stage.claims(iss="https://evil.example")),
    ("not-a-clinician", "patient's account", lambda stage: stage.claims(fhirUser="Patient/1")),
    ("launch-ended", "idle", Stage.idle),
    (
        "launch-ended",
        "another browser",
        lambda stage: stage.scene.get(stage.scene.launch(), stage.scene.other_browser()),
    ),
    (
        "launch-ended",
        "refresh is refused",
        lambda stage: stage.refreshed(lambda: json_answer({"error": "invalid_grant"}, 400)),
    ),
    ("signed-out", "logout", Stage.logout),
    ("patient-changed", "refresh names another", lambda stage: stage.refreshed(other_patient)),
    ("request-forged", "no token of the page", Stage.forged),
    ("fhir-denied", "403", lambda stage: stage.fhir(raw_answer("", 403))),
    ("fhir-missing", "404", lambda stage: stage.fhir(raw_answer("", 404))),
    ("fhir-unreachable", "500", lambda stage: stage.fhir(raw_answer("", 500))),
    ("ehr-busy", "429", lambda stage: stage.fhir(raw_answer("", 429))),
    ("sessions-unavailable", "database is away", lambda stage: stage.broken().start()),
    ("wrong-method", "posted launch", lambda stage: stage.scene.get("/launch/restart")),
]


def test_no_failure_is_without_a_row() -> None:
    assert {code for code, _, _ in FAILURES} == set(FAULTS)


@pytest.mark.requirement("S37")
@pytest.mark.parametrize("language", ["en", "fr"])
@pytest.mark.parametrize(
    ("code", "label", "provoke"), FAILURES, ids=[f"{code}: {label}" for code, label, _ in FAILURES]
)
def test_the_page_says_what_happened_what_to_do_and_where_to_look(
    code: str,
    label: str,
    provoke: Callable[[Stage], TestResponse],
    language: str,
    ehr: StrictEhr,
    sessions: SessionStore,
    keyring: Keyring,
    owner: psycopg.Connection[Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    pool = ConnectionPool("postgresql://nobody@127.0.0.1:1/none", min_size=0, max_size=1, timeout=0.2, open=True)
    traced: list[Traced] = []

    def set_up(store: SessionStore) -> Scene:
        scene = Scene(ehr, store)
        traced.insert(0, Traced(scene.app.wsgi_app))
        scene.app.wsgi_app = traced[0]  # type: ignore[method-assign]
        scene.browser.environ_base["HTTP_ACCEPT_LANGUAGE"] = f"{language}-CA,{language};q=0.9"
        return scene

    with pool:
        scene = set_up(sessions)
        made = scene.other_browser

        def other_browser() -> Any:
            browser = made()
            browser.environ_base["HTTP_ACCEPT_LANGUAGE"] = language
            return browser

        scene.other_browser = other_browser  # type: ignore[method-assign]
        client = scene.app.test_client

        def test_client(**options: Any) -> Any:
            browser = client(**options)
            browser.environ_base["HTTP_ACCEPT_LANGUAGE"] = language
            return browser

        scene.app.test_client = test_client  # type: ignore[method-assign]
        response = provoke(Stage(scene, owner, lambda: set_up(SessionStore(pool, keyring))))
    entry = FAULTS[code]
    what, then = entry.fr if language == "fr" else entry.en
    main = html.unescape(response.text.split("<main>")[1])
    assert response.status_code == entry.status
    assert re.search(r"<h1>(.*)</h1>", main)[1] == what  # type: ignore[index]
    assert f"<p>{then}</p>" in main
    assert f'<html lang="{language}">' in response.text
    assert "Location" not in response.headers
    log = capsys.readouterr().out
    if code == "signed-out":
        return  # nothing is wrong, so there is nothing to look for
    number = re.search(r"<code>([0-9a-f]{12})</code>", main)
    assert number is not None
    assert number[1] in log
    assert code in next(line for line in log.splitlines() if number[1] in line)
    if code != "too-many-launches":  # there, later requests were made
        assert traced[0].last.startswith(number[1])


@pytest.mark.requirement("S37")
def test_without_a_trace_the_number_is_still_in_the_log(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    number = re.search(r"<code>([0-9a-f]{12})</code>", scene.get("/launch").text)
    assert number is not None
    assert number[1] in capsys.readouterr().out


@pytest.mark.requirement("S37", "S83")
def test_failure_pages_of_a_known_ehr_show_in_its_frame(ehr: StrictEhr, sessions: SessionStore) -> None:
    registration = replace(registration_of(ehr), frame_ancestors=("https://frame.example",))
    scene = Scene(ehr, sessions, [registration])
    ehr.discovery_answer = lambda: raw_answer("", 500)
    assert "frame-ancestors https://frame.example" in scene.start().headers["Content-Security-Policy"]

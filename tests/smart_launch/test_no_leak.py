"""No token, code, state, launch value, verifier or session id is anywhere that it could be read by somebody else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import psycopg
import pytest
from flask import Flask
from markupsafe import escape
from playwright.sync_api import BrowserContext, Page, Request, expect, sync_playwright

from infra.local.ca import Certificates
from smart_launch import Keyring, SessionStore
from smart_launch.signing_keys import SigningKey, public_jwks
from tests.conftest import Stores
from tests.smart_launch.conftest import SCOPES, Sandbox, serving
from tests.smart_launch.workers import Workers, free_port, serving_workers

ALLOWED = {"profile": {"cookie_controls_mode": 0, "block_third_party_cookies": False}}


@pytest.fixture
def keys() -> str:
    return Keyring.new_key("leak")


class Chart:
    """A page of the EHR that embeds the app: on another port of the EHR's host, so a site of its own to the app."""

    def __init__(self) -> None:
        self.embedded = ""
        self.port = 0

    @property
    def origin(self) -> str:
        return f"https://ehr.localhost:{self.port}"

    def site(self) -> Flask:
        site = Flask("chart")
        site.add_url_rule("/", "page", lambda: f'<iframe id="app" src="{escape(self.embedded)}"></iframe>')
        return site


@pytest.fixture
def chart(certificates: Certificates) -> Iterator[Chart]:
    found = Chart()
    with serving(found.site(), certificates) as server:
        found.port = server.server_port
        yield found


@pytest.fixture
def workers(
    neutral: Sandbox,
    chart: Chart,
    stores: Stores,
    certificates: Certificates,
    keys: str,
    ec_keys: tuple[SigningKey, ...],
    tmp_path: Path,
) -> Iterator[Workers]:
    """The app under gunicorn, registered with the sandbox EHR as a client of its own."""
    port = free_port()
    (tmp_path / "key.pem").write_bytes(ec_keys[0].as_pem(private=True))
    (tmp_path / "key.pem").chmod(0o600)
    neutral.control(
        "POST",
        "clients",
        {
            "client_id": "leak-app",
            "redirect_uris": [f"https://app.localhost:{port}/callback/sandbox"],
            "token_endpoint_auth_method": "private_key_jwt",
            "jwks": public_jwks(ec_keys),
        },
    )
    registration = f"""
[[ehr]]
name = "sandbox"
iss = "{neutral.iss}"
client_id = "leak-app"
client_auth = "private_key_jwt"
key = "file:key.pem"
scopes = "{SCOPES}"
frame_ancestors = ["{chart.origin}"]
ca_file = "{neutral.ca_file}"
"""
    with serving_workers(
        tmp_path,
        port,
        registration,
        database_url=stores.url("imaging_page"),
        keys=keys,
        certificates=certificates,
    ) as running:
        yield running


@pytest.fixture
def context(tmp_path: Path) -> Iterator[BrowserContext]:
    """A browser that lets a frame have cookies and storage: whatever could be kept would be found."""
    program = shutil.which("chromium")
    assert program, "chromium is missing: make test installs it"
    profile = tmp_path / "profile"
    (profile / "Default").mkdir(parents=True)
    (profile / "Default" / "Preferences").write_text(json.dumps(ALLOWED), "utf-8")
    with sync_playwright() as started:
        opened = started.chromium.launch_persistent_context(
            str(profile), executable_path=program, args=["--no-sandbox", "--disable-gpu"], ignore_https_errors=True
        )
        yield opened
        opened.close()


class Capture:
    """Everything that the browser sent, showed and said."""

    def __init__(self, context: BrowserContext) -> None:
        self.requests: list[tuple[str, str, str]] = []
        self.console: list[str] = []
        context.on("request", self._requested)
        context.on("console", lambda message: self.console.append(message.text))

    def _requested(self, request: Request) -> None:
        headers = request.all_headers()
        self.requests.append((request.url, headers.get("referer", ""), request.post_data or ""))

    def urls(self, beginning: str) -> list[str]:
        return [url for url, _, _ in self.requests if url.startswith(beginning)]


def launch(page: Page, chart: Chart, sandbox: Sandbox, workers: Workers) -> tuple[str, Any, str]:
    """Launch the app in a frame; return the launch value, what the page knows, and what the frame shows and keeps."""
    value = str(sandbox.control("POST", "launches", {"patient": "smart-1"})["launch"])
    chart.embedded = f"{workers.origin}/launch?iss={quote(sandbox.iss)}&launch={value}"
    page.goto(f"{sandbox.origin}/")
    page.goto(f"{chart.origin}/")
    body = page.frame_locator("#app").locator("body")
    expect(body).to_contain_text("patient", timeout=30_000)
    shown = json.loads(body.inner_text())
    frame = next(item for item in page.frames if item.url.startswith(workers.origin))
    frame.goto(f"{frame.url}patient")
    expect(body).to_contain_text("Tester1")
    kept = frame.evaluate(
        "async () => JSON.stringify([Object.entries(localStorage), Object.entries(sessionStorage), document.cookie,"
        " await indexedDB.databases(), await caches.keys(), location.href, document.referrer,"
        " document.documentElement.outerHTML, performance.getEntries().map(item => item.name)])"
    )
    return value, shown, kept


@pytest.mark.requirement("S26", "S38", "S46", "S47", "S77", "XB10", "XC10", "XH5")
def test_a_launch_leaves_no_secret_in_addresses_pages_storage_or_logs(
    workers: Workers,
    context: BrowserContext,
    neutral: Sandbox,
    chart: Chart,
    stores: Stores,
    sessions: SessionStore,
    keys: str,
    owner: psycopg.Connection[Any],
) -> None:
    with owner.transaction():
        owner.execute("DELETE FROM app.launch")
    capture = Capture(context)
    page = context.new_page()
    launch_value, shown, kept = launch(page, chart, neutral, workers)
    launch_id = owner.execute("SELECT launch_id FROM app.launch").fetchone()[0]  # type: ignore[index]
    store = SessionStore(sessions._pool, Keyring.parse(keys))
    tokens = store.tokens(launch_id)
    assert tokens is not None
    assert tokens.refresh_token is not None
    (callback,) = capture.urls(f"{workers.origin}/callback/")
    answer = {name: values[0] for name, values in parse_qs(urlsplit(callback).query).items()}
    exchange = next(item for item in neutral.control("GET", "log") if item["endpoint"] == "token")["parameters"]
    session = next(item["value"] for item in context.cookies() if item["name"] == f"__Host-launch-{launch_id}")
    travelling = {"code": answer["code"], "state": answer["state"], "launch": launch_value}
    secrets = {
        **travelling,
        "verifier": exchange["code_verifier"],
        "assertion": exchange["client_assertion"],
        "access token": tokens.access_token,
        "refresh token": tokens.refresh_token,
        "session id": session,
    }
    assert all(len(value) >= 20 for value in secrets.values())

    for name, value in secrets.items():
        # addresses: a launch value, code and state pass through the three that the standard has for them, once
        for url, referer, body in capture.requests:
            path = urlsplit(url).path
            passing = name in travelling and path in ("/launch", "/callback/sandbox", "/oauth/authorize")
            passing = passing or path.startswith("/oauth/authorize/")
            assert passing or value not in url, (name, path)
            assert value not in referer, (name, path)
            assert value not in body, (name, path)
        for place in (kept, json.dumps(shown), *capture.console):
            assert value not in place, (name, place[:2000])
        for log in _logs(workers, neutral, stores):
            assert value not in log.read_text("utf-8", "replace"), (name, log)

    text = workers.log.read_text("utf-8")
    assert "GET /callback/sandbox HTTP/1.1" in text  # the access log was on, and is of use
    assert "GET /launch HTTP/1.1" in text
    assert "DEBUG" in text
    assert '"patient":"smart-1"' not in text


def _logs(workers: Workers, sandbox: Sandbox, stores: Stores) -> list[Path]:
    found = [workers.log, sandbox.log_file, *(path for path in stores.layout.logs.rglob("*") if path.is_file())]
    assert len(found) > 3
    return found

"""Running the app: no secret in the code or on an error page, nothing to be learnt from how long a comparison takes."""

from __future__ import annotations

import hmac
import os
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from smart_launch import Keyring, SessionStore, SmartConfigurationError, SmartLaunch
from smart_launch.signing_keys import SigningKey
from tests.smart_launch.scene import BASE, Scene, refused, registration_of
from tests.smart_launch.strict_ehr import StrictEhr

ROOT = Path(__file__).resolve().parents[2]
KEPT_OUT = {".git", ".venv", "node_modules", "build", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"}
SECRETS = {
    "private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=\s]{100,}-----END"),
    "private JWK": re.compile(r'"d"\s*:\s*"[A-Za-z0-9_-]{40,}"'),
    "storage key": re.compile(r"AccountKey=[A-Za-z0-9+/]{80,}"),
    "signed token": re.compile(r"eyJ[A-Za-z0-9_-]{20,}\.eyJ[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{40,}"),
    "key of the app": re.compile(r"\bAPP_KEYS\s*=\s*['\"]?[a-z0-9]+:[A-Za-z0-9_-]{43}"),
    "shared access signature": re.compile(r"[?&]sig=[A-Za-z0-9%+/]{40,}"),
}


def files() -> Iterator[Path]:
    for folder, names, found in os.walk(ROOT):
        names[:] = [name for name in names if name not in KEPT_OUT and not name.startswith(".")]
        yield from (Path(folder) / name for name in found)


@pytest.mark.requirement("XI1", "S46")
def test_no_secret_is_in_the_repository() -> None:
    found = []
    for path in files():
        if path.stat().st_size > 2_000_000 or path.suffix in {".pem", ".key", ".pfx", ".p12"}:
            assert path.suffix not in {".pem", ".key", ".pfx", ".p12"}, f"{path} is a key"
            continue
        text = path.read_bytes().decode("utf-8", "ignore")
        found += [f"{path.relative_to(ROOT)}: {kind}" for kind, pattern in SECRETS.items() if pattern.search(text)]
    assert found == []


@pytest.mark.requirement("XI1")
def test_the_search_for_secrets_finds_them(ec_keys: tuple[SigningKey, ...]) -> None:
    planted = {
        "private key": ec_keys[0].as_pem(private=True).decode(),
        "private JWK": '{"kty": "EC", "d": "' + "a" * 64 + '"}',
        "storage key": "AccountKey=" + "A" * 86 + "==",
        "signed token": "eyJ" + "a" * 30 + ".eyJ" + "b" * 30 + "." + "c" * 60,
        "key of the app": "APP_KEYS=" + Keyring.new_key("k1"),
        "shared access signature": "https://x.example/y?sv=1&sig=" + "a" * 44,
    }
    for kind, text in planted.items():
        assert SECRETS[kind].search(text), kind


@pytest.mark.requirement("XI1")
def test_an_error_shows_neither_its_place_nor_the_environment(
    ehr: StrictEhr, sessions: SessionStore, ec_keys: tuple[SigningKey, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_TEST", "planted-secret-value")
    registration = registration_of(
        ehr, client_auth="private_key_jwt", signing_keys=ec_keys, client_secret="planted-client-secret"
    )
    ehr.client_keys = None
    scene = Scene(ehr, sessions, [registration])

    def fail() -> str:
        raise RuntimeError(f"planted-detail {os.environ['SECRET_OF_THE_TEST']} {registration!r}")

    scene.app.add_url_rule("/fail", "fail", fail)
    scene.app.testing = False
    response = scene.get("/fail")
    assert response.status_code == 500
    for word in ("planted", "Traceback", "RuntimeError", "smart_launch/", "werkzeug"):
        assert word not in response.text
    assert response.headers["Cache-Control"] == "no-store"
    assert scene.get("/console").status_code == 404
    for thing in (registration, scene.smart, sessions, sessions.keys):
        assert "planted-client-secret" not in repr(thing)


@pytest.mark.requirement("XI1")
def test_debug_mode_does_not_start_at_a_public_address(
    ehr: StrictEhr, sessions: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLASK_DEBUG", "1")
    app = Flask("debugged")
    assert app.debug
    with pytest.raises(SmartConfigurationError, match="FLASK_DEBUG"):
        SmartLaunch([registration_of(ehr)], sessions, BASE).init_app(app)
    SmartLaunch([registration_of(ehr)], sessions, "http://127.0.0.1:5000").init_app(app)


@pytest.mark.requirement("S3", "XH9")
@pytest.mark.parametrize("base", ["http://app.example", "ftp://app.example", "//app.example", "app.example", ""])
def test_the_app_itself_is_reached_over_tls_only(ehr: StrictEhr, sessions: SessionStore, base: str) -> None:
    with pytest.raises((SmartConfigurationError, ValueError, OSError)):
        SmartLaunch([registration_of(ehr)], sessions, base)


class Comparisons:
    """Stands in for `hmac.compare_digest` and notes what it was given."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Any, Any]] = []

    def __call__(self, one: Any, other: Any) -> bool:
        self.pairs.append((one, other))
        return hmac.compare_digest(one, other)


@pytest.mark.requirement("XH12")
@pytest.mark.parametrize("secret", ["binding", "session", "csrf", "nonce", "at_hash"])
def test_secrets_are_compared_in_constant_time(scene: Scene, monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    """What decides is `hmac.compare_digest`, on hashes of one length: a guess learns nothing from the time it took."""
    noted = Comparisons()
    module = {
        "binding": "pending_requests",
        "session": "session_store",
        "csrf": "csrf",
        "nonce": "pending_requests",
        "at_hash": "id_token",
    }[secret]
    replacement = type("Hmac", (), {"compare_digest": noted, "new": staticmethod(hmac.new)})
    answer = scene.authorized()
    if secret == "binding":
        name = scene.cookie("__Host-state-").key
        scene.browser.set_cookie(name, "guess", domain="app.example", secure=True)
        monkeypatch.setattr(f"smart_launch.{module}.hmac", replacement)
        refused(scene.callback(answer), "launch-unknown")
    elif secret in ("nonce", "at_hash"):
        scene.ehr.claims = {secret: "guess-that-is-wrong"}
        monkeypatch.setattr(f"smart_launch.{module}.hmac", replacement)
        refused(scene.callback(answer), "identity-unproven")
    else:
        path = str(scene.callback(answer).location)
        monkeypatch.setattr(f"smart_launch.{module}.hmac", replacement)
        if secret == "csrf":
            refused(scene.post(f"{path}sign", data={"csrf_token": "guess"}), "request-forged")
        else:
            scene.browser.set_cookie(f"__Host-launch-{path.split('/')[2]}", "guess", domain="app.example", secure=True)
            refused(scene.get(path), "launch-ended")
    refusing = [pair for pair in noted.pairs if not hmac.compare_digest(*pair)]
    assert refusing, "the comparison that refused was another one"
    if module in ("pending_requests", "session_store"):
        assert all(len(one) == len(other) == 32 for one, other in noted.pairs)


@pytest.mark.requirement("XH12")
def test_a_state_is_looked_up_by_its_hash_alone(scene: Scene, owner: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """An index of hashes tells a guesser nothing about how near a guess of the state itself was."""
    answer = scene.authorized()
    columns = owner.execute(
        "SELECT column_name, data_type FROM information_schema.columns"
        " WHERE table_schema = 'app' AND table_name = 'authorization_request'"
    ).fetchall()
    assert dict(columns)["state_hash"] == "bytea"
    assert "state" not in dict(columns)
    rows = owner.execute("SELECT state_hash FROM app.authorization_request").fetchall()
    assert all(len(row[0]) == 32 for row in rows)
    assert all(answer["state"].encode() not in row[0] for row in rows)


@pytest.mark.requirement("XH4", "XH5", "S85")
def test_no_script_or_page_listens_to_messages_or_opens_windows() -> None:
    """A listener would take orders from any page that holds the frame; pop-ups and `window.top` fail in EHRs."""
    words = ("postMessage", "window.top", "window.open", "alert(", "confirm(", "localStorage", "sessionStorage")
    words += ("indexedDB", "serviceWorker", "caches.")
    listening = re.compile(
        r"(\bwindow\.|\bself\.|^\s*|\bglobalThis\.)(addEventListener\(\s*[\"']message|onmessage)", re.MULTILINE
    )
    for package in ("smart_launch", "clinician_app"):
        for path in (Path(str(resources.files(package)))).rglob("*"):
            if path.suffix in {".js", ".mjs", ".html"}:
                text = path.read_text("utf-8")
                assert not [word for word in words if word in text], path
                assert not listening.search(text), path

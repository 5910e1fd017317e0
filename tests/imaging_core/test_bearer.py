"""Entra tokens against an issuer on the wire: each claim and the signature count."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from imaging_core.bearer import entra_caller, static_caller, token_of
from imaging_core.errors import Permanent, Retryable
from imaging_core.settings import Settings, load_settings

AUDIENCE = "api://imaging-upload"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(KEY.public_key())) | {"kid": "k1", "use": "sig"}

    class Keys(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"keys": [jwk]}).encode() if self.path.endswith("/discovery/v2.0/keys") else b"{}"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Keys)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/tenant/v2.0"
    server.shutdown()
    server.server_close()


@pytest.fixture
def entra(issuer: str) -> Settings:
    return load_settings(entra_issuer=issuer, ingest_audience=AUDIENCE)


def token(issuer: str, *, key: rsa.RSAPrivateKey = KEY, algorithm: str = "RS256", **changes: Any) -> str:
    now = int(time.time())
    claims: dict[str, Any] = {
        "iss": issuer,
        "aud": AUDIENCE,
        "iat": now,
        "exp": now + 300,
        "azp": "pacs-1",
        "roles": ["Images.Upload"],
    }
    # times are given from now, since a test may run long after it was collected
    changes |= {name: now + changes[name] for name in ("exp", "nbf") if changes.get(name) is not None}
    claims = {name: value for name, value in (claims | changes).items() if value is not None}
    return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": "k1"})


def test_a_good_token_names_client_and_roles(entra: Settings, issuer: str) -> None:
    caller = entra_caller(token(issuer), AUDIENCE, entra)
    assert (caller.client, caller.roles) == ("pacs-1", {"Images.Upload"})
    assert caller.require("Images.Upload") is caller
    with pytest.raises(Permanent) as caught:
        caller.require("Admin")
    assert caught.value.code == "forbidden"


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://login.microsoftonline.com/other/v2.0"},
        {"aud": "api://other"},
        {"exp": -120},
        {"exp": None},
        {"iat": None},
        {"aud": None},
        {"nbf": 600},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_each_claim_counts(entra: Settings, issuer: str, changes: dict[str, Any]) -> None:
    with pytest.raises(Permanent) as caught:
        entra_caller(token(issuer, **changes), AUDIENCE, entra)
    assert caught.value.code == "unauthenticated"


def test_the_signature_counts(entra: Settings, issuer: str) -> None:
    now = int(time.time())
    claims = {"iss": issuer, "aud": AUDIENCE, "iat": now, "exp": now + 300}
    forged = [
        token(issuer, key=OTHER),
        token(issuer)[:-8] + "AAAAAAAA",
        jwt.encode(claims, None, algorithm="none", headers={"kid": "k1"}),
        jwt.encode(claims, "x" * 32, algorithm="HS256", headers={"kid": "k1"}),
        jwt.encode(claims, KEY, algorithm="RS256", headers={"kid": "unknown"}),
        "not.a.token",
    ]
    for text in forged:
        with pytest.raises(Permanent) as caught:
            entra_caller(text, AUDIENCE, entra)
        assert caught.value.code == "unauthenticated"


def test_an_issuer_that_is_away_is_no_refusal() -> None:
    away = load_settings(entra_issuer="http://127.0.0.1:9/tenant/v2.0")
    with pytest.raises(Retryable):
        entra_caller(token("http://127.0.0.1:9/tenant/v2.0"), AUDIENCE, away)


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic abc", "abc"])
def test_no_token(header: str) -> None:
    with pytest.raises(Permanent):
        token_of(header)


def test_an_empty_static_token_opens_nothing() -> None:
    from imaging_core.bearer import Caller

    anybody = Caller("x", frozenset())
    assert static_caller("secret", "secret", anybody) is anybody
    for sent, expected in (("", ""), ("x", ""), ("x", "y"), ("é", "e")):
        with pytest.raises(Permanent):
            static_caller(sent, expected, anybody)

"""Discovery, and the HTTP below it: what an EHR, or what stands in its place, may answer."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Response

from smart_launch import SessionStore
from smart_launch.guarded_http import AddressRefused, GuardedSession, HttpFault, origin_of, strict_json
from tests.smart_launch.scene import Scene, query_of, refused, registration_of
from tests.smart_launch.strict_ehr import StrictEhr, json_answer, raw_answer

WELL_KNOWN = "/fhir/.well-known/smart-configuration"


@pytest.mark.requirement("S13")
@pytest.mark.parametrize("slash", ["", "/"])
def test_the_document_is_below_the_base_with_one_slash(ehr: StrictEhr, sessions: SessionStore, slash: str) -> None:
    scene = Scene(ehr, sessions, [registration_of(ehr, iss=ehr.iss + slash)])
    scene.start()
    assert ehr.paths() == [WELL_KNOWN]
    assert "application/json" in ehr.seen[0].headers["Accept"]
    assert "Authorization" not in ehr.seen[0].headers


@pytest.mark.requirement("S14")
def test_relative_endpoints_are_resolved_against_the_base(scene: Scene) -> None:
    scene.ehr.discovery |= {"authorization_endpoint": "../authorize", "token_endpoint": "/token"}
    assert scene.launched()["patient"] == "p1"


@pytest.mark.requirement("S15")
def test_what_is_unknown_is_ignored_and_what_is_optional_may_be_absent(scene: Scene) -> None:
    scene.ehr.discovery |= {
        "capabilities": None,
        "revocation_endpoint": None,
        "grant_types_supported": None,
        "scopes_supported": None,
        "new_thing": {"deep": [1, None, "x"]},
    }
    assert scene.launched()["patient"] == "p1"


@pytest.mark.requirement("S16")
@pytest.mark.parametrize(
    ("methods", "status"), [(["plain"], 502), ([], 502), ("S256", 502), (["plain", "S256"], 302), (None, 302)]
)
def test_pkce_by_s256_is_required(scene: Scene, methods: Any, status: int) -> None:
    scene.ehr.discovery["code_challenge_methods_supported"] = methods
    response = scene.start()
    assert response.status_code == status
    if status == 302:
        assert query_of(response.location)["code_challenge_method"] == "S256"
    else:
        refused(response, "ehr-unsupported")


@pytest.mark.requirement("S17")
def test_an_ehr_without_ehr_launch_gets_a_clear_page(scene: Scene) -> None:
    scene.ehr.discovery["capabilities"] = ["launch-standalone", "permission-v2"]
    refused(scene.start(), "ehr-unsupported")
    assert scene.get("/login?ehr=ehr-a").status_code == 302


@pytest.mark.requirement("S18")
def test_issuer_and_keys_from_openid_discovery_where_smart_has_none(scene: Scene) -> None:
    ehr = scene.ehr
    ehr.discovery |= {"issuer": None, "jwks_uri": None}
    ehr.openid_answer = lambda: json_answer({"issuer": ehr.iss, "jwks_uri": f"{ehr.origin}/jwks"})
    ehr.claims["iss"] = ehr.iss
    answer = ehr.authorize(scene.start().location)
    assert scene.callback({**answer, "iss": ehr.iss}).status_code == 303


@pytest.mark.requirement("S18")
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("issuer", ["https://evil.example", "{origin}/other", "{origin}/fhir/", None])
def test_openid_discovery_that_names_another_issuer_is_refused(scene: Scene, known: bool, issuer: str | None) -> None:
    ehr = scene.ehr
    ehr.discovery |= {"issuer": f"{ehr.origin}/realm" if known else None, "jwks_uri": None}
    named = issuer and issuer.format(origin=ehr.origin)
    ehr.openid_answer = lambda: json_answer({"issuer": named, "jwks_uri": f"{ehr.origin}/jwks"})
    refused(scene.start(), "ehr-misconfigured")


@pytest.mark.requirement("S18")
def test_keys_are_looked_for_at_the_issuer_where_smart_names_it_without_them(scene: Scene) -> None:
    ehr = scene.ehr
    issuer = f"{ehr.origin}/realm"
    ehr.discovery |= {"issuer": issuer, "jwks_uri": None}
    ehr.openid_answer = lambda: json_answer({"issuer": issuer, "jwks_uri": f"{ehr.origin}/jwks"})
    ehr.claims["iss"] = issuer
    answer = ehr.authorize(scene.start().location)
    assert scene.callback({**answer, "iss": issuer}).status_code == 303
    assert "/realm/.well-known/openid-configuration" in ehr.paths()


@pytest.mark.requirement("S18", "S7")
def test_an_issuer_elsewhere_is_not_asked_for_its_keys(scene: Scene) -> None:
    scene.ehr.discovery |= {"issuer": "https://login.elsewhere.example/tenant", "jwks_uri": None}
    answer = scene.authorized()
    del answer["iss"]
    refused(scene.callback(answer), "ehr-misconfigured")


@pytest.mark.requirement("S19")
def test_old_servers_name_their_endpoints_in_the_capability_statement(scene: Scene) -> None:
    ehr = scene.ehr
    ehr.discovery_answer = lambda: raw_answer("", 404)
    parts = [
        {"url": "authorize", "valueUri": f"{ehr.origin}/authorize"},
        {"url": "token", "valueUri": ehr.token_url},
    ]
    extension = {"url": "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris", "extension": parts}
    ehr.metadata_answer = lambda: json_answer(
        {"resourceType": "CapabilityStatement", "rest": [{"security": {"extension": [{"url": "x"}, extension]}}]}
    )
    sent = query_of(scene.start().location)
    assert sent["code_challenge_method"] == "S256"
    assert ehr.last("/fhir/metadata").headers["Accept"] == "application/fhir+json"


@pytest.mark.requirement("S19")
@pytest.mark.parametrize("status", [301, 400, 401, 403, 500, 503])
def test_no_fallback_after_any_other_failure(scene: Scene, status: int) -> None:
    scene.ehr.discovery_answer = lambda: raw_answer("", status, headers={"Location": f"{scene.ehr.origin}/elsewhere"})
    refused(scene.start(), "ehr-unreachable")
    assert set(scene.ehr.paths()) == {WELL_KNOWN}


@pytest.mark.requirement("S20")
def test_discovery_is_kept_and_fetched_once_by_many(scene: Scene) -> None:
    good = scene.ehr.configuration

    def slow() -> Response:
        time.sleep(0.2)  # the EHR's slowness is what is tested
        return json_answer(good())

    scene.ehr.discovery_answer = slow
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(scene.start(scene.other_browser()).status_code))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [302] * 8
    assert scene.ehr.paths() == [WELL_KNOWN]


@pytest.mark.requirement("S20")
def test_discovery_and_keys_are_kept_for_ten_minutes_at_most(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = time.monotonic()

    def at(seconds: float) -> list[int]:
        clock = type("Clock", (), {"monotonic": staticmethod(lambda: begun + seconds)})
        monkeypatch.setattr("smart_launch.discovery.time", clock)
        scene.launch(scene.other_browser())
        return [scene.ehr.paths().count(path) for path in (WELL_KNOWN, "/jwks")]

    assert at(0) == [1, 1]
    assert at(599) == [1, 1]
    assert at(601) == [2, 2]


@pytest.mark.requirement("S20")
def test_two_ehrs_never_share_a_configuration(ehr: StrictEhr, second_ehr: StrictEhr, sessions: SessionStore) -> None:
    scene = Scene(ehr, sessions, [registration_of(ehr), registration_of(second_ehr, name="ehr-b")])
    assert scene.start(iss=ehr.iss).location.startswith(ehr.origin)
    assert scene.start(iss=second_ehr.iss).location.startswith(second_ehr.origin)


@pytest.mark.requirement("S20")
def test_after_a_failure_at_an_endpoint_discovery_is_asked_again(scene: Scene) -> None:
    scene.ehr.discovery["token_endpoint"] = f"{scene.ehr.origin}/moved"
    refused(scene.callback(scene.authorized()), "ehr-error")
    scene.ehr.discovery.clear()
    assert scene.launched()["patient"] == "p1"


@pytest.mark.requirement("S21", "XA6")
@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b'"text"',
        b"null",
        b"<html><body>not found</body></html>",
        b"",
        b'{"token_endpoint": NaN}',
        b'{"token_endpoint": "a", "token_endpoint": "b"}',
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b"\xff\xfe{}",
        b'{"authorization_endpoint": 1, "token_endpoint": 2}',
        b"{}",
        b" " * 2_000_000,
    ],
)
def test_a_document_that_is_none_is_refused(scene: Scene, body: bytes) -> None:
    scene.ehr.discovery_answer = lambda: raw_answer(body)
    response = scene.start()
    assert response.status_code == 502
    assert "Location" not in response.headers


@pytest.mark.requirement("S21")
def test_a_wrong_content_type_is_tolerated(scene: Scene) -> None:
    import json

    scene.ehr.discovery_answer = lambda: raw_answer(json.dumps(scene.ehr.configuration()), content_type="text/plain")
    assert scene.start().status_code == 302


@pytest.mark.requirement("S21", "XA6")
def test_a_compressed_bomb_is_not_unpacked(scene: Scene) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    scene.ehr.discovery_answer = lambda: raw_answer(bomb, headers={"Content-Encoding": "gzip"})
    refused(scene.start(), "ehr-unreachable")


@pytest.mark.requirement("S3", "S34", "XA4", "XA5")
@pytest.mark.parametrize("member", ["authorization_endpoint", "token_endpoint", "jwks_uri"])
@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "data:text/html,x",
        "http://ehr.example/authorize",
        "https://evil.example/authorize",
        "https://127.0.0.1@evil.example/",
        "//evil.example/authorize",
        "http://127.0.0.1:1/authorize",
        "file:///etc/passwd",
        "https://evil.example\\@127.0.0.1/",
    ],
)
def test_endpoints_elsewhere_are_refused(scene: Scene, member: str, url: str) -> None:
    scene.ehr.discovery[member] = url
    refused(scene.start(), "ehr-misconfigured")


@pytest.mark.requirement("S22")
def test_a_separate_authorization_server_must_be_registered(
    ehr: StrictEhr, second_ehr: StrictEhr, sessions: SessionStore
) -> None:
    ehr.discovery["authorization_endpoint"] = "https://auth.example/authorize"
    refused(Scene(ehr, sessions).start(), "ehr-misconfigured")
    scene = Scene(ehr, sessions, [registration_of(ehr, hosts=("auth.example",))])
    assert scene.start().location.startswith("https://auth.example/authorize?")


@pytest.mark.requirement("XA3", "S21")
@pytest.mark.parametrize("target", ["http://169.254.169.254/latest", "http://127.0.0.1:1/", "https://evil.example/x"])
def test_redirects_are_not_followed(scene: Scene, target: str) -> None:
    scene.ehr.discovery_answer = lambda: raw_answer("", 302, headers={"Location": target})
    refused(scene.start(), "ehr-unreachable")


@pytest.mark.requirement("S21", "S47", "XC9")
def test_redirects_are_not_followed_within_the_ehr_either(scene: Scene) -> None:
    scene.ehr.discovery_answer = lambda: raw_answer("", 307, headers={"Location": f"{scene.ehr.origin}/elsewhere"})
    scene.start()
    assert scene.ehr.paths() == [WELL_KNOWN]


@pytest.mark.requirement("S7", "S68", "XA3")
def test_a_session_reaches_its_own_origins_only(ehr: StrictEhr, second_ehr: StrictEhr) -> None:
    http = GuardedSession({ehr.origin})
    assert http.get(ehr.iss + "/.well-known/smart-configuration").status_code == 200
    for url in (second_ehr.iss, ehr.origin.replace("http:", "https:"), ehr.origin.replace("127.0.0.1", "localhost")):
        with pytest.raises(AddressRefused):
            http.get(url)
    assert second_ehr.seen == []


@contextmanager
def _raw_server(answer: bytes, pause: float = 0.0) -> Iterator[int]:
    """Serve bytes, as no HTTP library would, on a loopback port."""
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    connection.recv(4096)
                    for index in range(0, len(answer), 64) if pause else [0]:
                        connection.sendall(answer[index : index + 64] if pause else answer)
                        stop.wait(pause)
                        if stop.is_set():
                            return
                except OSError:
                    pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        stop.set()
        listener.close()
        thread.join(5)


@pytest.mark.requirement("S21", "XA6")
@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: "]
)
def test_an_answer_that_drips_is_given_up(head: bytes) -> None:
    with _raw_server(head + b"a" * 64_000, pause=0.05) as port:
        http = GuardedSession({f"http://127.0.0.1:{port}"}, total_seconds=1.0)
        with pytest.raises(requests.RequestException):
            http.get(f"http://127.0.0.1:{port}/x")


@pytest.mark.requirement("XA3")
@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "127.0.0.1",
        "::1",
        "0.0.0.0",  # noqa: S104 - an address to refuse, not one to listen at
        "168.63.129.16",
        "224.0.0.1",
        "::ffff:127.0.0.1",
        "fe80::1",
    ],
)
def test_a_registered_name_that_leads_to_an_inner_address_is_refused(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    entry = (family, socket.SOCK_STREAM, 6, "", (address, 443))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [entry])
    with pytest.raises(AddressRefused):
        GuardedSession({"https://ehr.example:443"}).get("https://ehr.example/fhir")


@pytest.mark.requirement("S3")
def test_a_certificate_of_an_unknown_authority_is_refused(sandbox: Any) -> None:
    origin = origin_of(sandbox.origin)
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        GuardedSession({origin}).get(f"{sandbox.origin}/healthz")
    assert GuardedSession({origin}, ca_file=sandbox.ca_file).get(f"{sandbox.origin}/healthz").status_code == 200


@pytest.mark.requirement("XA3", "S68")
def test_proxies_and_netrc_of_the_environment_are_not_used(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password else\n", "utf-8")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    scene.ehr.resources["Patient/p1"] = {"resourceType": "Patient", "id": "p1"}
    path = scene.launch()
    assert scene.home(f"{path}patient")["id"] == "p1"
    for seen in scene.ehr.seen:
        assert not seen.headers.get("Authorization", "").startswith("Basic ")


def test_origins() -> None:
    rows = [
        ("https://EHR.example/fhir", "https://ehr.example:443"),
        ("https://ehr.example:8443/x", "https://ehr.example:8443"),
        ("http://127.0.0.1:5/x", "http://127.0.0.1:5"),
        ("http://ehr.localhost:5/x", "http://ehr.localhost:5"),
        ("https://[2001:db8::1]/", "https://[2001:db8::1]:443"),
    ]
    for url, origin in rows:
        assert origin_of(url) == origin
    for url in ("http://ehr.example/", "https://a@b/", "https://", "ftp://a/", "https://a b/", "https://a:99999/", ""):
        with pytest.raises(AddressRefused):
            origin_of(url)


def test_strict_json() -> None:
    assert strict_json(b'\xef\xbb\xbf{"a": [1, {"b": null}]}') == {"a": [1, {"b": None}]}
    for body in (b"[]", b'{"a":1,"a":2}', b'{"a":Infinity}', b"{", b'{"a":' * 100 + b"1" + b"}" * 100):
        with pytest.raises(ValueError, match=r"JSON|member|nested|Expecting"):
            strict_json(body)


def test_http_faults_are_requests_exceptions() -> None:
    assert issubclass(AddressRefused, HttpFault)
    assert issubclass(HttpFault, requests.RequestException)

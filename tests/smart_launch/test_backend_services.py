"""The app's own access to an EHR: tokens without a user."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from flask import Response
from joserfc.jwk import KeySet

from smart_launch import (
    BackendServices,
    FhirAccessError,
    LaunchError,
    Registration,
    SessionStore,
    SmartConfigurationError,
)
from smart_launch.signing_keys import SigningKey, public_jwks
from tests.smart_launch.conftest import Sandbox, pem
from tests.smart_launch.scene import Scene, registration_of
from tests.smart_launch.strict_ehr import StrictEhr, json_answer, raw_answer

SCOPES = "system/ImagingStudy.rs system/Patient.rs"


def with_system_client(ehr: StrictEhr, keys: tuple[SigningKey, ...], **changes: Any) -> Registration:
    ehr.system_keys = KeySet.import_key_set(public_jwks(keys))  # type: ignore[arg-type]
    values = {"system_client_id": ehr.system_client_id, "system_scopes": SCOPES, "system_keys": keys, **changes}
    return registration_of(ehr, **values)


@pytest.fixture
def services(ehr: StrictEhr, ec_keys: tuple[SigningKey, ...]) -> BackendServices:
    return BackendServices([with_system_client(ehr, ec_keys)])


@pytest.mark.requirement("S81")
@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_a_token_is_asked_for_as_the_standard_says(ehr: StrictEhr, kind: str, request: Any) -> None:
    """The double takes nothing but a fresh assertion of the system's client, and scopes of level system."""
    keys = request.getfixturevalue(f"{kind}_keys")
    services = BackendServices([with_system_client(ehr, keys)])
    token = services.token("ehr-a")
    assert token in ehr.system_tokens
    assert ehr.failures == []
    sent = ehr.last("/token")
    assert sent.form["grant_type"] == ["client_credentials"]
    assert sent.form["scope"] == [SCOPES]
    assert "Authorization" not in sent.headers
    assert ehr.paths()[0] == "/fhir/.well-known/smart-configuration"
    assert services.scopes("ehr-a").allows("system", "ImagingStudy", "s")


@pytest.mark.requirement("S81")
def test_a_token_is_kept_until_shortly_before_its_end(
    services: BackendServices, ehr: StrictEhr, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = services.token("ehr-a")
    assert services.token("ehr-a") == first
    now = time.monotonic()
    clock = type("Clock", (), {"monotonic": staticmethod(lambda: now + 269)})
    monkeypatch.setattr("smart_launch.backend_services.time", clock)
    assert services.token("ehr-a") == first
    late = type("Clock", (), {"monotonic": staticmethod(lambda: now + 271)})
    monkeypatch.setattr("smart_launch.backend_services.time", late)
    assert services.token("ehr-a") != first  # 300 s, less the margin of 30
    assert len(ehr.jtis) == 2  # asked for anew with an assertion of its own, never refreshed
    assert all("refresh_token" not in item.form for item in ehr.seen)


@pytest.mark.requirement("S81")
@pytest.mark.parametrize("life", [None, "soon", 1, "300", 3600])
def test_any_life_is_understood(services: BackendServices, ehr: StrictEhr, life: Any) -> None:
    ehr.system_expires_in = life
    assert services.token("ehr-a") == services.token("ehr-a")


@pytest.mark.requirement("S81")
def test_many_threads_ask_once(services: BackendServices, ehr: StrictEhr) -> None:
    held, tokens = threading.Event(), []
    good = ehr.configuration

    def slow() -> Response:
        held.wait(5)
        return json_answer(good())

    ehr.discovery_answer = slow
    threads = [threading.Thread(target=lambda: tokens.append(services.token("ehr-a"))) for _ in range(12)]
    for thread in threads:
        thread.start()
    held.set()
    for thread in threads:
        thread.join()
    assert len(set(tokens)) == 1
    assert len(tokens) == 12
    assert ehr.paths().count("/token") == 1


@pytest.mark.requirement("S81")
def test_who_waited_for_a_failure_does_not_ask_again_but_the_next_one_does(
    services: BackendServices, ehr: StrictEhr
) -> None:
    held, failures = threading.Event(), []
    arrived = threading.Semaphore(0)

    class CountedLock:
        """The lock of the EHR's token; counts who has come to it."""

        def __init__(self) -> None:
            self._lock = threading.Lock()

        def __enter__(self) -> None:
            arrived.release()
            self._lock.acquire()

        def __exit__(self, *_: object) -> None:
            self._lock.release()

    def away() -> Response:
        held.wait(30)
        return raw_answer("", 503)

    ehr.discovery_answer = away
    services._kept["ehr-a"].lock = CountedLock()  # type: ignore[assignment]

    def ask() -> None:
        try:
            services.token("ehr-a")
        except LaunchError as error:
            failures.append(error.code)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert all(arrived.acquire(timeout=30) for _ in threads)
    held.set()
    for thread in threads:
        thread.join()
    assert failures == ["ehr-unreachable"] * 8
    assert len(ehr.seen) == 1
    ehr.discovery_answer = None
    assert services.token("ehr-a")


@pytest.mark.requirement("S81")
@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (lambda: json_answer({"error": "invalid_client"}, 401), "client-refused"),
        (lambda: json_answer({"error": "invalid_scope"}, 400), "scope-refused"),
        (lambda: raw_answer("<html>", 200), "token-unusable"),
        (lambda: json_answer({"access_token": "a", "token_type": "mac"}), "token-unusable"),
        (lambda: raw_answer("", 307, headers={"Location": "https://evil.example/token"}), "ehr-misconfigured"),
        (lambda: raw_answer("", 503), "ehr-busy"),
    ],
)
def test_a_refusal_is_typed(services: BackendServices, ehr: StrictEhr, answer: Any, code: str) -> None:
    ehr.token_answer = answer
    with pytest.raises(LaunchError) as error:
        services.token("ehr-a")
    assert error.value.code == code


@pytest.mark.requirement("S81", "S69")
def test_reading_with_the_systems_right(services: BackendServices, ehr: StrictEhr) -> None:
    ehr.resources["ImagingStudy"] = {
        "resourceType": "Bundle",
        "entry": [{"resource": {"resourceType": "ImagingStudy", "id": name}} for name in ("a", "b")],
    }
    session = services.fhir("ehr-a")
    assert [item["id"] for item in session.search("ImagingStudy", {"identifier": "urn:dicom:uid|urn:oid:1.2"})] == [
        "a",
        "b",
    ]
    ehr.system_tokens.clear()  # the EHR has forgotten the token: one new one, one more try
    assert list(session.search("ImagingStudy"))
    assert ehr.paths().count("/token") == 2
    with pytest.raises(FhirAccessError):
        session.get("https://evil.example/fhir/ImagingStudy")


@pytest.mark.requirement("S82")
def test_users_and_the_system_share_no_token_client_or_store(
    ehr: StrictEhr, sessions: SessionStore, ec_keys: tuple[SigningKey, ...], owner: psycopg.Connection[Any]
) -> None:
    registration = with_system_client(ehr, ec_keys)
    scene, services = Scene(ehr, sessions, [registration]), BackendServices([registration])
    system = services.token("ehr-a")
    ehr.resources["Patient/p1"] = {"resourceType": "Patient", "id": "p1"}
    path = scene.launch()
    assert scene.home(f"{path}patient")["id"] == "p1"
    used = ehr.last("/fhir/Patient/p1").headers["Authorization"].removeprefix("Bearer ")
    assert used in ehr.access_tokens
    assert used != system
    sent = [item.form for item in ehr.seen if item.path == "/token"]
    assert sent[0]["grant_type"] == ["client_credentials"]
    assert sent[1]["client_id"] == [ehr.client_id]
    assert "client_assertion" not in sent[1]
    # with the user's rights gone, the system's are not used in their place
    ehr.access_tokens.clear()
    ehr.refresh_tokens.clear()
    assert scene.get(f"{path}patient").status_code == 401
    assert all(item.headers.get("Authorization") != f"Bearer {system}" for item in ehr.seen)
    assert system not in str(owner.execute("SELECT to_jsonb(t) FROM app.launch_token t").fetchall())


@pytest.mark.requirement("S82")
def test_a_user_s_launch_never_asks_for_the_system_s_rights(ehr: StrictEhr, ec_keys: tuple[SigningKey, ...]) -> None:
    for changes in (
        {"scopes": "launch system/Patient.rs"},
        {"system_scopes": "patient/Patient.rs"},
        {"system_scopes": ""},
        {"system_client_id": ""},
        {"system_keys": ()},
    ):
        with pytest.raises(SmartConfigurationError):
            with_system_client(ehr, ec_keys, **changes)
    with pytest.raises(SmartConfigurationError):
        BackendServices([registration_of(ehr)]).token("ehr-a")


@pytest.mark.requirement("S81")
def test_scopes_of_version_1_where_the_ehr_has_no_other(services: BackendServices, ehr: StrictEhr) -> None:
    ehr.discovery["capabilities"] = ["client-confidential-asymmetric", "permission-v1"]
    services.token("ehr-a")
    assert ehr.last("/token").form["scope"] == ["system/ImagingStudy.read system/Patient.read"]


@pytest.mark.requirement("S45", "S81")
def test_the_systems_key_is_published_with_the_others(
    ehr: StrictEhr, sessions: SessionStore, ec_keys: tuple[SigningKey, ...], rsa_keys: tuple[SigningKey, ...]
) -> None:
    registration = replace(with_system_client(ehr, rsa_keys), signing_keys=ec_keys, client_auth="private_key_jwt")
    published = Scene(ehr, sessions, [registration]).get("/.well-known/jwks.json").get_json()["keys"]
    assert {key["kid"] for key in published} == {ec_keys[0].kid, rsa_keys[0].kid}


@pytest.mark.requirement("S78")
def test_introspection_of_a_token_that_somebody_shows(services: BackendServices, ehr: StrictEhr) -> None:
    ehr.discovery["introspection_endpoint"] = f"{ehr.origin}/introspect"
    ehr.access_tokens.add("shown")
    found = services.introspect("ehr-a", "shown")
    assert found.active
    assert found.scopes.allows("patient", "ImagingStudy", "r")
    assert (found.client_id, found.patient, found.issuer) == (ehr.client_id, "p1", ehr.origin)
    assert found.subject == "user-7"
    assert found.fhir_user.endswith("Practitioner/dr1")
    assert found.expires_at is not None
    assert found.audiences == ()
    sent = ehr.last("/introspect")
    assert sent.method == "POST"
    assert set(sent.form) == {"token", "client_assertion", "client_assertion_type"}
    assert sent.form["token"] == ["shown"]
    assert "Authorization" not in sent.headers
    assert sent.query == {}
    assert "/token" not in ehr.paths()  # no right at FHIR is asked for, where none is needed
    assert not services.introspect("ehr-a", "made up").active
    assert ehr.failures == []


@pytest.mark.requirement("S78")
def test_an_ehr_that_takes_no_client_authentication_is_shown_a_token_of_the_system(
    services: BackendServices, ehr: StrictEhr
) -> None:
    ehr.discovery["introspection_endpoint"] = f"{ehr.origin}/introspect"
    ehr.introspection_proof = "token"
    ehr.access_tokens.add("shown")
    assert services.introspect("ehr-a", "shown").active
    assert ehr.last("/introspect").form == {"token": ["shown"]}
    asked = ehr.paths().count("/introspect")
    ehr.system_tokens.clear()
    assert services.introspect("ehr-a", "shown").active  # with a new token of ours, without another refusal before
    assert ehr.paths().count("/introspect") == asked + 2
    ehr.introspection_proof = "client"  # the EHR has changed its mind
    with pytest.raises(LaunchError, match="client-refused"):
        services.introspect("ehr-a", "shown")
    assert services.introspect("ehr-a", "shown").active


@pytest.mark.requirement("S78")
@pytest.mark.parametrize(
    ("members", "audiences", "expires_at"),
    [
        ({"aud": "https://a.example"}, ("https://a.example",), None),
        ({"aud": ["https://a.example", "b"], "exp": 12.5}, ("https://a.example", "b"), 12.5),
        ({"aud": 7}, ("",), None),
        ({"aud": [None]}, ("",), None),
        ({"exp": "tomorrow"}, (), 0.0),
        ({"exp": True}, (), 0.0),
        ({"exp": None}, (), None),
    ],
)
def test_whom_an_introspected_token_is_for_and_how_long(
    services: BackendServices, ehr: StrictEhr, members: dict[str, Any], audiences: Any, expires_at: Any
) -> None:
    ehr.discovery["introspection_endpoint"] = f"{ehr.origin}/introspect"
    ehr.introspection_answer = lambda: json_answer({"active": True, **members})
    found = services.introspect("ehr-a", "shown")
    assert (found.audiences, found.expires_at) == (audiences, expires_at)


@pytest.mark.requirement("S78")
@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ({"active": "true"}, None),
        ({"active": 1}, None),
        ({}, None),
        ({"active": False, "scope": "patient/*.cruds"}, None),
        ([], "ehr-error"),
    ],
)
def test_only_a_clear_yes_makes_a_token_active(
    services: BackendServices, ehr: StrictEhr, answer: Any, code: str | None
) -> None:
    ehr.discovery["introspection_endpoint"] = f"{ehr.origin}/introspect"
    ehr.introspection_answer = lambda: json_answer(answer)
    if code is None:
        found = services.introspect("ehr-a", "shown")
        assert not found.active
        assert not found.scopes.rights
    else:
        with pytest.raises(LaunchError, match=code):
            services.introspect("ehr-a", "shown")


@pytest.mark.requirement("S78")
def test_a_kind_of_token_that_the_ehr_never_gave_is_not_active(services: BackendServices, ehr: StrictEhr) -> None:
    ehr.discovery["introspection_endpoint"] = f"{ehr.origin}/introspect"
    ehr.introspection_answer = lambda: json_answer({"error": "unsupported_token_type"}, 400)
    assert not services.introspect("ehr-a", "a.b.c").active
    assert "/token" not in ehr.paths()


@pytest.mark.requirement("S78")
def test_without_an_introspection_endpoint_nothing_is_guessed(services: BackendServices) -> None:
    with pytest.raises(LaunchError, match="ehr-unsupported"):
        services.introspect("ehr-a", "shown")


@pytest.mark.requirement("S81")
def test_the_sandbox_grants_the_system_its_own_right(neutral: Sandbox) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec

    from smart_launch.signing_keys import load_keys

    keys = load_keys(pem(ec.generate_private_key(ec.SECP384R1())))
    neutral.control(
        "POST",
        "clients",
        {
            "client_id": "imaging-system",
            "grant_types": ["client_credentials"],
            "response_types": [],
            "redirect_uris": [],
            "token_endpoint_auth_method": "private_key_jwt",
            "jwks": public_jwks(keys),
            "scopes": "system/*.rs",
        },
    )
    registration = replace(
        neutral.smart.registrations[0],
        system_client_id="imaging-system",
        system_scopes="system/ImagingStudy.rs",
        system_keys=keys,
    )
    session = BackendServices([registration]).fhir("sandbox")
    found = {item["id"] for item in session.search("ImagingStudy", {"_count": "200"})}
    assert {"smart-1-study", "smart-2-study"} <= found
    with pytest.raises(FhirAccessError, match="fhir-denied"):
        session.get_json("Patient/smart-1")  # not among the granted scopes

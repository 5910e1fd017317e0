"""The id_token: each way in which it can be wrong."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey

from smart_launch import SessionStore
from tests.smart_launch.scene import Scene, refused, registration_of
from tests.smart_launch.strict_ehr import StrictEhr, half_hash, json_answer, raw_answer

OTHER_KEY = RSAKey.generate_key(2048, {"kid": "ehr-key", "use": "sig", "alg": "RS256"})


def encoded(part: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def outcome(scene: Scene) -> Any:
    return scene.callback(scene.authorized())


def from_now(seconds: float) -> Callable[[], float]:
    """Return a time to be reckoned when the test runs, which may be long after it was collected."""
    return lambda: int(time.time()) + seconds


def at_last(claims: dict[str, Any]) -> dict[str, Any]:
    return {name: value() if callable(value) else value for name, value in claims.items()}


WRONG_CLAIMS: list[tuple[str, dict[str, Any]]] = [
    ("iss of another", {"iss": "https://evil.example"}),
    ("iss with a slash", {"iss": "{origin}/"}),
    ("iss missing", {"iss": None}),
    ("iss is a list", {"iss": ["{origin}"]}),
    ("iss is the FHIR base", {"iss": "{origin}/fhir"}),
    ("aud of another", {"aud": "other"}),
    ("aud of another, azp ours", {"aud": "other", "azp": "app-at-ehr"}),
    ("aud missing", {"aud": None}),
    ("aud empty", {"aud": []}),
    ("aud with others, no azp", {"aud": ["other", "app-at-ehr"]}),
    ("aud with others, azp another", {"aud": ["other", "app-at-ehr"], "azp": "other"}),
    ("aud ours, azp another", {"azp": "other"}),
    ("aud with a number", {"aud": ["app-at-ehr", 7], "azp": "app-at-ehr"}),
    ("expired", {"exp": from_now(-120)}),
    ("exp missing", {"exp": None}),
    ("exp a string", {"exp": "never"}),
    ("exp true", {"exp": True}),
    ("exp enormous", {"exp": 10**15}),
    ("iat in the future", {"iat": from_now(600)}),
    ("iat missing", {"iat": None}),
    ("nbf in the future", {"nbf": from_now(600)}),
    ("nonce missing", {"nonce": None}),
    ("nonce of another", {"nonce": "A" * 32}),
    ("nonce a list", {"nonce": ["x"]}),
    ("sub missing", {"sub": None}),
    ("sub empty", {"sub": ""}),
    ("sub a number", {"sub": 7}),
    ("sub too long", {"sub": "s" * 300}),
    ("sub with a NUL", {"sub": "a\0b"}),
    ("at_hash wrong", {"at_hash": half_hash("another token")}),
    ("at_hash empty", {"at_hash": ""}),
    ("at_hash a list", {"at_hash": ["x"]}),
    ("fhirUser no reference", {"fhirUser": "javascript:alert(1)"}),
    ("fhirUser of an odd type", {"fhirUser": "Device/1"}),
    ("fhirUser a list", {"fhirUser": ["Practitioner/1"]}),
    ("fhirUser with a path", {"fhirUser": "Practitioner/1/../../x"}),
]


@pytest.mark.requirement("S62", "S65", "XD5", "XD6", "XD7", "XD8", "XD9", "XD10", "XD12", "XI5")
@pytest.mark.parametrize(("name", "claims"), WRONG_CLAIMS, ids=[name for name, _ in WRONG_CLAIMS])
def test_a_wrong_claim_is_refused(scene: Scene, name: str, claims: dict[str, Any]) -> None:
    def filled(value: Any) -> Any:
        return value.format(origin=scene.ehr.origin) if isinstance(value, str) else value

    scene.ehr.claims = {key: filled(value) for key, value in at_last(claims).items()}
    if name == "iss is a list":
        scene.ehr.claims["iss"] = [scene.ehr.origin]
    refused(outcome(scene), "identity-unproven")


@pytest.mark.requirement("S62", "XI5")
@pytest.mark.parametrize(
    "claims",
    [
        {"aud": ["app-at-ehr"]},
        {"aud": ["other", "app-at-ehr"], "azp": "app-at-ehr"},
        {"azp": "app-at-ehr"},
        {"exp": from_now(-20)},
        {"iat": from_now(40)},
        {"at_hash": None},
        {"exp": from_now(300.5)},
        {"auth_time": from_now(-5000), "acr": "x", "unknown": {"a": 1}},
    ],
)
def test_what_the_standard_allows_is_taken(scene: Scene, claims: dict[str, Any]) -> None:
    scene.ehr.claims = at_last(claims)
    assert outcome(scene).status_code == 303


def unsigned(claims: dict[str, Any]) -> str:
    return f"{encoded({'alg': 'none'})}.{encoded(claims)}."


def by_public_key(ehr: StrictEhr) -> Callable[[dict[str, Any]], str]:
    """Sign with HS256, the key being the public key that everybody knows."""

    def make(claims: dict[str, Any]) -> str:
        secret = ehr.key.as_pem(private=False)
        text = f"{encoded({'alg': 'HS256', 'kid': 'ehr-key'})}.{encoded(claims)}"
        mac = hmac.new(secret, text.encode(), hashlib.sha256).digest()
        return f"{text}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"

    return make


def by_other_key(claims: dict[str, Any]) -> str:
    return jwt.encode({"alg": "RS256", "kid": "ehr-key"}, claims, OTHER_KEY)


def with_own_key(claims: dict[str, Any]) -> str:
    header = {"alg": "RS256", "kid": "ehr-key", "jwk": OTHER_KEY.as_dict(private=False)}
    return jwt.encode(header, claims, OTHER_KEY)


def changed_after_signing(ehr: StrictEhr) -> Callable[[dict[str, Any]], str]:
    def make(claims: dict[str, Any]) -> str:
        head, _, signature = jwt.encode({"alg": "RS256", "kid": "ehr-key"}, claims, ehr.key).split(".")
        return f"{head}.{encoded({**claims, 'sub': 'somebody else'})}.{signature}"

    return make


@pytest.mark.requirement("S62", "XD1", "XD2", "XD4")
@pytest.mark.parametrize(
    "kind", ["none", "hs256", "other key", "own key", "changed", "two parts", "garbage", "huge", "jwe"]
)
def test_a_wrong_signature_is_refused(scene: Scene, kind: str) -> None:
    ehr = scene.ehr
    ehr.make_id_token = {
        "none": unsigned,
        "hs256": by_public_key(ehr),
        "other key": by_other_key,
        "own key": with_own_key,
        "changed": changed_after_signing(ehr),
        "two parts": lambda claims: f"{encoded({'alg': 'RS256'})}.{encoded(claims)}",
        "garbage": lambda claims: "a.b.c",
        "huge": lambda claims: "A" * 30_000 + ".B.C",
        "jwe": lambda claims: "a.b.c.d.e",
    }[kind]
    refused(outcome(scene), "identity-unproven")


@pytest.mark.requirement("S62", "XD3")
@pytest.mark.parametrize(
    "header",
    [
        {"jku": "https://evil.example/jwks"},
        {"x5u": "https://evil.example/cert"},
        {"x5c": ["MII"]},
        {"crit": ["exp"], "exp": 1},
        {"kid": ["ehr-key"]},
        {"kid": "../../dev/null"},
        {"kid": "' OR 1=1 --"},
    ],
)
def test_headers_that_bring_a_key_or_demand_more_are_refused(scene: Scene, header: dict[str, Any]) -> None:
    def make(claims: dict[str, Any]) -> str:
        from joserfc import jws

        full = {"alg": "RS256", "kid": "ehr-key", **header}
        text = f"{encoded(full)}.{encoded(claims)}"
        algorithm = jws.JWSRegistry(algorithms=["RS256"]).get_alg("RS256")
        signature = algorithm.sign(text.encode(), scene.ehr.key)
        return f"{text}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"

    scene.ehr.make_id_token = make
    refused(outcome(scene), "identity-unproven")
    assert "evil.example" not in str(scene.ehr.seen)


@pytest.mark.requirement("S62", "XD3")
@pytest.mark.parametrize("part", ["header", "payload"])
def test_repeated_members_are_refused(scene: Scene, part: str) -> None:
    def make(claims: dict[str, Any]) -> str:
        from joserfc import jws

        head, body = json.dumps({"alg": "RS256", "kid": "ehr-key"}), json.dumps(claims)
        if part == "header":
            head = head[:-1] + ', "alg": "RS256"}'
        else:
            body = body[:-1] + ', "sub": "somebody else"}'
        text = ".".join(base64.urlsafe_b64encode(item.encode()).rstrip(b"=").decode() for item in (head, body))
        signature = jws.JWSRegistry(algorithms=["RS256"]).get_alg("RS256").sign(text.encode(), scene.ehr.key)
        return f"{text}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"

    scene.ehr.make_id_token = make
    refused(outcome(scene), "identity-unproven")


@pytest.mark.requirement("S62")
@pytest.mark.parametrize("algorithm", ["RS256", "RS384", "RS512", "PS256", "ES256", "ES384"])
def test_the_usual_algorithms_are_taken(scene: Scene, algorithm: str) -> None:
    if algorithm.startswith("ES"):
        scene.ehr.key = ECKey.generate_key({"ES256": "P-256", "ES384": "P-384"}[algorithm], {"kid": "k"})
    else:
        scene.ehr.key = RSAKey.generate_key(2048, {"kid": "k"})
    scene.ehr.jwt_header = {"alg": algorithm, "kid": "k"}
    scene.ehr.claims = {"at_hash": None}
    assert outcome(scene).status_code == 303


@pytest.mark.requirement("S62")
def test_only_the_algorithms_that_the_ehr_names(scene: Scene) -> None:
    scene.ehr.discovery["id_token_signing_alg_values_supported"] = ["ES256", "none", "HS256"]
    refused(outcome(scene), "identity-unproven")
    scene.ehr.make_id_token = unsigned
    refused(outcome(scene), "identity-unproven")


@pytest.mark.requirement("S63")
def test_a_new_key_is_fetched_once_it_is_used(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.launch()
    scene.ehr.key = RSAKey.generate_key(2048, {"kid": "new=="})
    scene.ehr.jwt_header = {"kid": "new=="}
    monkeypatch.setattr("smart_launch.issuer_keys._RETRY_S", 0.0)
    assert outcome(scene).status_code == 303
    assert scene.ehr.paths().count("/jwks") == 2


@pytest.mark.requirement("S63", "XD13")
def test_a_storm_of_unknown_keys_asks_the_ehr_no_more_often(scene: Scene) -> None:
    scene.launch()
    scene.ehr.jwt_header = {"kid": "unknown"}
    for _ in range(5):
        refused(outcome(scene), "identity-unproven")
    assert scene.ehr.paths().count("/jwks") == 1


@pytest.mark.requirement("S63")
@pytest.mark.parametrize("kid", [None, "ehr-key"])
def test_a_key_set_of_several_keys_with_and_without_ids(scene: Scene, kid: str | None) -> None:
    public = scene.ehr.key.as_dict(private=False)
    bare = {name: public[name] for name in ("kty", "n", "e")}
    others = [
        ECKey.generate_key("P-256", {"kid": "x"}).as_dict(private=False),
        {"kty": "OKP", "crv": "Ed25519", "x": "AAAA"},
        {"kty": "unknown"},
        "no object",
        {**OTHER_KEY.as_dict(private=False), "use": "enc"},
    ]
    own = bare if kid is None else {**bare, "kid": kid}
    scene.ehr.jwks = {"keys": [*others, own]}
    scene.ehr.jwt_header = {"kid": kid}
    assert outcome(scene).status_code == 303


@pytest.mark.requirement("S63", "XD13")
def test_two_keys_of_one_id_are_both_tried(scene: Scene) -> None:
    scene.ehr.jwks = {"keys": [OTHER_KEY.as_dict(private=False), scene.ehr.key.as_dict(private=False)]}
    assert outcome(scene).status_code == 303


@pytest.mark.requirement("XD13")
def test_a_published_private_key_is_not_trusted(scene: Scene) -> None:
    scene.ehr.jwks = {"keys": [scene.ehr.key.as_dict(private=True)]}
    refused(outcome(scene), "identity-unproven")


@pytest.mark.filterwarnings("ignore:Key size should be")  # the library warns of the same
@pytest.mark.requirement("XD13")
def test_a_weak_key_is_not_trusted(scene: Scene) -> None:
    from cryptography.hazmat.primitives.asymmetric import rsa

    from tests.smart_launch.conftest import pem

    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - the weak key that is to be refused
    scene.ehr.key = RSAKey.import_key(pem(weak), {"kid": "weak"})
    scene.ehr.jwt_header = {"kid": "weak"}
    refused(outcome(scene), "identity-unproven")


@pytest.mark.requirement("XD13")
@pytest.mark.parametrize("kind", ["giant", "many", "html", "list", "missing", "redirect"])
def test_a_key_set_that_is_none_is_refused(scene: Scene, kind: str) -> None:
    own = scene.ehr.key.as_dict(private=False)
    scene.ehr.jwks_answer = {
        "giant": lambda: raw_answer(b" " * 2_000_000),
        "many": lambda: json_answer({"keys": [own] * 200}),
        "html": lambda: raw_answer("<html>"),
        "list": lambda: json_answer([own]),
        "missing": lambda: raw_answer("", 404),
        "redirect": lambda: raw_answer("", 302, headers={"Location": "https://evil.example/jwks"}),
    }[kind]
    assert outcome(scene).status_code == 502


@pytest.mark.requirement("XD13")
def test_a_key_set_that_fails_once_is_asked_again(scene: Scene) -> None:
    answers = iter([raw_answer("", 500), json_answer({"keys": [scene.ehr.key.as_dict(private=False)]})])
    scene.ehr.jwks_answer = lambda: next(answers)
    assert outcome(scene).status_code == 303


@pytest.mark.requirement("XD4")
def test_the_key_of_another_ehr_does_not_count(ehr: StrictEhr, second_ehr: StrictEhr, sessions: SessionStore) -> None:
    second_ehr.key = RSAKey.generate_key(2048, {"kid": "second"})
    scene = Scene(ehr, sessions, [registration_of(ehr), registration_of(second_ehr, name="ehr-b")])
    second_ehr.jwt_header = {"kid": "second"}
    response = scene.callback(second_ehr.authorize(scene.start(iss=second_ehr.iss).location), name="ehr-b")
    assert response.status_code == 303
    ehr.make_id_token = lambda claims: jwt.encode({"alg": "RS256", "kid": "second"}, claims, second_ehr.key)
    refused(outcome(scene), "identity-unproven")


@pytest.mark.requirement("S64", "S65", "XD10")
@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("Practitioner/d1", "Practitioner/d1"),
        ("{iss}/Practitioner/d1", "Practitioner/d1"),
        ("PractitionerRole/r1", "PractitionerRole/r1"),
        ("https://ehr.example/oauth2/api/FHIR/R4/Practitioner/eM5C", "Practitioner/eM5C"),
        (None, None),
    ],
)
def test_the_user(scene: Scene, value: str | None, kept: str | None) -> None:
    scene.ehr.claims = {"fhirUser": value.format(iss=scene.ehr.iss) if value else None}
    response = outcome(scene)
    shown = scene.home(response.location)
    assert shown["fhir_user"] == kept
    assert shown["subject"] == "user-7"
    assert shown["issuer"] == scene.ehr.origin
    assert all("Practitioner" not in path for path in scene.ehr.paths())


@pytest.mark.requirement("S64")
def test_old_servers_put_the_user_into_profile(scene: Scene) -> None:
    scene.ehr.claims = {"fhirUser": None, "profile": f"{scene.ehr.iss}/Practitioner/old"}
    assert scene.home(outcome(scene).location)["fhir_user"] == "Practitioner/old"


@pytest.mark.requirement("S65", "XD10")
@pytest.mark.parametrize("kind", ["Patient", "RelatedPerson", "Person"])
def test_only_clinicians_are_let_in(scene: Scene, kind: str) -> None:
    scene.ehr.claims = {"fhirUser": f"{scene.ehr.iss}/{kind}/1"}
    refused(outcome(scene), "not-a-clinician")


@pytest.mark.requirement("S65", "XD11")
def test_openid_granted_without_an_id_token_is_refused(scene: Scene) -> None:
    scene.ehr.token = {"id_token": None}
    refused(outcome(scene), "identity-unproven")


@pytest.mark.requirement("S17", "S65")
def test_where_the_ehr_does_not_offer_identity_none_is_required(ehr: StrictEhr, sessions: SessionStore) -> None:
    ehr.discovery["capabilities"] = ["launch-ehr", "permission-v2"]
    ehr.token = {"id_token": None}
    scene = Scene(ehr, sessions)
    assert scene.home(outcome(scene).location)["subject"] is None
    strict = Scene(ehr, sessions, [registration_of(ehr, require_identity=True)])
    refused(outcome(strict), "identity-unproven")


@pytest.mark.requirement("S31", "S62")
def test_an_id_token_that_nobody_asked_for_makes_no_user(ehr: StrictEhr, sessions: SessionStore) -> None:
    scene = Scene(ehr, sessions, [registration_of(ehr, scopes="launch patient/Patient.rs")])
    ehr.token = {"id_token": ehr.id_token(None, "x")}
    assert scene.home(outcome(scene).location)["subject"] is None


@pytest.mark.requirement("S18", "S62")
def test_without_a_known_issuer_no_id_token_is_believed(scene: Scene) -> None:
    scene.ehr.discovery["issuer"] = None
    answer = scene.authorized()
    del answer["iss"]
    refused(scene.callback(answer), "identity-unproven")


@pytest.mark.requirement("XD12")
def test_an_id_token_of_an_earlier_launch_is_refused(scene: Scene) -> None:
    kept: list[str] = []
    original = scene.ehr.id_token

    def keep(nonce: str | None, access_token: str) -> str:
        kept.append(original(nonce, access_token))
        return kept[0]

    scene.ehr.id_token = keep  # type: ignore[method-assign]
    scene.ehr.claims = {"at_hash": None}
    assert outcome(scene).status_code == 303
    refused(outcome(scene), "identity-unproven")


def test_key_sets_of_the_double_are_public(ehr: StrictEhr) -> None:
    assert "d" not in KeySet([ehr.key]).as_dict(private=False)["keys"][0]

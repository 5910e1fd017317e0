"""The app's JWK Set, and the keys behind it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from joserfc.jwk import ECKey, KeySet

from smart_launch import SessionStore, SmartConfigurationError
from smart_launch.signing_keys import load_keys, public_jwks
from tests.smart_launch.conftest import pem
from tests.smart_launch.scene import Scene, registration_of
from tests.smart_launch.strict_ehr import StrictEhr


@pytest.mark.requirement("S45", "XF3")
def test_the_key_set_is_public_and_holds_public_members_only(
    ehr: StrictEhr, sessions: SessionStore, ec_keys: Any, rsa_keys: Any
) -> None:
    registration = registration_of(ehr, client_auth="private_key_jwt", signing_keys=ec_keys + rsa_keys)
    response = Scene(ehr, sessions, [registration]).get("/.well-known/jwks.json")
    assert response.status_code == 200
    assert response.headers["Cache-Control"] == "public, max-age=3600"
    assert response.mimetype == "application/json"
    assert "Set-Cookie" not in response.headers
    keys = json.loads(response.text)["keys"]
    assert {key["kty"] for key in keys} == {"EC", "RSA"}
    for key in keys:
        material = {"EC": {"crv", "x", "y"}, "RSA": {"n", "e"}}[key["kty"]]
        assert set(key) == {"kty", "kid", "use", "alg", "key_ops"} | material
        assert key["key_ops"] == ["verify"]
    assert len({key["kid"] for key in keys}) == 2


@pytest.mark.requirement("S45", "XF3")
def test_without_keys_the_set_is_empty(scene: Scene) -> None:
    assert json.loads(scene.get("/.well-known/jwks.json").text) == {"keys": []}


@pytest.mark.requirement("S45", "XF4")
def test_rotation_publishes_both_keys_and_signs_with_the_first(ehr: StrictEhr, sessions: SessionStore) -> None:
    old, new = (pem(ec.generate_private_key(ec.SECP384R1())) for _ in range(2))
    for order in (old + new, new + old, new):
        keys = load_keys(order)
        ehr.client_keys = KeySet.import_key_set(public_jwks(keys))  # type: ignore[arg-type]
        registration = registration_of(ehr, client_auth="private_key_jwt", signing_keys=keys)
        assert Scene(ehr, sessions, [registration]).launched()["patient"] == "p1"
    assert ehr.failures == []
    assert [key.kid for key in load_keys(old + new)][::-1] == [key.kid for key in load_keys(new + old)]


@pytest.mark.requirement("S45")
def test_keys_are_read_as_pem_jwk_and_jwk_set() -> None:
    key = ECKey.generate_key("P-384")
    member = key.as_dict(private=True)
    for data in (json.dumps(member), json.dumps({"keys": [member]}), key.as_pem(private=True).decode()):
        assert load_keys(data.encode())[0].as_dict(private=True)["d"] == member["d"]


@pytest.mark.filterwarnings("ignore:Key size should be")  # the library warns of the same
@pytest.mark.requirement("S43", "S46")
def test_keys_that_can_not_sign_as_smart_asks_are_refused_at_the_start() -> None:
    public = ECKey.generate_key("P-384").as_dict(private=False)
    bad = [
        b"",
        b"not a key",
        json.dumps(public).encode(),
        pem(ec.generate_private_key(ec.SECP256R1())),
        pem(rsa.generate_private_key(65537, 1024)),  # noqa: S505 - the weak key that is to be refused
        b'{"keys": []}',
        b'{"kty": "oct", "k": "AAAA"}',
    ]
    for data in bad:
        with pytest.raises(SmartConfigurationError):
            load_keys(data)

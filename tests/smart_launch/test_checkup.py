"""Checks of an EHR without a user, and the rotation of the app's keys."""

from __future__ import annotations

from typing import Any

import pytest
from joserfc.jwk import KeySet

from smart_launch import SmartConfigurationError
from smart_launch.checkup import check_ehr
from smart_launch.signing_keys import SigningKey, add_key, load_keys, promote_key, public_jwks, retire_keys
from tests.smart_launch.conftest import Sandbox
from tests.smart_launch.scene import BASE, registration_of
from tests.smart_launch.strict_ehr import StrictEhr, json_answer, raw_answer
from tests.smart_launch.test_backend_services import with_system_client


def results(registration: Any) -> dict[str, bool | None]:
    return {check.subject: check.passed for check in check_ehr(registration, BASE)}


@pytest.mark.requirement("S13", "S16", "S44")
def test_the_sandbox_passes_every_check(neutral: Sandbox) -> None:
    found = results(neutral.smart.registrations[0])
    assert found.pop("redirect URI") is None
    assert all(found.values()), found
    assert set(found) == {
        "discovery",
        "PKCE",
        "EHR launch",
        "scopes",
        "client authentication",
        "signing key",
        "identity",
        "FHIR service",
    }


def test_what_is_wrong_is_named(ehr: StrictEhr, ec_keys: tuple[SigningKey, ...]) -> None:
    ehr.discovery |= {
        "capabilities": ["permission-v1"],
        "token_endpoint_auth_methods_supported": ["private_key_jwt"],
        "token_endpoint_auth_signing_alg_values_supported": ["RS384"],
    }
    ehr.jwks_answer = lambda: raw_answer("", 404)
    ehr.metadata_answer = lambda: json_answer({"fhirVersion": "3.0.2"})
    found = results(registration_of(ehr, client_auth="private_key_jwt", signing_keys=ec_keys))
    assert found["EHR launch"] is False
    assert found["scopes"] is None
    assert found["signing key"] is False
    assert found["identity"] is False
    assert found["FHIR service"] is False


def test_an_ehr_that_is_away(ehr: StrictEhr) -> None:
    ehr.discovery_answer = lambda: raw_answer("", 500)
    assert results(registration_of(ehr)) == {"redirect URI": None, "discovery": False}


@pytest.mark.requirement("S81")
def test_the_system_s_own_access_is_tried(ehr: StrictEhr, ec_keys: tuple[SigningKey, ...]) -> None:
    registration = with_system_client(ehr, ec_keys)
    assert results(registration)["system access"] is True
    ehr.system_scope = "system/Patient.rs"
    assert results(registration)["system access"] is None  # works, with less than was asked for
    ehr.system_keys = KeySet.import_key_set(public_jwks(load_keys(add_key(b"", sign_now=True))))  # type: ignore[arg-type]
    assert results(registration)["system access"] is False
    assert "system access" not in results(registration_of(ehr))


@pytest.mark.requirement("S45", "XF4")
def test_rotation_step_by_step() -> None:
    first = add_key(b"", sign_now=True)
    (old,) = load_keys(first)
    published = load_keys(add_key(first))
    assert published[0].kid == old.kid
    promoted = promote_key(add_key(first))
    signing, kept = load_keys(promoted)
    assert kept.kid == old.kid
    (left,) = load_keys(retire_keys(promoted))
    assert left.kid == signing.kid
    assert load_keys(add_key(first, sign_now=True))[1].kid == old.kid
    with pytest.raises(SmartConfigurationError):
        add_key(b'{"keys": []}')

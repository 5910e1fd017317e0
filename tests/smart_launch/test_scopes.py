"""Scopes: grammar, both versions, and what they allow."""

from __future__ import annotations

import pytest

from smart_launch import ScopeSet, SmartConfigurationError
from smart_launch.scopes import check_requested, to_v1


@pytest.mark.requirement("S29")
@pytest.mark.parametrize(
    "scope",
    [
        "patient/Patient.r",
        "patient/Patient.cruds",
        "user/*.rs",
        "system/Observation.c",
        "patient/Observation.rs?category=http://terminology.hl7.org/CodeSystem/observation-category|imaging",
        "patient/Observation.rs?category=a%20b&status=final",
        "patient/Patient.read",
        "user/*.*",
        "launch",
        "launch/patient",
        "launch/imagingstudy?role=https://roles.example/a",
        "openid",
        "fhirUser",
        "online_access",
    ],
)
def test_well_formed(scope: str) -> None:
    assert check_requested(scope) == scope


@pytest.mark.requirement("S29")
@pytest.mark.parametrize(
    "scope",
    [
        "patient/Patient.dus",
        "patient/Patient.sr",
        "patient/Patient.",
        "patient/Patient.rr",
        "patient/Patient.x",
        "patient/patient.rs",
        "other/Patient.rs",
        "patient/Patient.read?x=1",
        "launch/Patient",
        "launch/patient?role=a&role=b",
        "Patient.read",
        "patient.Patient.rs",
        "nonsense",
    ],
)
def test_malformed_scopes_are_never_asked_for(scope: str) -> None:
    with pytest.raises(SmartConfigurationError):
        check_requested(scope)


@pytest.mark.requirement("S30")
@pytest.mark.parametrize(
    ("old", "allowed", "not_allowed"), [("read", "rs", "cud"), ("write", "cud", "rs"), ("*", "cruds", "")]
)
def test_version_1_means(old: str, allowed: str, not_allowed: str) -> None:
    scopes = ScopeSet.parse(f"patient/Observation.{old}")
    assert all(scopes.allows("patient", "Observation", letter) for letter in allowed)
    assert not any(scopes.allows("patient", "Observation", letter) for letter in not_allowed)
    assert not any(scopes.allows("user", "Observation", letter) for letter in "cruds")
    assert not any(scopes.allows("patient", "Patient", letter) for letter in "cruds")


@pytest.mark.requirement("S30")
def test_said_in_version_1() -> None:
    assert to_v1("launch patient/A.rs patient/B.cud user/*.cruds patient/C.r?a=b") == (
        "launch patient/A.read patient/B.write user/*.read user/*.write patient/C.read"
    )


@pytest.mark.requirement("S50")
def test_words() -> None:
    scopes = ScopeSet.parse("openid  patient/A.rs openid x")
    assert "openid" in scopes
    assert "y" not in scopes
    assert list(scopes) == ["openid", "patient/A.rs", "x"]
    assert scopes.has_level("patient")
    assert not scopes.has_level("user")

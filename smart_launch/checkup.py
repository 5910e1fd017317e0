"""Checks of a registered EHR that need no user: what `imaging doctor ehr NAME` shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import requests

from smart_launch.backend_services import BackendServices
from smart_launch.client_auth import choose_method
from smart_launch.discovery import Discovery, SmartConfiguration
from smart_launch.errors import LaunchError, SmartConfigurationError
from smart_launch.guarded_http import GuardedSession
from smart_launch.issuer_keys import IssuerKeys
from smart_launch.registration import Registration
from smart_launch.scopes import to_v1
from smart_launch.signing_keys import choose_key

__all__ = ["Check", "check_ehr"]

_FHIR_JSON = "application/fhir+json"


@dataclass(frozen=True)
class Check:
    """One check and how it went.

    Parameters
    ----------
    subject : str
        What was looked at.
    passed : bool or None
        None: it works, but somebody should know.
    detail : str
        What was found, and what to do if it is wrong.
    """

    subject: str
    passed: bool | None
    detail: str


def check_ehr(registration: Registration, app_base_url: str) -> Iterator[Check]:
    """Check discovery, keys and metadata of an EHR; nothing is sent that needs or changes a login.

    Parameters
    ----------
    registration : Registration
        The EHR.
    app_base_url : str
        Public address of the app, for the redirect URI to be registered.
    """
    yield Check("redirect URI", None, f"register exactly {app_base_url.rstrip('/')}/callback/{registration.name}")
    http = GuardedSession(registration.origins, registration.ca_file)
    try:
        configuration = Discovery().of(registration, http)
    except LaunchError as error:
        yield Check("discovery", False, error.detail or error.code)
        return
    source = "CapabilityStatement (SMART 1)" if configuration.legacy else "smart-configuration"
    yield Check("discovery", None if configuration.legacy else True, f"read from {source}")
    yield from _capabilities(registration, configuration)
    yield from _client(registration, configuration)
    yield from _identity(registration, configuration, http)
    yield _metadata(registration)
    if registration.system_client_id:
        yield _system_access(registration)


def _capabilities(registration: Registration, configuration: SmartConfiguration) -> Iterator[Check]:
    if configuration.code_challenge_methods is None:
        yield Check("PKCE", None, "the EHR does not say that it supports S256; it is sent anyway")
    else:
        yield Check("PKCE", True, "S256")
    if not configuration.capabilities:
        yield Check("capabilities", None, "none listed; EHR launch, scopes of version 2 and identity are assumed")
        return
    offered = configuration.offers("launch-ehr")
    yield Check("EHR launch", offered, "offered" if offered else "capability launch-ehr is missing")
    if configuration.scopes_v1:
        yield Check("scopes", None, f"no permission-v2, so version 1 is asked for: {to_v1(registration.scopes)}")
    else:
        yield Check("scopes", True, registration.scopes)


def _client(registration: Registration, configuration: SmartConfiguration) -> Iterator[Check]:
    method = choose_method(registration, configuration.auth_methods)
    known = not configuration.auth_methods or method in configuration.auth_methods or method == "none"
    yield Check("client authentication", known, method if known else f"{method} is not among those that the EHR lists")
    if method != "private_key_jwt":
        return
    try:
        key, algorithm = choose_key(registration.signing_keys, configuration.auth_signing_algs)
    except SmartConfigurationError as error:
        yield Check("signing key", False, str(error))
    else:
        yield Check("signing key", True, f"{algorithm}, kid {key.kid}")


def _identity(registration: Registration, configuration: SmartConfiguration, http: GuardedSession) -> Iterator[Check]:
    if "openid" not in registration.scopes.split():
        yield Check("identity", None, "openid is not asked for: users have no names in the audit trail")
        return
    if not configuration.issuer or not configuration.jwks_uri:
        yield Check("identity", False, "issuer or jwks_uri is missing; set issuer, or check the EHR's discovery")
        return
    try:
        found = IssuerKeys().published(registration, configuration.jwks_uri, http)
    except LaunchError as error:
        yield Check("identity", False, f"{error.code}: {error.detail}")
        return
    usable = f"{len(found)} usable key{'' if len(found) == 1 else 's'} of {configuration.issuer}"
    yield Check("identity", bool(found), usable)


def _system_access(registration: Registration) -> Check:
    """Ask for a token of the app's own, which needs no user (SMART Backend Services)."""
    try:
        granted = BackendServices([registration]).scopes(registration.name)
    except LaunchError as error:
        return Check("system access", False, f"{error.code}: {error.detail}")
    lacking = [word for word in registration.system_scopes.split() if word not in granted.words]
    return Check("system access", None if lacking else True, f"granted: {granted.text or 'nothing'}")


def _metadata(registration: Registration) -> Check:
    http = GuardedSession({*registration.origins}, registration.ca_file, max_bytes=16 * 1024 * 1024)
    try:
        response = http.get(f"{registration.fhir_url}/metadata", headers={"Accept": _FHIR_JSON})
        version = str(response.json().get("fhirVersion", "")) if response.status_code == 200 else ""
    except (requests.RequestException, ValueError, AttributeError) as error:
        return Check("FHIR service", False, f"metadata: {type(error).__name__}")
    if not version:
        return Check("FHIR service", None, f"metadata answered {response.status_code}")
    return Check("FHIR service", version.startswith("4.0"), f"FHIR {version}")

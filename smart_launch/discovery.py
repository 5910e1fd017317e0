"""Discovery of an EHR's endpoints: `.well-known/smart-configuration` (SMART 2.2, "Conformance").

Falls back on the CapabilityStatement of old servers only where the document is not there (404), never after a failure.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import urljoin

import requests
import structlog

from smart_launch.errors import LaunchError
from smart_launch.guarded_http import AddressRefused, GuardedSession, origin_of, strict_json
from smart_launch.registration import Registration

__all__ = ["AssociatedEndpoint", "Cached", "Discovery", "SmartConfiguration"]

_log = structlog.get_logger("smart_launch")
_OAUTH_URIS = "/StructureDefinition/oauth-uris"
_TTL_S = 600.0
_MOST_ASSOCIATED = 20
Value = TypeVar("Value")


@dataclass(frozen=True)
class AssociatedEndpoint:
    """A service beside the FHIR service that takes the same token (SMART 2.2 "associated_endpoints", experimental).

    Parameters
    ----------
    url : str
        Its base, without a trailing slash.
    capabilities : tuple of str
        What it is for, such as `smart-imaging-access`.
    """

    url: str
    capabilities: tuple[str, ...]


@dataclass(frozen=True)
class SmartConfiguration:
    """What an EHR says about its authorization service; every URL is absolute and at a registered origin.

    An empty tuple or string stands for a member that the EHR does not send.
    """

    authorization_endpoint: str
    token_endpoint: str
    issuer: str = ""
    jwks_uri: str = ""
    revocation_endpoint: str = ""
    introspection_endpoint: str = ""
    end_session_endpoint: str = ""
    capabilities: tuple[str, ...] = ()
    code_challenge_methods: tuple[str, ...] | None = None
    auth_methods: tuple[str, ...] = ()
    auth_signing_algs: tuple[str, ...] = ()
    id_token_algs: tuple[str, ...] = ()
    iss_parameter: bool = False
    legacy: bool = False
    associated_endpoints: tuple[AssociatedEndpoint, ...] = ()

    def offers(self, capability: str) -> bool:
        """Say whether a capability is named."""
        return capability in self.capabilities

    @property
    def scopes_v1(self) -> bool:
        """Whether scopes are asked for in version 1: capabilities are listed, and `permission-v2` is not among them."""
        return bool(self.capabilities) and "permission-v2" not in self.capabilities


@dataclass
class _Entry(Generic[Value]):
    lock: threading.Lock = field(default_factory=threading.Lock)
    value: Value | None = None
    fetched: float = float("-inf")


class Cached(Generic[Value]):
    """Values by key for a time, each fetched by one thread at once while the others wait for it.

    Parameters
    ----------
    ttl : float
        Seconds for which a value is kept.
    """

    def __init__(self, ttl: float = _TTL_S) -> None:
        self._ttl = ttl
        self._entries: dict[str, _Entry[Value]] = {}
        self._guard = threading.Lock()

    def get(self, key: str, fetch: Callable[[], Value], *, not_older_than: float | None = None) -> Value:
        """Return the value of a key, fetched now if there is none or if it is too old.

        Parameters
        ----------
        key : str
            One tenant's key; values are never shared between tenants.
        fetch : callable
            Gets the value; what it raises is raised, and nothing is kept.
        not_older_than : float, optional
            Greatest age in seconds, where the time of the cache is too long.
        """
        with self._guard:
            entry = self._entries.setdefault(key, _Entry())
        limit = self._ttl if not_older_than is None else min(self._ttl, not_older_than)
        value = entry.value
        if value is not None and time.monotonic() - entry.fetched <= limit:
            return value
        with entry.lock:
            if entry.value is None or time.monotonic() - entry.fetched > limit:
                entry.value = fetch()
                entry.fetched = time.monotonic()
            return entry.value

    def forget(self, key: str) -> None:
        """Fetch anew at the next call."""
        with self._guard:
            self._entries.pop(key, None)


class Discovery:
    """Configurations of the registered EHRs, kept for ten minutes at most."""

    def __init__(self) -> None:
        self._cache: Cached[SmartConfiguration] = Cached()

    def of(self, registration: Registration, http: GuardedSession) -> SmartConfiguration:
        """Return an EHR's configuration.

        Raises
        ------
        LaunchError
            `ehr-unreachable` (no answer, or an error), `ehr-misconfigured` (an answer that can't be used safely).
        """
        return self._cache.get(registration.name, lambda: _fetch(registration, http))

    def forget(self, registration: Registration) -> None:
        """Ask the EHR again at the next launch; after a failure at one of its endpoints."""
        self._cache.forget(registration.name)


def _fetch(registration: Registration, http: GuardedSession) -> SmartConfiguration:
    base = registration.discovery_base
    address = f"{base}/.well-known/smart-configuration"
    response = _get(http, address, "application/json", registration.discovery_headers)
    if response.status_code == 404:
        _log.warning("smart.discovery.legacy", ehr=registration.name)
        return _from_capability_statement(registration, http)
    document = _document(response)
    if not _text(document, "jwks_uri") or not (registration.issuer or _text(document, "issuer")):
        document = {**_openid_configuration(registration, http, document, base), **_given(document)}
    configuration = _parse(registration, document, base)
    if configuration.code_challenge_methods is None:
        _log.warning("smart.discovery.no_pkce_methods", ehr=registration.name)
    elif "S256" not in configuration.code_challenge_methods:
        raise LaunchError("ehr-unsupported", "code_challenge_methods_supported lacks S256")
    return configuration


def _given(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if value not in (None, "")}


def _get(http: GuardedSession, url: str, accept: str, headers: Sequence[tuple[str, str]] = ()) -> requests.Response:
    try:
        return http.get(url, headers={**dict(headers), "Accept": accept})
    except AddressRefused as error:
        raise LaunchError("ehr-misconfigured", str(error)) from error
    except requests.RequestException as error:
        raise LaunchError("ehr-unreachable", f"{type(error).__name__} at discovery") from error


def _document(response: requests.Response) -> dict[str, Any]:
    if response.status_code != 200:
        raise LaunchError("ehr-unreachable", f"discovery answered {response.status_code}")
    try:
        return strict_json(response.content)
    except ValueError as error:
        raise LaunchError("ehr-misconfigured", f"discovery: {error}") from error


def _openid_configuration(
    registration: Registration, http: GuardedSession, known: dict[str, Any], base: str
) -> dict[str, Any]:
    """Return issuer and keys from OpenID Connect Discovery, for servers that leave them out of the SMART document.

    They are looked for at the issuer, where one is known, else at the FHIR base.
    """
    issuer = registration.issuer or _text(known, "issuer")
    place = (issuer or base).rstrip("/")
    try:
        reachable = origin_of(place) in registration.origins
    except AddressRefused:
        reachable = False
    if not reachable:
        return {}
    response = _get(http, f"{place}/.well-known/openid-configuration", "application/json")
    if response.status_code != 200:
        return {}
    document = _document(response)
    # OpenID Connect Discovery 1.0, 4.3: a document that names another issuer than its own address speaks for nobody.
    if document.get("issuer") not in ((issuer,) if issuer else (base, registration.iss)):
        raise LaunchError("ehr-misconfigured", "openid-configuration names another issuer")
    return {name: document[name] for name in ("issuer", "jwks_uri") if name in document}


def _parse(registration: Registration, document: dict[str, Any], base: str) -> SmartConfiguration:
    def url(name: str, *, required: bool = False) -> str:
        value = _text(document, name)
        if not value:
            if required:
                raise LaunchError("ehr-misconfigured", f"discovery lacks {name}")
            return ""
        return _endpoint(registration, name, value, base, required=required)

    methods = document.get("code_challenge_methods_supported")
    return SmartConfiguration(
        authorization_endpoint=url("authorization_endpoint", required=True),
        token_endpoint=url("token_endpoint", required=True),
        issuer=registration.issuer or _text(document, "issuer"),
        jwks_uri=url("jwks_uri"),
        revocation_endpoint=url("revocation_endpoint"),
        introspection_endpoint=url("introspection_endpoint"),
        end_session_endpoint=url("end_session_endpoint"),
        capabilities=_texts(document.get("capabilities")),
        code_challenge_methods=None if methods is None else _texts(methods),
        auth_methods=_texts(document.get("token_endpoint_auth_methods_supported")),
        auth_signing_algs=_texts(document.get("token_endpoint_auth_signing_alg_values_supported")),
        id_token_algs=_texts(document.get("id_token_signing_alg_values_supported")),
        iss_parameter=document.get("authorization_response_iss_parameter_supported") is True,
        associated_endpoints=tuple(_associated(registration, document, base)),
    )


def _associated(registration: Registration, document: dict[str, Any], base: str) -> Iterator[AssociatedEndpoint]:
    """Yield the associated endpoints at registered hosts; the token goes to no other, whatever the document lists."""
    for entry in _objects(document.get("associated_endpoints"))[:_MOST_ASSOCIATED]:
        value, capabilities = _text(entry, "url"), _texts(entry.get("capabilities"))
        if value and capabilities:
            address = _endpoint(registration, "associated_endpoints", value, base, required=False)
            if address:
                yield AssociatedEndpoint(address.rstrip("/"), capabilities)


def _endpoint(registration: Registration, name: str, value: str, base: str, *, required: bool) -> str:
    """Return an endpoint's absolute URL; one that leads elsewhere than to the registered hosts is not used."""
    url = urljoin(f"{base}/", value)
    try:
        origin = origin_of(url)
    except AddressRefused as error:
        if not required and name != "jwks_uri":
            _log.warning("smart.discovery.unusable_endpoint", ehr=registration.name, endpoint=name)
            return ""
        raise LaunchError("ehr-misconfigured", f"{name}: {error}") from error
    if origin in registration.origins:
        return url
    if required or name == "jwks_uri":
        raise LaunchError("ehr-misconfigured", f"{name} is at {origin}, which is not among the registration's hosts")
    _log.warning("smart.discovery.foreign_endpoint", ehr=registration.name, endpoint=name, origin=origin)
    return ""


def _text(document: dict[str, Any], name: str) -> str:
    value = document.get(name)
    return value if isinstance(value, str) and value.isprintable() else ""


def _texts(value: object) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def _from_capability_statement(registration: Registration, http: GuardedSession) -> SmartConfiguration:
    """Read the endpoints that servers of SMART 1 name in their CapabilityStatement (deprecated since SMART 2)."""
    base = registration.discovery_base
    statement = _document(_get(http, f"{base}/metadata", "application/fhir+json", registration.discovery_headers))
    found: dict[str, Any] = {}
    for rest in _objects(statement.get("rest")):
        security = rest.get("security")
        for extension in _objects(security.get("extension") if isinstance(security, dict) else None):
            if str(extension.get("url", "")).endswith(_OAUTH_URIS):
                for part in _objects(extension.get("extension")):
                    found[str(part.get("url"))] = part.get("valueUri")
    document = {
        "authorization_endpoint": found.get("authorize"),
        "token_endpoint": found.get("token"),
        "revocation_endpoint": found.get("revoke"),
    }
    document |= _openid_configuration(registration, http, {}, base)
    configuration = _parse(registration, document, base)
    return SmartConfiguration(**{**vars(configuration), "legacy": True})


def _objects(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []

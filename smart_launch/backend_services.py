"""The app's own access to an EHR, without a user (SMART 2.2 "Backend Services").

It shares nothing with launches: another client id, other keys, other sessions, and tokens that live in this process's
memory only. So a token of the system never serves a user's request, and a user's right never grows by it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from smart_launch.client_auth import ClientAuth, authenticate
from smart_launch.discovery import Discovery, SmartConfiguration
from smart_launch.errors import LaunchError, SmartConfigurationError
from smart_launch.fhir_session import FhirSession
from smart_launch.guarded_http import GuardedSession, origin_of
from smart_launch.introspection import Introspection, ask, cannot_be_asked_about, read_introspection
from smart_launch.registration import Registration
from smart_launch.scopes import ScopeSet, to_v1
from smart_launch.token_endpoint import client_credentials

__all__ = ["BackendServices", "SystemAccess"]

_MIB = 1024 * 1024
_MARGIN_S = 30.0


@dataclass(frozen=True)
class SystemAccess:
    """The app's own right at one EHR: it is not one patient's."""

    ehr: Registration
    fhir_base: str
    patient: None = None
    token_locations: tuple[str, ...] = ()


@dataclass
class _Kept:
    """The token of one EHR, its lock, and how the last request for it went."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    token: str | None = field(default=None, repr=False)
    scopes: ScopeSet = field(default_factory=lambda: ScopeSet.parse(""))
    good_until: float = float("-inf")
    failure: LaunchError | None = None
    failed_at: float = float("-inf")
    shows_token: bool = False  # at introspection, where the EHR takes no client authentication


class BackendServices:
    """Tokens of the system, one for each EHR whose registration has `system_client_id`.

    Parameters
    ----------
    registrations : sequence of Registration
        The EHRs.
    margin : float
        Seconds before its end at which a token is not handed out any more; a quarter of a shorter life.
    max_fhir_bytes : int
        Longest answer of a FHIR service that is read.
    """

    def __init__(
        self, registrations: Sequence[Registration], *, margin: float = _MARGIN_S, max_fhir_bytes: int = 32 * _MIB
    ) -> None:
        self._clients = {item.name: _as_system_client(item) for item in registrations if item.system_client_id}
        self._kept = {name: _Kept() for name in self._clients}
        self._margin = margin
        self._max_fhir_bytes = max_fhir_bytes
        self._discovery = Discovery()
        self._http = {
            name: GuardedSession(item.origins, item.ca_file, max_bytes=_MIB // 2)
            for name, item in self._clients.items()
        }

    @property
    def names(self) -> tuple[str, ...]:
        """EHRs at which the app has a right of its own."""
        return tuple(self._clients)

    def token(self, name: str) -> str:
        """Return a token that lives for a while yet; however many ask at once, the EHR is asked once.

        Raises
        ------
        LaunchError
            With a code that says what the EHR objected to.
        SmartConfigurationError
            The EHR's registration has no system client.
        """
        return self._token(name, None)

    def scopes(self, name: str) -> ScopeSet:
        """Return what was granted with the current token, which may be less than was asked for."""
        self.token(name)
        return self._kept[name].scopes

    def fhir(self, name: str) -> FhirSession:
        """Return a session to an EHR's FHIR service with the app's own right; after a 401 it gets a new token, once."""
        client = self._client(name)
        http = GuardedSession({origin_of(client.fhir_url)}, client.ca_file, max_bytes=self._max_fhir_bytes)
        return FhirSession(
            SystemAccess(client, client.fhir_url), http, partial(self._token, name, None), partial(self._token, name)
        )

    def introspect(self, name: str, token: str) -> Introspection:
        """Ask an EHR what a token that somebody has shown is good for (RFC 7662), with the app's own right.

        SMART 2.2 has the app prove itself by its client authentication; an EHR that takes none at that endpoint is
        shown a token of the system instead (RFC 7662 2.1 leaves the choice to the server).

        Raises
        ------
        LaunchError
            `ehr-unsupported` where the EHR offers no introspection; else as `token`.
        """
        configuration, http = self._endpoints(name)
        if not configuration.introspection_endpoint:
            raise LaunchError("ehr-unsupported", "no introspection_endpoint")
        endpoint, kept = configuration.introspection_endpoint, self._kept[name]
        if not kept.shows_token:
            proof = authenticate(self._client(name), configuration, endpoint)
            status, body = ask(http, endpoint, token, proof)
            if status not in (400, 401, 403) or cannot_be_asked_about(body):
                return read_introspection(status, body)
        own = self.token(name)
        status, body = ask(http, endpoint, token, _shown(own))
        if status == 401:  # our own token has ended early
            status, body = ask(http, endpoint, token, _shown(self._token(name, own)))
        kept.shows_token = status == 200
        return read_introspection(status, body)

    # how

    def _client(self, name: str) -> Registration:
        client = self._clients.get(name)
        if client is None:
            raise SmartConfigurationError(f"{name}: no system_client_id is registered")
        return client

    def _endpoints(self, name: str) -> tuple[SmartConfiguration, GuardedSession]:
        client, http = self._client(name), self._http[name]
        return self._discovery.of(client, http), http

    def _token(self, name: str, stale: str | None) -> str:
        self._client(name)
        kept = self._kept[name]
        begun = time.monotonic()
        if kept.token is not None and kept.token != stale and begun < kept.good_until:
            return kept.token
        with kept.lock:
            if kept.token is not None and kept.token != stale and time.monotonic() < kept.good_until:
                return kept.token
            if kept.failure is not None and kept.failed_at >= begun:  # who has waited with us has asked already
                raise kept.failure
            try:
                self._fetch(name, kept)
            except LaunchError as error:
                kept.token, kept.failure, kept.failed_at = None, error, time.monotonic()
                self._discovery.forget(self._clients[name])
                raise
            return str(kept.token)

    def _fetch(self, name: str, kept: _Kept) -> None:
        configuration, http = self._endpoints(name)
        client = self._clients[name]
        scope = to_v1(client.system_scopes) if configuration.scopes_v1 else client.system_scopes
        asked_at = time.monotonic()
        answer = client_credentials(client, configuration, http, scope=scope)
        kept.token, kept.scopes, kept.failure = answer.access_token, answer.scopes, None
        kept.good_until = asked_at + answer.expires_in - min(self._margin, answer.expires_in / 4)


def _shown(token: str) -> ClientAuth:
    return ClientAuth(headers={"Authorization": f"Bearer {token}"})


def _as_system_client(registration: Registration) -> Registration:
    """Return the registration of the app's own client: confidential and asymmetric, as the standard asks."""
    return replace(
        registration,
        client_id=registration.system_client_id,
        client_auth="private_key_jwt",
        client_secret="",
        signing_keys=registration.system_keys,
    )

"""The SMART client as an extension of a Flask application."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlencode

from flask import Flask, Response, current_app, g, request

from smart_launch import access_log, cookies, csrf, security_headers
from smart_launch.discovery import Discovery, SmartConfiguration
from smart_launch.errors import LaunchError, SmartConfigurationError
from smart_launch.fhir_session import FhirSession
from smart_launch.guarded_http import GuardedSession, is_loopback_name, origin_of
from smart_launch.issuer_keys import IssuerKeys
from smart_launch.launch_context import LaunchContext
from smart_launch.launch_session import LaunchSession
from smart_launch.pages import fault_page
from smart_launch.registration import Registration
from smart_launch.scopes import ScopeSet
from smart_launch.session_store import SessionStore, StoredLaunch
from smart_launch.token_keeper import TokenKeeper

__all__ = ["SmartLaunch"]

View = TypeVar("View", bound=Callable[..., Any])
_MIB = 1024 * 1024


class SmartLaunch:
    """Launches from EHRs, and the sessions that they open.

    Parameters
    ----------
    registrations : sequence of Registration
        The EHRs; no other is ever contacted.
    sessions : SessionStore
        Where launches are kept.
    app_base_url : str
        Public address of the application, without a path. Redirect URIs are made of it, never of a request's `Host`.
    rate_limit_per_address : int
        Launches a minute from one address; 0: no limit.
    accepted_users : tuple of str
        FHIR types of users that are let in.
    max_fhir_bytes : int
        Longest answer of a FHIR service that is read.
    """

    def __init__(
        self,
        registrations: Sequence[Registration],
        sessions: SessionStore,
        app_base_url: str,
        *,
        rate_limit_per_address: int = 120,
        accepted_users: tuple[str, ...] = ("Practitioner", "PractitionerRole"),
        max_fhir_bytes: int = 32 * _MIB,
    ) -> None:
        self.registrations = tuple(registrations)
        self.sessions = sessions
        self.app_base_url = app_base_url.rstrip("/")
        self.rate_limit_per_address = rate_limit_per_address
        self.accepted_users = accepted_users
        self._by_name = {item.name: item for item in self.registrations}
        if len(self._by_name) != len(self.registrations):
            raise SmartConfigurationError("two EHRs have the same name")
        self._origin = self.app_base_url
        self._secure_transport = self._check_base_url()
        self.discovery = Discovery()
        self.issuer_keys = IssuerKeys()
        self.tokens = TokenKeeper(sessions, self.endpoints)
        self._auth_http = {
            item.name: GuardedSession(item.origins, item.ca_file, max_bytes=_MIB // 2) for item in self.registrations
        }
        self._fhir_http = {
            item.name: GuardedSession({origin_of(item.fhir_url)}, item.ca_file, max_bytes=max_fhir_bytes)
            for item in self.registrations
        }
        self._max_fhir_bytes = max_fhir_bytes
        self._exempt: set[str] = set()

    def _check_base_url(self) -> bool:
        origin = origin_of(self.app_base_url)
        host = origin.split("://")[1].rsplit(":", 1)[0]
        return origin.startswith("https://") and not is_loopback_name(host)

    def init_app(self, app: Flask) -> None:
        """Register routes, header fields, error pages and the defence against forged requests.

        Raises
        ------
        SmartConfigurationError
            The application is in debug mode at a public address.
        """
        from smart_launch.views import blueprint

        if app.debug and self._secure_transport:
            raise SmartConfigurationError("debug mode shows secrets to whoever meets an error: switch FLASK_DEBUG off")
        app.extensions["smart_launch"] = self
        app.register_blueprint(blueprint)
        app.before_request(self._check_forgery)
        app.after_request(self._harden)
        app.register_error_handler(LaunchError, fault_page)
        app.jinja_env.globals.setdefault("smart_csp_nonce", security_headers.csp_nonce)
        access_log.keep_queries_out()

    # what views use

    def require(self, launch_id: str) -> LaunchSession:
        """Return the launch of a request below `/l/<launch_id>/`.

        Raises
        ------
        LaunchError
            `launch-ended`: it has ended, never was, or is another browser's. The error handler makes a page of it.
        """
        shown = cookies.session_ids(request)
        wanted = {launch_id: shown[launch_id]} if launch_id in shown else {}
        kept: dict[str, LaunchSession] = g.setdefault("smart_launches", {})
        if launch_id not in kept:
            kept |= self._load(wanted, use=True)
        launch = kept.get(launch_id)
        if launch is None:
            known = self.sessions.ehr_of(launch_id) if cookies.is_launch_id(launch_id) else None
            registration = self._by_name.get(known or "")
            if registration is not None:
                security_headers.allow_frames_of(registration)
            raise LaunchError("launch-ended", "no running launch of this browser")
        security_headers.allow_frames_of(launch.ehr)
        return launch

    def current_launches(self) -> list[LaunchSession]:
        """Return the running launches of the request's browser, the latest first: for pages outside of one launch."""
        found = self._load(cookies.session_ids(request), use=False)
        return sorted(found.values(), key=lambda item: item.created_at, reverse=True)

    def fhir(self, launch: LaunchSession) -> FhirSession:
        """Return a session to the FHIR service of the launching EHR, with the launch's token."""
        return self._session_to(launch, self._fhir_http[launch.ehr.name])

    def associated(self, launch: LaunchSession, capability: str, address: str = "") -> FhirSession | None:
        """Return a session to a service beside the FHIR service that takes the launch's token, such as DICOMweb.

        Parameters
        ----------
        launch : LaunchSession
            The launch.
        capability : str
            What the service is wanted for, such as `smart-imaging-access`.
        address : str
            Address that is to be read, such as an Endpoint's: only a service that it is below is returned.

        Returns
        -------
        FhirSession or None
            None where the EHR lists no such service (SMART 2.2 `associated_endpoints`): then no token may be sent.
        """
        configuration, _ = self.endpoints(launch.ehr)
        for endpoint in configuration.associated_endpoints:
            if capability in endpoint.capabilities and (
                not address or address == endpoint.url or address.startswith(f"{endpoint.url}/")
            ):
                http = GuardedSession({origin_of(endpoint.url)}, launch.ehr.ca_file, max_bytes=self._max_fhir_bytes)
                return self._session_to(launch, http, endpoint.url)
        return None

    def _session_to(self, launch: LaunchSession, http: GuardedSession, base: str = "") -> FhirSession:
        return FhirSession(launch, http, partial(self.tokens.current, launch), partial(self.tokens.renew, launch), base)

    def revoke(self, launch_ids: Sequence[str], reason: str = "revoked") -> int:
        """End launches, their tokens at the EHRs first, as far as those let us; return how many were running."""
        for launch_id, ehr in self.sessions.running(launch_ids).items():
            registration = self._by_name.get(ehr)
            if registration is not None:
                self.tokens.revoke(registration, launch_id)
        return self.sessions.end(launch_ids, reason)

    def csp_nonce(self) -> str:
        """Return the nonce for `<script nonce>` and `<style nonce>` of this response."""
        return security_headers.csp_nonce()

    @property
    def frame_ancestors(self) -> str:
        """Sources of `frame-ancestors` of this response."""
        return security_headers.frame_ancestors()

    def allow_cache(self) -> None:
        """Let this response's own `Cache-Control` stand; for what is the same for everybody, never for a patient's."""
        g.smart_cacheable = True

    def csrf_exempt(self, view: View) -> View:
        """Mark a view that authenticates its callers by something else than cookies."""
        self._exempt.add(f"{view.__module__}.{view.__qualname__}")
        return view

    # what the library's own views use

    def registration(self, name: str) -> Registration | None:
        """Return the EHR of a name."""
        return self._by_name.get(name)

    def endpoints(self, registration: Registration) -> tuple[SmartConfiguration, GuardedSession]:
        """Return an EHR's configuration, and the session to its authorization service."""
        http = self._auth_http[registration.name]
        return self.discovery.of(registration, http), http

    def redirect_uri(self, registration: Registration) -> str:
        """Return the redirect URI of an EHR: one each, so that answers of two EHRs can't be mixed up."""
        return f"{self.app_base_url}/callback/{registration.name}"

    def end_session_url(self, registration: Registration) -> str | None:
        """Return where the user may end the session in the EHR itself, if the registration wants that to be offered.

        OpenID Connect RP-Initiated Logout 1.0. It is never done unasked: it would sign the user out of the EHR.
        """
        if not registration.end_session:
            return None
        try:
            configuration, _ = self.endpoints(registration)
        except LaunchError:
            return None
        endpoint = configuration.end_session_endpoint
        joint = "&" if "?" in endpoint else "?"
        return f"{endpoint}{joint}{urlencode({'client_id': registration.client_id})}" if endpoint else None

    def _load(self, session_ids: dict[str, str], *, use: bool) -> dict[str, LaunchSession]:
        found = (
            self._session(stored, session_ids[stored.launch_id]) for stored in self.sessions.load(session_ids, use=use)
        )
        return {launch.launch_id: launch for launch in found if launch is not None}

    def _session(self, stored: StoredLaunch, session_id: str) -> LaunchSession | None:
        registration = self._by_name.get(stored.ehr)
        if registration is None:  # taken out of the registrations while the launch was running
            return None
        return LaunchSession(
            launch_id=stored.launch_id,
            ehr=registration,
            issuer=stored.issuer,
            subject=stored.subject,
            fhir_user=stored.fhir_user,
            scopes=ScopeSet.parse(stored.scopes),
            context=LaunchContext.from_json(stored.context),
            created_at=stored.created_at,
            ends_at=stored.ends_at,
            csrf_token=csrf.csrf_token(session_id),
        )

    # around every request

    def _check_forgery(self) -> None:
        if request.method in csrf.SAFE_METHODS or request.endpoint is None:
            return
        view = self._view_name()
        # A browser does not add an Authorization header by itself: who sends one can't have been tricked into it.
        if view in self._exempt or "Authorization" in request.headers:
            return
        csrf.check_origin(request, self._origin)
        if request.endpoint == "smart_launch.restart":  # carries a ticket of its own
            return
        shown = cookies.session_ids(request)
        launch_id = (request.view_args or {}).get("launch_id")
        if launch_id is not None:
            self.require(launch_id)
            shown = {launch_id: shown[launch_id]}
        csrf.check_token(request, shown.values())

    def _view_name(self) -> str:
        view = current_app.view_functions.get(request.endpoint or "")
        return f"{view.__module__}.{view.__qualname__}" if view is not None else ""

    def _harden(self, response: Response) -> Response:
        cacheable = bool(g.get("smart_cacheable")) or (request.endpoint or "").rpartition(".")[2] == "static"
        return security_headers.harden(response, cacheable=cacheable, secure_transport=self._secure_transport)

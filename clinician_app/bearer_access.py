"""Who calls without a page: the bearer token of a registered EHR, and the one patient that it is for or that it names.

A signed JWT is verified by the issuer's published keys; any other token is asked about at the EHRs where the app has a
right of its own (RFC 7662). Only EHRs whose FHIR service is this installation's imaging FHIR service count: elsewhere
the same id means another patient.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, replace

from clinician_app.own_studies import is_own_service
from imaging_core.bearer import token_of
from imaging_core.errors import Permanent, Rejected, Retryable
from imaging_core.settings import Settings
from imaging_core.telemetry import get_logger
from smart_launch import BackendServices, Introspection, LaunchError, Registration, ScopeSet, SmartLaunch
from smart_launch.access_token import AccessClaims, claimed_issuer, validate

__all__ = ["BearerAccess", "BearerCaller"]

_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_KEEP_S = 60.0
_MOST_KEPT = 2_000
# the EHR can't say now; whoever calls can't help it, and the token may be good
_AWAY = ("ehr-unreachable", "ehr-busy", "ehr-error", "ehr-misconfigured", "client-refused", "ehr-unsupported")


@dataclass(frozen=True)
class BearerCaller:
    """A program with a token, or the user behind it.

    Parameters
    ----------
    ehr : Registration
        Whose token it is.
    patient : str
        Id of the Patient at the imaging FHIR service; '' where the token is a system's, until `about` names one.
    scopes : ScopeSet
        What the token allows.
    client_id, issuer, subject, fhir_user : str
        For the audit trail; '' where the token does not say.
    system : bool
        The token is for no patient: its rights are those of level system.
    """

    ehr: Registration
    patient: str
    scopes: ScopeSet
    client_id: str
    issuer: str
    subject: str
    fhir_user: str
    system: bool = False

    @property
    def iss(self) -> str:
        """The EHR's FHIR base."""
        return self.ehr.iss

    def allows(self, resource_type: str, interaction: str) -> bool:
        """Whether the token's scopes cover it, at patient or user level; a system's at its own.

        A scope that is limited by a query (``patient/Observation.rs?category=laboratory``) does not count: it allows
        some of the resources, and here all or none are shown.
        """
        levels = ("system",) if self.system else ("patient", "user")
        return any(
            not right.query and any(right.covers(level, resource_type, interaction) for level in levels)
            for right in self.scopes.rights
        )

    def about(self, patient: str) -> BearerCaller:
        """Return this caller with the one patient that its request is about: the token's, else the one that is named.

        Raises
        ------
        Rejected
            ``bad-field``: a system's token, and the request names no patient.
        """
        if not self.system:
            return self
        if not _ID.fullmatch(patient):
            raise Rejected("bad-field", "patient: the token is for many; name the one that this is about")
        return replace(self, patient=patient)

    def require(self, resource_type: str, interactions: str) -> BearerCaller:
        """Return this caller.

        Raises
        ------
        Permanent
            ``forbidden`` where a scope is missing, at the token's level.
        """
        for letter in interactions:
            if not self.allows(resource_type, letter):
                raise Permanent("forbidden", f"the token lacks {resource_type}.{letter}")
        return self


class BearerAccess:
    """Checks tokens; remembers for a minute what one was found to be, good or not.

    Parameters
    ----------
    smart : SmartLaunch
        The registered EHRs, with their keys.
    settings : Settings
        Which FHIR service is this installation's, and the app's own address.
    backend : BackendServices, optional
        The app's own right at EHRs whose tokens can't be verified by keys.
    """

    def __init__(self, smart: SmartLaunch, settings: Settings, backend: BackendServices | None = None) -> None:
        self._smart = smart
        self._settings = settings
        self._backend = backend
        self._kept: OrderedDict[bytes, tuple[float, BearerCaller | None]] = OrderedDict()
        self._lock = threading.Lock()

    def caller(self, authorization: str) -> BearerCaller:
        """Return whose token an ``Authorization`` header holds.

        Raises
        ------
        Permanent
            ``unauthenticated``: it is no token of a registered EHR, or not for this service; ``forbidden``: it is for
            no single patient, and it is no system's.
        Retryable
            ``service-unavailable``: the EHR can't be asked now.
        """
        token = token_of(authorization)
        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        with self._lock:
            kept = self._kept.get(digest)
        if kept and kept[0] > time.time():
            found = kept[1]
        else:
            found, until = self._checked(token)
            with self._lock:
                self._kept[digest] = (min(until, time.time() + _KEEP_S), found)
                while len(self._kept) > _MOST_KEPT:
                    self._kept.popitem(last=False)
        if found is None:
            raise Permanent("unauthenticated", "the access token is not valid here")
        if not found.system and not _ID.fullmatch(found.patient):
            raise Permanent("forbidden", "the token is not for one patient")
        return found

    def _checked(self, token: str) -> tuple[BearerCaller | None, float]:
        issuer = claimed_issuer(token)
        own = [item for item in self._smart.registrations if self._is_own(item)]
        away: LaunchError | None = None
        for check in (self._by_keys, self._introspected):
            for registration in own:
                try:
                    found = check(token, issuer, registration)
                except LaunchError as error:
                    log = get_logger(__name__)
                    if error.code not in _AWAY:
                        log.warning("bearer-refused", ehr=registration.name, fault=error.code, detail=error.detail)
                        return None, time.time() + _KEEP_S
                    # another EHR may know the token; only where none does, this one's word is missing
                    log.warning("bearer-unanswered", ehr=registration.name, fault=error.code, detail=error.detail)
                    away = error
                    continue
                if found is not None:
                    return found
        if away is not None:
            raise Retryable("service-unavailable", "the token's issuer can't be asked", 10) from away
        return None, time.time() + _KEEP_S

    def _is_own(self, registration: Registration) -> bool:
        return registration.imaging_fhir == "same" and is_own_service(registration.fhir_url, self._settings)

    def _by_keys(self, token: str, issuer: str | None, registration: Registration) -> tuple[BearerCaller, float] | None:
        claims = self._verified(token, issuer, registration) if issuer is not None else None
        return None if claims is None else (_caller(registration, claims), claims.expires_at)

    def _verified(self, token: str, issuer: str, registration: Registration) -> AccessClaims | None:
        """Return the claims of a token of this EHR; None where it names another issuer."""
        if registration.issuer and registration.issuer != issuer:
            return None
        configuration, http = self._smart.endpoints(registration)
        if configuration.issuer != issuer or not configuration.jwks_uri:
            return None
        return validate(
            token,
            issuer=issuer,
            audiences=self._audiences(registration),
            keys_for=lambda kid, algorithm: self._smart.issuer_keys.candidates(
                registration, configuration.jwks_uri, http, kid, algorithm
            ),
        )

    def _audiences(self, registration: Registration) -> set[str]:
        # SMART: a token is for the FHIR service; an imaging endpoint beside it takes the same one
        base = self._settings.app_base_url
        return {registration.audience, registration.fhir_url, base, f"{base}/dicomweb", f"{base}/api"}

    def _introspected(
        self, token: str, issuer: str | None, registration: Registration
    ) -> tuple[BearerCaller, float] | None:
        if self._backend is None or registration.name not in self._backend.names:
            return None
        configuration, _http = self._smart.endpoints(registration)
        expected = registration.issuer or configuration.issuer
        if not configuration.introspection_endpoint or (issuer and expected and issuer != expected):
            return None  # a token that names somebody else as its issuer is nobody else's business
        told = self._backend.introspect(registration.name, token)
        until = time.time() + _KEEP_S if told.expires_at is None else told.expires_at
        if not told.active or until <= time.time():
            return None
        if told.audiences and not self._audiences(registration) & set(told.audiences):
            raise LaunchError("identity-unproven", "introspection: aud")
        if told.issuer and expected and told.issuer != expected:
            raise LaunchError("identity-unproven", "introspection: iss")
        return _caller(registration, told), until


def _caller(registration: Registration, said: AccessClaims | Introspection) -> BearerCaller:
    patient = said.patient.removeprefix("Patient/")
    return BearerCaller(
        registration,
        patient,
        said.scopes,
        said.client_id,
        said.issuer,
        said.subject,
        said.fhir_user,
        system=not patient and said.scopes.has_level("system"),
    )

"""Who calls without a page: the bearer token of a registered EHR, and the one patient that it is for.

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
from collections.abc import Sequence
from dataclasses import dataclass

from clinician_app.own_studies import is_own_service
from imaging_core.bearer import token_of
from imaging_core.errors import Permanent, Retryable
from imaging_core.settings import Settings
from imaging_core.telemetry import get_logger
from smart_launch import BackendServices, LaunchError, Registration, ScopeSet, SmartLaunch
from smart_launch.access_token import AccessClaims, claimed_issuer, validate

__all__ = ["BearerAccess", "BearerCaller"]

_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_KEEP_S = 60.0
_MOST_KEPT = 2_000
_AWAY = ("ehr-unreachable", "ehr-busy", "ehr-error", "ehr-misconfigured", "client-refused", "ehr-unsupported")


@dataclass(frozen=True)
class BearerCaller:
    """A program with a token, or the user behind it.

    Parameters
    ----------
    ehr : Registration
        Whose token it is.
    patient : str
        Id of the Patient at the imaging FHIR service.
    scopes : ScopeSet
        What the token allows.
    client_id, issuer, subject, fhir_user : str
        For the audit trail; '' where the token does not say.
    """

    ehr: Registration
    patient: str
    scopes: ScopeSet
    client_id: str
    issuer: str
    subject: str
    fhir_user: str

    @property
    def iss(self) -> str:
        """The EHR's FHIR base."""
        return self.ehr.iss

    def allows(self, resource_type: str, interaction: str) -> bool:
        """Whether the token's scopes cover it, at patient or user level."""
        return any(self.scopes.allows(level, resource_type, interaction) for level in ("patient", "user"))

    def require(self, resource_type: str, interactions: str) -> BearerCaller:
        """Return this caller.

        Raises
        ------
        Permanent
            ``forbidden`` where a scope is missing, at patient or user level.
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
            no single patient.
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
        if not _ID.fullmatch(found.patient):
            raise Permanent("forbidden", "the token is not for one patient")
        return found

    def _checked(self, token: str) -> tuple[BearerCaller | None, float]:
        issuer = claimed_issuer(token)
        own = [item for item in self._smart.registrations if self._is_own(item)]
        try:
            if issuer is not None:
                for registration in own:
                    claims = self._verified(token, issuer, registration)
                    if claims is not None:
                        return _of_claims(registration, claims), claims.expires_at
            return self._introspected(token, own)
        except LaunchError as error:
            if error.code in _AWAY:
                raise Retryable("service-unavailable", "the token's issuer can't be asked", 10) from error
            get_logger(__name__).warning("bearer-refused", fault=error.code, detail=error.detail)
            return None, time.time() + _KEEP_S

    def _is_own(self, registration: Registration) -> bool:
        return registration.imaging_fhir == "same" and is_own_service(registration.fhir_url, self._settings)

    def _verified(self, token: str, issuer: str, registration: Registration) -> AccessClaims | None:
        """Return the claims of a token of this EHR; None where it names another issuer."""
        if registration.issuer and registration.issuer != issuer:
            return None
        configuration, http = self._smart.endpoints(registration)
        if configuration.issuer != issuer or not configuration.jwks_uri:
            return None
        base = self._settings.app_base_url
        return validate(
            token,
            issuer=issuer,
            # SMART: a token is for the FHIR service; an imaging endpoint beside it takes the same one
            audiences={registration.audience, registration.fhir_url, base, f"{base}/dicomweb", f"{base}/api"},
            keys_for=lambda kid, algorithm: self._smart.issuer_keys.candidates(
                registration, configuration.jwks_uri, http, kid, algorithm
            ),
        )

    def _introspected(self, token: str, own: Sequence[Registration]) -> tuple[BearerCaller | None, float]:
        names = self._backend.names if self._backend else ()
        for registration in own:
            if self._backend is None or registration.name not in names:
                continue
            told = self._backend.introspect(registration.name, token)
            if told.active and (told.expires_at is None or told.expires_at > time.time()):
                caller = BearerCaller(
                    registration,
                    told.patient.removeprefix("Patient/"),
                    told.scopes,
                    told.client_id,
                    told.issuer,
                    told.subject,
                    told.fhir_user,
                )
                return caller, told.expires_at or time.time() + _KEEP_S
        return None, time.time() + _KEEP_S


def _of_claims(registration: Registration, claims: AccessClaims) -> BearerCaller:
    return BearerCaller(
        registration,
        claims.patient.removeprefix("Patient/"),
        claims.scopes,
        claims.client_id,
        claims.issuer,
        claims.subject,
        claims.fhir_user,
    )

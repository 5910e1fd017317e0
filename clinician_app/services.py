"""What the app works with, made once at start and passed down."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from flask import Flask, current_app

from clinician_app.audit import AuditTrail
from clinician_app.bearer_access import BearerAccess
from clinician_app.cache import ChartCache
from clinician_app.images import ImageSource
from clinician_app.outages import Outages
from clinician_app.signing import SigningDesk
from clinician_app.signing_right import SignersRule, SigningRights
from clinician_app.signoff_journal import SignoffJournal
from fhir_adapter.client import FhirClient, client_from_settings
from imaging_core.blobs import BlobStore
from imaging_core.database import Pool, open_pool
from imaging_core.dicom.child import DecodePool
from imaging_core.errors import Permanent
from imaging_core.settings import Settings
from smart_launch import (
    BackendServices,
    Keyring,
    Registration,
    SessionStore,
    SmartConfigurationError,
    SmartLaunch,
    load_registrations,
)

__all__ = ["Services", "current_services"]

_EXTENSION = "clinician_app"


@dataclass(frozen=True)
class Services:
    """The parts of the app.

    Parameters
    ----------
    imaging : FhirClient or None
        The imaging FHIR service with the app's own identity; None where the app has none there.
    rights : SigningRights
        Who may sign.
    desk : SigningDesk or None
        Where reports are signed; None where the app has no identity at the imaging FHIR service.
    bearer : BearerAccess or None
        Who may call without a page; None: nobody.
    """

    settings: Settings
    pool: Pool
    smart: SmartLaunch
    cache: ChartCache
    blobs: BlobStore
    images: ImageSource
    audit: AuditTrail
    imaging: FhirClient | None
    outages: Outages = field(default_factory=Outages)
    rights: SigningRights = field(default_factory=lambda: SigningRights({}))
    desk: SigningDesk | None = None
    bearer: BearerAccess | None = None

    def imaging_client(self) -> FhirClient:
        """Return the client of the imaging service.

        Raises
        ------
        Permanent
            ``bad-setting``; can't happen after `from_settings` has checked the registrations.
        """
        if self.imaging is None:
            raise Permanent("bad-setting", "FHIR_BASE_URL is needed where imaging_fhir is a URL")
        return self.imaging

    @classmethod
    def from_settings(cls, settings: Settings) -> Services:
        """Open everything.

        Raises
        ------
        Permanent
            ``bad-setting``, naming the setting.
        """
        settings.require("database_url", "smart_registrations", "app_base_url", "app_keys")
        try:
            registrations = load_registrations(settings.smart_registrations, key_vault_url=settings.key_vault_url)
            keys = Keyring.parse(settings.app_keys.get_secret_value())
        except SmartConfigurationError as error:
            raise Permanent("bad-setting", str(error)) from error
        rules = _signers_rules(registrations)
        imaging = _imaging_client(settings, registrations)
        pool = open_pool(settings)
        blobs = BlobStore.from_settings(settings)
        smart = SmartLaunch(
            registrations,
            SessionStore(pool, keys),
            settings.app_base_url,
            rate_limit_per_address=settings.rate_limit_per_address,
        )
        return cls(
            settings=settings,
            pool=pool,
            smart=smart,
            cache=ChartCache(pool),
            blobs=blobs,
            images=ImageSource(blobs, _decoder(settings)),
            audit=AuditTrail(pool, settings.site_name or "imaging"),
            imaging=imaging,
            rights=SigningRights(rules),
            desk=SigningDesk(imaging, blobs, SignoffJournal(pool)) if imaging else None,
            bearer=BearerAccess(smart, settings, BackendServices(registrations)),
        )

    def attach(self, app: Flask) -> None:
        """Make these the services of a Flask app."""
        app.extensions[_EXTENSION] = self


def current_services() -> Services:
    """Return the services of the app that handles the request."""
    found: Services = current_app.extensions[_EXTENSION]
    return found


def _decoder(settings: Settings) -> DecodePool:
    """Open the decode children and start them in the background, so that the first doctor does not wait for them."""
    decoder = DecodePool.from_settings(settings)
    threading.Thread(target=decoder.warm_up, name="decode-warm-up", daemon=True).start()
    return decoder


def _signers_rules(registrations: list[Registration]) -> dict[str, SignersRule]:
    rules = {}
    for item in registrations:
        try:
            rules[item.name] = SignersRule.parse(item.signers)
        except Permanent as error:
            raise Permanent("bad-setting", f"EHR {item.name}: {error.detail}") from error
    return rules


def _imaging_client(settings: Settings, registrations: list[Registration]) -> FhirClient | None:
    for item in registrations:
        elsewhere = item.imaging_fhir != "same"
        if elsewhere and item.imaging_fhir.rstrip("/") != settings.fhir_base_url:
            raise Permanent(
                "bad-setting",
                f"EHR {item.name}: imaging_fhir is 'same' or FHIR_BASE_URL; the app has an identity nowhere else",
            )
        if elsewhere and not item.patient_identifier_systems:
            raise Permanent("bad-setting", f"EHR {item.name}: imaging_fhir needs patient_identifier_systems")
        if item.signers and not settings.fhir_base_url:
            raise Permanent("bad-setting", f"EHR {item.name}: signers needs FHIR_BASE_URL, where reports are signed")
    return client_from_settings(settings) if settings.fhir_base_url else None

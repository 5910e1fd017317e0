"""What the app works with, made once at start and passed down."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from flask import Flask, current_app

from clinician_app.audit import AuditTrail
from clinician_app.cache import ChartCache
from clinician_app.images import ImageSource
from clinician_app.outages import Outages
from fhir_adapter.client import FhirClient, client_from_settings
from imaging_core.blobs import BlobStore
from imaging_core.database import Pool, open_pool
from imaging_core.dicom.child import DecodePool
from imaging_core.errors import Permanent
from imaging_core.settings import Settings
from smart_launch import (
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
        The imaging FHIR service read with the app's own identity; None where every EHR holds its own results.
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


def _imaging_client(settings: Settings, registrations: list[Registration]) -> FhirClient | None:
    elsewhere = [item for item in registrations if item.imaging_fhir != "same"]
    for item in elsewhere:
        if item.imaging_fhir.rstrip("/") != settings.fhir_base_url:
            raise Permanent(
                "bad-setting",
                f"EHR {item.name}: imaging_fhir is 'same' or FHIR_BASE_URL; the app has an identity nowhere else",
            )
        if not item.patient_identifier_systems:
            raise Permanent("bad-setting", f"EHR {item.name}: imaging_fhir needs patient_identifier_systems")
    return client_from_settings(settings) if elsewhere else None

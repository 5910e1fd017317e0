"""The connections of one process, opened at first use and kept: settings, stores, ledger, decode children, clients."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import httpx

from fhir_adapter.client import FhirClient, client_from_settings
from imaging_core import telemetry
from imaging_core.azure_login import azure_credential
from imaging_core.blobs import BlobStore
from imaging_core.database import Pool, open_pool
from imaging_core.dicom.child import DecodePool
from imaging_core.queues import Queues
from imaging_core.settings import Settings, load_settings
from imaging_core.sites import Sites

__all__ = ["IntakeServices", "Services", "ai_headers", "intake_services", "services"]


@dataclass(frozen=True)
class IntakeServices:
    """What intake works with, whichever door a file came through."""

    settings: Settings
    sites: Sites
    blobs: BlobStore
    queues: Queues
    pool: Pool
    decoder: DecodePool


@dataclass(frozen=True)
class Services(IntakeServices):
    """What the functions of this app work with."""

    fhir: FhirClient
    ai: httpx.Client


@functools.cache
def services() -> Services:
    """Return this process's connections.

    Raises
    ------
    Permanent
        With code ``bad-setting``, naming what is missing.
    """
    settings = load_settings()
    settings.require("fhir_base_url", "database_url", "ai_url")
    if settings.ingest_auth == "developer":
        settings.require("ingest_token")
    else:
        settings.require("entra_tenant_id", "ingest_audience")
    telemetry.configure("ingestion", settings)
    return Services(
        settings=settings,
        sites=Sites.from_settings(settings),
        blobs=BlobStore.from_settings(settings),
        queues=Queues.from_settings(settings),
        pool=open_pool(settings, bound_s=settings.database_timeout_s),
        decoder=DecodePool.from_settings(settings),
        fhir=client_from_settings(settings),
        ai=httpx.Client(
            base_url=settings.ai_url,
            timeout=httpx.Timeout(settings.ai_timeout_s, connect=5.0),
            follow_redirects=False,
        ),
    )


def intake_services(settings: Settings) -> IntakeServices:
    """Open what a process needs that only takes in: stores, ledger, decode children; neither FHIR nor AI."""
    settings.require("database_url")
    return IntakeServices(
        settings=settings,
        sites=Sites.from_settings(settings),
        blobs=BlobStore.from_settings(settings),
        queues=Queues.from_settings(settings),
        pool=open_pool(settings, bound_s=settings.database_timeout_s),
        decoder=DecodePool.from_settings(settings),
    )


def ai_headers(settings: Settings) -> dict[str, str]:
    """Return the authorization and trace headers of a call to the AI container."""
    if settings.ai_auth == "entra":
        token = azure_credential().get_token(f"{settings.ai_audience}/.default").token
    else:
        token = settings.ai_token.get_secret_value()
    return {"Authorization": f"Bearer {token}", "traceparent": telemetry.traceparent()}

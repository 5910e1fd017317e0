"""Stores of a test's own, for what empties a ledger or counts everything: PostgreSQL, Azurite, FHIR on free ports."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from fhir_adapter.client import client_from_settings
from imaging_core.blobs import BlobStore
from imaging_core.database import open_pool
from imaging_core.dicom.child import DecodePool
from imaging_core.queues import Queues
from imaging_core.settings import Settings, load_settings
from imaging_core.sites import Sites
from infra.local.azurite import connection_string
from infra.local.commands import stop_stack
from infra.local.configuration import Layout, Ports, load_stack_settings
from infra.local.credentials import load_credentials
from infra.local.fhir import fhir_base_url
from infra.local.postgres import database_url
from infra.local.stack_state import read_state
from infra.local.status import ports_of
from ingestion_functions.services import Services
from tests.conftest import free_ports


@dataclass(frozen=True)
class OwnStores:
    """What runs, and the settings of a worker and of the owner."""

    folder: Path
    settings: Settings
    owner_url: str

    @contextmanager
    def services(self, ai_url: str) -> Iterator[Services]:
        """Open a worker's connections."""
        with ExitStack() as opened:
            yield Services(
                settings=self.settings,
                sites=Sites.from_settings(self.settings),
                blobs=BlobStore.from_settings(self.settings),
                queues=Queues.from_settings(self.settings),
                pool=opened.enter_context(open_pool(self.settings)),
                decoder=opened.enter_context(DecodePool()),
                fhir=opened.enter_context(client_from_settings(self.settings)),
                ai=opened.enter_context(httpx.Client(base_url=ai_url, timeout=10)),
            )


@contextmanager
def own_stores(folder: Path) -> Iterator[OwnStores]:
    """Start the three stores in `folder`, migrated and empty; stop them at the end."""
    command = [sys.executable, "-P", "-m", "imaging_core.cli", "up", "--data-dir", str(folder)]
    command += ["--only", "postgres,blob,fhir"]
    subprocess.run(command, check=True, env={**os.environ, **free_ports()}, stdout=subprocess.DEVNULL)
    layout = Layout.at(folder)
    try:
        state = read_state(layout.state)
        assert state is not None
        ports = ports_of(state, Ports.from_settings(load_stack_settings(folder)))
        credentials = load_credentials(layout)
        settings = load_settings(
            database_url=database_url(credentials, ports.postgres, "imaging_worker"),
            database_owner_url=database_url(credentials, ports.postgres, "imaging_owner"),
            storage_connection_string=connection_string(credentials, ports.blob, ports.queue),
            fhir_base_url=fhir_base_url(ports.fhir),
            fhir_auth="bearer",
            fhir_token=credentials.fhir_token,
            ai_url="http://127.0.0.1:1",
            ai_token=credentials.ai_token,
            ingest_auth="developer",
            ingest_token=credentials.ingest_token,
            ingest_admin_token=credentials.ingest_admin_token,
            patient_match="create",
            site_name="Test hospital",
            site_assigner_system="https://hospital.example/patient-numbers",
            site_time_zone="Europe/Paris",
        )
        yield OwnStores(folder, settings, database_url(credentials, ports.postgres, "imaging_owner"))
    finally:
        stop_stack(layout)

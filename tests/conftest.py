"""Real parts for the tests: PostgreSQL, Azurite and a FHIR server, started once on free ports, stopped at the end."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from fhir_adapter.client import FhirClient, client_from_settings
from imaging_core.blobs import BlobStore
from imaging_core.database import Pool, open_pool
from imaging_core.dicom.child import DecodePool
from imaging_core.queues import Queues
from imaging_core.settings import Settings, load_settings
from infra.local.commands import stop_stack
from infra.local.configuration import Layout, Ports, load_stack_settings
from infra.local.credentials import Credentials, load_credentials
from infra.local.postgres import database_url
from infra.local.stack_state import read_state
from infra.local.status import ports_of

SHARED = Path(__file__).resolve().parents[2] / "shared"
_PORTS = ("POSTGRES", "BLOB", "QUEUE", "FHIR", "INGESTION", "AI", "APP", "EHR")


def free_ports() -> dict[str, str]:
    """Return the environment that lets every part take any free port."""
    return {f"{name}_PORT": "0" for name in _PORTS}


def open_folder() -> Path:
    """Return a folder that PostgreSQL's own user may pass through to reach its data (it does not run as root).

    Not one of pytest's: it closes the folder above them to other users whenever another run of it begins.
    """
    folder = Path(tempfile.mkdtemp(prefix="imaging-test-"))
    folder.chmod(0o711)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@dataclass(frozen=True)
class Stores:
    """The three stores of a test run."""

    layout: Layout
    ports: Ports
    credentials: Credentials

    def url(self, role: str) -> str:
        """Return the database URL of a role."""
        return database_url(self.credentials, self.ports.postgres, role)


@pytest.fixture(scope="session")
def stores() -> Iterator[Stores]:
    """Start PostgreSQL, Azurite and the FHIR service, migrated and empty."""
    folder = open_folder()
    command = [
        sys.executable,
        "-P",
        "-m",
        "imaging_core.cli",
        "up",
        "--data-dir",
        str(folder),
        "--only",
        "postgres,blob,fhir",
    ]
    subprocess.run(command, check=True, env={**os.environ, **free_ports()}, stdout=subprocess.DEVNULL)
    layout = Layout.at(folder)
    state = read_state(layout.state)
    assert state is not None
    ports = ports_of(state, Ports.from_settings(load_stack_settings(folder)))
    yield Stores(layout, ports, load_credentials(layout))
    stop_stack(layout)


@pytest.fixture(scope="session")
def settings(stores: Stores) -> Settings:
    """The settings of a worker against the test's own stores."""
    from infra.local.azurite import connection_string
    from infra.local.fhir import fhir_base_url

    credentials, ports = stores.credentials, stores.ports
    trace.set_tracer_provider(TracerProvider())  # so that answers carry a trace id, as in a configured process
    return load_settings(
        database_url=stores.url("imaging_worker"),
        storage_connection_string=connection_string(credentials, ports.blob, ports.queue),
        fhir_base_url=fhir_base_url(ports.fhir),
        fhir_auth="bearer",
        fhir_token=credentials.fhir_token,
        ai_url="http://127.0.0.1:1",
        ai_token=credentials.ai_token,
        ingest_auth="developer",
        ingest_token=credentials.ingest_token,
        patient_match="create",
        site_name="Test hospital",
        site_assigner_system="https://hospital.example/patient-numbers",
        site_time_zone="Europe/Paris",
    )


@pytest.fixture(scope="session")
def pool(settings: Settings) -> Iterator[Pool]:
    """The ledger, as imaging_worker."""
    with open_pool(settings) as opened:
        yield opened


@pytest.fixture(scope="session")
def blob_store(settings: Settings) -> BlobStore:
    """Azurite, with its containers."""
    return BlobStore.from_settings(settings)


@pytest.fixture(scope="session")
def queues(settings: Settings) -> Queues:
    """Azurite's queues."""
    return Queues.from_settings(settings)


@pytest.fixture(scope="session")
def fhir_client(settings: Settings) -> Iterator[FhirClient]:
    """The FHIR service."""
    with client_from_settings(settings) as client:
        yield client


@pytest.fixture(scope="session")
def decoder() -> Iterator[DecodePool]:
    """Decode children with the default limits."""
    with DecodePool() as opened:
        yield opened


@pytest.fixture
def fresh_uid() -> str:
    """A UID that no other test has."""
    return f"2.25.{uuid.uuid4().int}"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The project's data folder; a test that asks for it is named as not run where it is absent."""
    if not (SHARED / "data" / "README.md").exists():
        pytest.skip("the data folder ../shared is not here")
    return SHARED / "data"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what was not run, so that nobody takes it for passed."""
    skipped = terminalreporter.stats.get("skipped", [])
    if not skipped:
        return
    terminalreporter.section("not run")
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        terminalreporter.line(f"{report.nodeid}: {reason.removeprefix('Skipped: ')}")

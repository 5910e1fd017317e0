"""The ingestion's own processes over the test's stores: Functions host and DICOM listener, and Orthanc as a sender."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from imaging_core.settings import Settings
from tests.conftest import Stores
from tests.end_to_end.conftest import wait_for

ROOT = Path(__file__).parents[2]
_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment_of(settings: Settings, **more: str) -> dict[str, str]:
    """Return the environment of a process that works with these settings."""
    made = dict(os.environ)
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        made[name.upper()] = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    return {**made, "AzureWebJobsStorage": made["STORAGE_CONNECTION_STRING"], **more}


@dataclass(frozen=True)
class Ingestion:
    """A running Functions host."""

    url: str
    token: str
    process: subprocess.Popen[bytes]

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.token}"}, timeout=60)

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        with self.client() as client:
            found: dict[str, Any] = client.post(path, json=body).raise_for_status().json()
            return found

    def get(self, path: str) -> dict[str, Any]:
        with self.client() as client:
            found: dict[str, Any] = client.get(path).raise_for_status().json()
            return found


@pytest.fixture(scope="session")
def ingestion(stores: Stores, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ingestion]:
    """The app on the local Functions host, as `imaging up` starts it."""
    folder = tmp_path_factory.mktemp("host")
    port = free_port()
    command = [sys.executable, "-P", "-m", "infra.local.functions_host"]
    command += ["--app", str(ROOT / "ingestion_functions" / "function_app.py")]
    command += ["--port", str(port), "--state", str(folder / "state.sqlite")]
    environment = environment_of(settings, FUNCTIONS_REQUEST_BODY_SIZE_LIMIT="209715200")
    with (folder / "host.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    made = Ingestion(f"http://127.0.0.1:{port}/api", settings.ingest_token.get_secret_value(), process)

    def healthy() -> bool:
        assert process.poll() is None, (folder / "host.log").read_text("utf-8", "replace")[-3000:]
        try:
            return httpx.get(f"{made.url}/health").status_code == 200
        except httpx.TransportError:
            return False

    wait_for("the Functions host", healthy)
    yield made
    process.terminate()
    process.wait(60)


@dataclass(frozen=True)
class Listening:
    """A running `imaging listen`."""

    host: str
    port: int
    process: subprocess.Popen[bytes]


@pytest.fixture(scope="session")
def listening(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    """`imaging listen` for anybody on this machine."""
    folder = tmp_path_factory.mktemp("listen")
    port = free_port()
    command = [sys.executable, "-P", "-m", "imaging_core.cli", "listen", "--data-dir", str(folder)]
    with (folder / "listen.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment_of(settings, LISTEN_PORT=str(port)), stdout=log, stderr=subprocess.STDOUT
        )

    def open_for_calls() -> bool:
        assert process.poll() is None, (folder / "listen.log").read_text("utf-8", "replace")[-3000:]
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_for("the listener", open_for_calls)
    yield Listening("127.0.0.1", port, process)
    process.terminate()
    process.wait(60)


@dataclass(frozen=True)
class Orthanc:
    """A running Orthanc, which knows the ingestion as DICOMweb server and as modality, both named ``imaging``."""

    url: str
    configuration: Mapping[str, Any]

    def store(self, file: bytes) -> str:
        """Give it an instance; return its own id of the instance."""
        response = httpx.post(f"{self.url}/instances", content=file)
        return str(response.raise_for_status().json()["ID"])

    def send(self, path: str, body: object) -> httpx.Response:
        """Let it send what it has, and wait for the end."""
        return httpx.post(f"{self.url}{path}", json=body, timeout=120)


def orthanc_configuration(ingestion: Ingestion, listening: Listening) -> dict[str, Any]:
    """Return what ``docs/send_images.md`` tells to add to Orthanc's configuration, for these addresses."""
    page = (ROOT / "docs" / "send_images.md").read_text("utf-8")
    block = page.split("```json\n", 1)[1].split("```", 1)[0]
    text = block.replace("https://imaging.hospital.example/api", ingestion.url).replace("TOKEN", ingestion.token)
    made: dict[str, Any] = json.loads(text)
    assert made["DicomModalities"]["imaging"][:2] == ["IMAGING", "imaging.hospital.example"]
    made["DicomModalities"]["imaging"][1:3] = [listening.host, listening.port]
    return made


@pytest.fixture(scope="session")
def orthanc(ingestion: Ingestion, listening: Listening, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """Orthanc from Debian with its DICOMweb plugin, without the GDCM plugin: it sends what it was given."""
    assert _PLUGIN.exists(), "apt-get install orthanc orthanc-dicomweb"
    folder = tmp_path_factory.mktemp("orthanc")
    port = free_port()
    configuration = {
        "HttpPort": port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomServerEnabled": False,
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "Plugins": [str(_PLUGIN)],
        **orthanc_configuration(ingestion, listening),
    }
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen(["Orthanc", str(folder / "orthanc.json")], stdout=log, stderr=subprocess.STDOUT)
    made = Orthanc(f"http://127.0.0.1:{port}", configuration)

    def serves() -> bool:
        assert process.poll() is None, (folder / "orthanc.log").read_text("utf-8", "replace")[-3000:]
        try:
            return httpx.get(f"{made.url}/system").status_code == 200
        except httpx.TransportError:
            return False

    wait_for("Orthanc", serves)
    yield made
    process.terminate()
    process.wait(30)

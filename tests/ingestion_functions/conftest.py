"""The Functions app's handlers over the real stores, and an AI container's place on the wire."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import azure.functions as func
import httpx
import pytest

from fhir_adapter.client import FhirClient
from imaging_core.blobs import BlobStore
from imaging_core.database import Pool
from imaging_core.dicom.child import DecodePool
from imaging_core.queues import Queues
from imaging_core.settings import Settings
from imaging_core.sites import Sites
from infra.local.commands import stop_stack
from infra.local.configuration import Layout
from infra.local.credentials import load_credentials
from ingestion_functions import http_api
from ingestion_functions.http_api import Handler, answer
from ingestion_functions.services import Services
from tests.conftest import free_ports, open_folder


@dataclass
class Ai:
    """Answers as the AI container would; `status` and `answer` may be changed by a test."""

    url: str
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    answer: Callable[[dict[str, Any]], dict[str, Any]] = lambda body: {
        "study_uid": body["study_uid"],
        "model": None,
        "findings": [],
        "not_analysed": [{"sop_uid": item["sop_uid"], "reason": "no-model"} for item in body["instances"]],
        "resources": [],
    }
    seen: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture
def ai() -> Iterator[Ai]:
    """A listener in the AI container's place: the true one is tested in its own part and end to end."""
    double = Ai("")

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            double.seen.append(body)
            content = json.dumps(double.answer(body)).encode()
            self.send_response(double.status)
            for name, value in double.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    double.url = f"http://127.0.0.1:{server.server_port}"
    yield double
    server.shutdown()
    server.server_close()


@pytest.fixture
def parts(
    settings: Settings,
    pool: Pool,
    blob_store: BlobStore,
    queues: Queues,
    fhir_client: FhirClient,
    decoder: DecodePool,
    ai: Ai,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Services]:
    """The app's connections; `ingestion_functions.http_api.answer` uses them too."""
    with httpx.Client(base_url=ai.url, timeout=10) as client:
        made = Services(settings, Sites.from_settings(settings), blob_store, queues, pool, decoder, fhir_client, client)
        monkeypatch.setattr(http_api, "services", lambda: made)
        yield made


@dataclass(frozen=True)
class Door:
    """Calls a handler as the host does."""

    token: str

    def __call__(
        self,
        handler: Handler,
        body: bytes = b"",
        content_type: str = "",
        *,
        route: dict[str, str] | None = None,
        method: str = "POST",
        **headers: str,
    ) -> func.HttpResponse:
        sent = {"Authorization": f"Bearer {self.token}", "Content-Type": content_type}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        request = func.HttpRequest(
            method, "http://127.0.0.1/api", headers=sent, params={}, route_params=route or {}, body=body
        )
        return answer(request, handler)

    def with_token(self, token: str) -> Door:
        return replace(self, token=token)


@pytest.fixture
def door(parts: Services) -> Door:
    """An authenticated client."""
    return Door(parts.settings.ingest_token.get_secret_value())


class _Ready(BaseHTTPRequestHandler):
    """Stands for the AI container, whose readiness ``/api/ready`` asks for."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        return


@dataclass(frozen=True)
class Running:
    """The ingestion on its own host and stores, as a sender reaches it."""

    folder: Path
    url: str
    token: str
    admin_token: str
    pid: int

    @property
    def log(self) -> Path:
        """Everything that the service has written."""
        return self.folder / "logs" / "ingestion.log"

    def client(self) -> httpx.Client:
        """Return a client with the upload token."""
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.token}"}, timeout=120)


@pytest.fixture(scope="session")
def running() -> Iterator[Running]:
    """Start PostgreSQL, Azurite, FHIR and the Functions host for the tests that need HTTP."""
    folder = open_folder()
    imaging = [sys.executable, "-P", "-m", "imaging_core.cli"]
    ai = ThreadingHTTPServer(("127.0.0.1", 0), _Ready)
    threading.Thread(target=ai.serve_forever, daemon=True).start()
    environment = {**os.environ, **free_ports(), "AI_URL": f"http://127.0.0.1:{ai.server_port}"}
    parts = ("up", "--data-dir", str(folder), "--only", "postgres,blob,fhir,ingestion")
    subprocess.run([*imaging, *parts], check=True, env=environment, stdout=subprocess.DEVNULL)
    status = ("status", "--json", "--secrets", "--data-dir", str(folder))
    done = subprocess.run([*imaging, *status], env=environment, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)["parts"]["ingestion"]
    layout = Layout.at(folder)
    admin = load_credentials(layout).ingest_admin_token
    yield Running(folder, found["url"], found["token"], admin, found["pids"][0])
    stop_stack(layout)
    ai.shutdown()
    ai.server_close()

"""The service as a process of its own: killed while it publishes, stopped while it works, full."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from fhir_adapter.client import FhirClient
from fhir_adapter.identity import report_role, resource_id
from imaging_core.blobs import BlobStore
from imaging_core.settings import Settings
from tests.ai_container.test_service import Study

Hook = Callable[[str, str, bytes, Callable[[], httpx.Response]], httpx.Response]


class FhirDoor:
    """A proxy before the real FHIR service, so that a test can act between a request and its answer."""

    def __init__(self, base_url: str) -> None:
        self.hook: Hook = lambda method, path, body, forward: forward()
        door = self
        upstream = httpx.Client(timeout=30)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}

                def forward() -> httpx.Response:
                    return upstream.request(
                        self.command, base_url.removesuffix("/fhir") + self.path, content=body, headers=headers
                    )

                answer = door.hook(self.command, self.path, body, forward)
                self.send_response(answer.status_code)
                for name, value in answer.headers.items():
                    if name.lower() not in _HOP:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.content)))
                self.end_headers()
                with contextlib.suppress(OSError):  # who asked may have been killed
                    self.wfile.write(answer.content)

            do_GET = do_POST = do_PUT = do_DELETE = _pass

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/fhir"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


_HOP = {"host", "content-length", "connection", "transfer-encoding", "content-encoding", "accept-encoding"}


class Service:
    """gunicorn with the model service."""

    def __init__(self, settings: Settings, fhir: str, **environment: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._token = settings.ai_token.get_secret_value()
        command = [sys.executable, "-P", "-m", "gunicorn", "ai_container.wsgi:app"]
        command += ["-c", "python:ai_container.gunicorn_config", "--bind", f"127.0.0.1:{port}"]
        self.process = subprocess.Popen(
            command,
            env={
                **os.environ,
                "FHIR_BASE_URL": fhir,
                "FHIR_AUTH": "bearer",
                "FHIR_TOKEN": settings.fhir_token.get_secret_value(),
                "STORAGE_CONNECTION_STRING": settings.storage_connection_string.get_secret_value(),
                "AI_TOKEN": self._token,
                **environment,
            },
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=90, headers={"Authorization": f"Bearer {self._token}"}
        )
        self._wait()

    def _wait(self) -> None:
        for _ in range(600):
            assert self.process.poll() is None, "the service ended by itself"
            with contextlib.suppress(httpx.TransportError):
                if self.http.get("/readyz").status_code == 200:
                    return
            threading.Event().wait(0.1)
        raise AssertionError("not ready within a minute")

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    def close(self) -> None:
        self.http.close()
        self.kill()


@pytest.fixture
def door(settings: Settings) -> Iterator[FhirDoor]:
    opened = FhirDoor(settings.fhir_base_url)
    yield opened
    opened.close()


@pytest.fixture
def start(settings: Settings, door: FhirDoor) -> Iterator[Callable[..., Service]]:
    made: list[Service] = []

    def go(**environment: str) -> Service:
        made.append(Service(settings, door.url, **environment))
        return made[-1]

    yield go
    for service in made:
        service.close()


@pytest.fixture
def study(blob_store: BlobStore, fresh_uid: str, chest: bytes, fhir_client: FhirClient) -> Study:
    made = Study(fresh_uid[:40], blob_store)
    made.add(chest, "CR")
    made.register(fhir_client)
    return made


def resources_of(client: FhirClient, names: list[str]) -> dict[str, dict[str, object] | None]:
    return {name: client.read(*name.split("/")) for name in names}


@pytest.mark.requirement("I1")
@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_while_it_publishes_the_repeated_request_gives_the_same_resources(
    moment: str,
    start: Callable[..., Service],
    door: FhirDoor,
    study: Study,
    fhir_client: FhirClient,
    blob_store: BlobStore,
) -> None:
    """Killed before FHIR has the transaction, and after it has it but before the service knows."""
    service = start()
    reached = threading.Event()

    def hook(method: str, path: str, body: bytes, forward: Callable[[], httpx.Response]) -> httpx.Response:
        if method == "POST" and b"DiagnosticReport" in body and b'"transaction"' in body and not reached.is_set():
            answer = forward() if moment == "after" else httpx.Response(503)
            service.kill()
            reached.set()
            return answer
        return forward()

    door.hook = hook
    with pytest.raises(httpx.TransportError):
        service.http.post("/v1/analyses", json=study.request())
    assert reached.wait(30)
    report = f"DiagnosticReport/{resource_id(study.uid, report_role('chest-opacity'))}"
    written = fhir_client.read(*report.split("/"))
    assert (written is not None) is (moment == "after")

    door.hook = lambda method, path, body, forward: forward()
    again = start()
    answer = again.http.post("/v1/analyses", json=study.request()).raise_for_status().json()
    assert report in answer["resources"]
    held = resources_of(fhir_client, answer["resources"])
    assert all(held.values())
    if written is not None:
        after = held[report]
        assert after is not None
        assert after["meta"] == written["meta"]  # it was there, and nothing was written a second time
    assert all(blob_store.exists(*path.split("/", 1)) for path in answer["artifacts"].values())
    third = again.http.post("/v1/analyses", json=study.request()).raise_for_status().json()
    assert third["resources"] == answer["resources"]
    assert third["artifacts"] == answer["artifacts"]
    assert resources_of(fhir_client, third["resources"]) == held
    revisions = [blob.name.split("/")[2] for blob in blob_store.list("results", f"{study.uid}/")]
    assert set(revisions) == {"0"}


def test_a_stop_finishes_what_runs_and_sends_away_what_waits(
    start: Callable[..., Service], door: FhirDoor, study: Study, fhir_client: FhirClient
) -> None:
    service = start(AI_CONCURRENCY="1", AI_QUEUE="4")
    reading, go = threading.Event(), threading.Event()

    def hook(method: str, path: str, body: bytes, forward: Callable[[], httpx.Response]) -> httpx.Response:
        reading.set()
        go.wait(30)
        return forward()

    door.hook = hook
    with ThreadPoolExecutor(3) as threads:
        running = threads.submit(service.http.post, "/v1/analyses", json=study.request())
        assert reading.wait(30)
        waiting = threads.submit(service.http.post, "/v1/analyses", json=study.request())
        for _ in range(600):
            if "ai_queue_waiting 1.0" in service.http.get("/metrics").text:
                break
            threading.Event().wait(0.05)
        service.process.send_signal(signal.SIGTERM)
        refused = waiting.result(30)
        assert refused.status_code == 503
        assert refused.json()["code"] == "service-unavailable"
        assert int(refused.headers["Retry-After"]) > 0
        go.set()
        answer = running.result(60)
    assert answer.status_code == 200, answer.text
    assert service.process.wait(60) == 0
    report = resource_id(study.uid, report_role("chest-opacity"))
    assert fhir_client.read("DiagnosticReport", report) is not None


def test_a_full_queue_says_when_to_come_back_and_health_goes_on(
    start: Callable[..., Service], door: FhirDoor, study: Study
) -> None:
    service = start(AI_CONCURRENCY="1", AI_QUEUE="0")
    reading, go = threading.Event(), threading.Event()

    def hook(method: str, path: str, body: bytes, forward: Callable[[], httpx.Response]) -> httpx.Response:
        reading.set()
        go.wait(30)
        return forward()

    door.hook = hook
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(service.http.post, "/v1/analyses", json=study.request())
        assert reading.wait(30)
        refused = service.http.post("/v1/analyses", json=study.request())
        assert refused.status_code == 429
        assert refused.json()["code"] == "queue-full"
        assert "AI_QUEUE = 0" in refused.json()["detail"]
        assert int(refused.headers["Retry-After"]) >= 1
        assert service.http.get("/healthz").status_code == 200
        assert service.http.get("/readyz").status_code == 200
        assert "ai_queue_refused_total 1.0" in service.http.get("/metrics").text
        go.set()
        assert running.result(60).status_code == 200

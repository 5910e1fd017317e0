"""Azurite and the example function app of these tests."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from azure.storage.blob import BlobServiceClient
from azure.storage.queue import QueueServiceClient, TextBase64EncodePolicy

from infra.local.azurite import azurite_part
from infra.local.configuration import Layout, Ports, StackSettings
from infra.local.credentials import load_credentials
from infra.local.node import find_node

EXAMPLE_APP = Path(__file__).parent / "example_app" / "function_app.py"

T = TypeVar("T")


def eventually(probe: Callable[[], T], seconds: float = 30.0) -> T:
    """Call `probe` until what it returns is true; an assertion error after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = probe()
        if value:
            return value
        assert time.monotonic() < deadline, f"still not so after {seconds} s: {probe}"
        time.sleep(0.02)


def free_ports() -> StackSettings:
    """Return settings whose every port is any free one."""
    return StackSettings(**{f"{name}_port": 0 for name in Ports.__dataclass_fields__})


@dataclass
class Host:
    """A running functions host."""

    process: subprocess.Popen[bytes]
    url: str
    seen_file: Path
    log: Path
    queues: QueueServiceClient
    blobs: BlobServiceClient
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=30, trust_env=False))

    def seen(self, trigger: str, **wanted: object) -> list[dict[str, Any]]:
        """Return what functions of that trigger saw."""
        lines = self.seen_file.read_text().splitlines() if self.seen_file.exists() else []
        items = [json.loads(line) for line in lines]
        return [
            item
            for item in items
            if item["trigger"] == trigger and all(item[key] == value for key, value in wanted.items())
        ]

    def log_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def put(self, queue: str, text: str) -> None:
        self.queues.get_queue_client(queue, message_encode_policy=TextBase64EncodePolicy()).send_message(text)


@pytest.fixture(scope="session")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Azurite's connection string."""
    layout = Layout.at(tmp_path_factory.mktemp("azurite"))
    ports = Ports.from_settings(free_ports())
    part = azurite_part(layout, load_credentials(layout), find_node(), ports.blob, ports.queue)
    environment = {**os.environ, **part.environment}
    with layout.log("blob").open("wb") as log:
        process = subprocess.Popen(part.command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        eventually(part.healthy)
        yield part.token
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="session")
def start_host(storage: str) -> Callable[..., contextlib.AbstractContextManager[Host]]:
    """A function that starts the example app in a folder and stops it at the end of the block."""

    @contextlib.contextmanager
    def start(folder: Path, app: Path = EXAMPLE_APP, **environment: str) -> Iterator[Host]:
        port = Ports.from_settings(free_ports()).ingestion
        log = folder / "host.log"
        command = [sys.executable, "-P", "-m", "infra.local.functions_host", "--app", str(app), "--port", str(port)]
        command += ["--state", str(folder / "state.sqlite")]
        settings = {"AzureWebJobsStorage": storage, "EXAMPLE_SEEN": str(folder / "seen"), **environment}
        with log.open("ab") as output:
            process = subprocess.Popen(
                command, env={**os.environ, **settings}, stdout=output, stderr=subprocess.STDOUT, cwd=folder
            )
        host = Host(
            process,
            f"http://127.0.0.1:{port}/api",
            folder / "seen",
            log,
            QueueServiceClient.from_connection_string(storage),
            BlobServiceClient.from_connection_string(storage),
        )
        try:
            eventually(lambda: answers(host) or process.poll() is not None)
            assert process.poll() is None, log.read_text()
            yield host
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(40)
            host.client.close()

    return start


def answers(host: Host) -> bool:
    """Whether the host serves requests."""
    try:
        return host.client.get(f"{host.url}/things/special").status_code == 200
    except httpx.TransportError:
        return False

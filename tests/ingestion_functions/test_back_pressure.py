"""Stores that are away or slow: 503 before anything is taken, or exact per-instance A700; never a false success."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from azure.storage.blob import BlobServiceClient
from pydicom import Dataset

from infra.local.commands import stop_stack
from infra.local.configuration import Layout
from infra.local.credentials import load_credentials
from infra.local.postgres import database_url
from tests.conftest import free_ports, open_folder
from tests.dicom_samples import instance, multipart, part10

IMAGING = (sys.executable, "-P", "-m", "imaging_core.cli")
BOUNDS = {"STORAGE_TIMEOUT_S": "1", "DATABASE_TIMEOUT_S": "1"}


@dataclass
class Service:
    """The ingestion with stores of its own, which may be stopped."""

    folder: Path

    @functools.cached_property
    def addresses(self) -> dict[str, Any]:
        return self.parts()

    def parts(self) -> dict[str, Any]:
        done = subprocess.run(
            [*IMAGING, "status", "--json", "--secrets", "--data-dir", str(self.folder)],
            capture_output=True,
            text=True,
            check=True,
        )
        found: dict[str, Any] = json.loads(done.stdout)["parts"]
        return found

    def send(self, *files: bytes) -> httpx.Response:
        part = self.addresses["ingestion"]
        body, kind = multipart(*files)
        headers = {"Content-Type": kind, "Authorization": f"Bearer {part['token']}"}
        return httpx.post(f"{part['url']}/dicomweb/studies", content=body, headers=headers, timeout=120)

    def blob_names(self) -> set[str]:
        service = BlobServiceClient.from_connection_string(self.addresses["blob"]["token"])
        with service, service.get_container_client("images") as container:
            return {item.name for item in container.list_blobs()}

    def rows(self, sop_uids: Sequence[str]) -> dict[str, list[str]]:
        port = int(str(self.addresses["postgres"]["url"]).rsplit(":", 1)[1].split("/")[0])
        credentials = load_credentials(Layout.at(self.folder))
        found: dict[str, list[str]] = {uid: [] for uid in sop_uids}
        with psycopg.connect(database_url(credentials, port, "imaging_worker")) as connection:
            query = "SELECT sop_uid, outcome FROM ledger.intake WHERE sop_uid = ANY(%s) ORDER BY sequence"
            for uid, outcome in connection.execute(query, (list(sop_uids),)):
                found[uid].append(outcome)
        return found

    @contextmanager
    def stopped(self, part: str) -> Iterator[None]:
        """Stop a part's processes for the block: their sockets stay open, and nothing answers."""
        pids = [int(pid) for pid in self.parts()[part]["pids"]]
        for pid in pids:
            _signal(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                _signal(pid, signal.SIGCONT)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def eventually(probe: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not probe():
        assert time.monotonic() < until, f"waited {seconds} s for {what}"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    folder = open_folder()
    command = [*IMAGING, "up", "--data-dir", str(folder), "--only", "postgres,blob,fhir,ingestion"]
    environment = {**os.environ, **free_ports(), **BOUNDS}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    yield Service(folder)
    stop_stack(Layout.at(folder))


@pytest.mark.requirement("D45")
@pytest.mark.parametrize("part", ["blob", "postgres"])
def test_a_store_that_says_nothing_is_503_with_retry_after(service: Service, part: str) -> None:
    sent = [instance() for _ in range(3)]
    with service.stopped(part):
        response = service.send(*[part10(item) for item in sent])
    assert response.status_code == 503
    assert response.headers["Content-Type"] == "application/problem+json"
    assert int(response.headers["Retry-After"]) > 0
    assert response.json()["code"] == ("storage-unavailable" if part == "blob" else "ledger-unavailable")
    assert service.rows([item.SOPInstanceUID for item in sent]) == {item.SOPInstanceUID: [] for item in sent}
    eventually(lambda: service.send(*[part10(item) for item in sent]).status_code == 200, "the store to answer again")


@pytest.mark.requirement("D45")
def test_what_is_acknowledged_while_a_store_fails_is_stored_and_nothing_else(service: Service) -> None:
    """Azurite stops in the middle of a request of 300 parts."""
    sent = [instance(PixelData=bytes(60_000), Rows=100, Columns=300) for _ in range(300)]
    before = service.blob_names()
    answers: list[httpx.Response] = []
    sender = threading.Thread(target=lambda: answers.append(service.send(*[part10(item) for item in sent])))
    sender.start()
    eventually(lambda: len(service.blob_names() - before) >= 40, "some of the request to be stored")
    with service.stopped("blob"):
        sender.join(100)
    (answer,) = answers
    assert answer.status_code == 202, "some were stored when it stopped: is the machine so fast that all were?"
    body = answer.json()
    stored = {item["00081155"]["Value"][0] for item in body["00081199"]["Value"]}
    failed = {item["00081155"]["Value"][0]: item["00081197"]["Value"][0] for item in body["00081198"]["Value"]}
    assert set(failed.values()) == {0xA700}
    assert stored | set(failed) == {item.SOPInstanceUID for item in sent}, "each instance is told of, by its UID"
    rows = service.rows([item.SOPInstanceUID for item in sent])
    names = service.blob_names()
    for item in sent:
        if item.SOPInstanceUID in stored:
            assert rows[item.SOPInstanceUID] == ["accepted"]
            assert _name(item) in names
        else:
            assert rows[item.SOPInstanceUID] == []
    again = service.send(*[part10(item) for item in sent])
    assert again.status_code == 200
    outcomes = [outcomes[-1] for outcomes in service.rows([item.SOPInstanceUID for item in sent]).values()]
    assert outcomes.count("duplicate") == len(stored)


def _name(item: Dataset) -> str:
    return f"{item.StudyInstanceUID}/{item.SeriesInstanceUID}/{item.SOPInstanceUID}.dcm"


@pytest.mark.requirement("D45")
@pytest.mark.parametrize("part", ["blob", "postgres"])
def test_a_killed_store_loses_nothing_that_was_acknowledged(service: Service, part: str) -> None:
    first = instance()
    assert service.send(part10(first)).status_code == 200
    for pid in service.parts()[part]["pids"]:
        _signal(int(pid), signal.SIGKILL)
    second = instance()
    statuses = []

    def stored() -> bool:
        response = service.send(part10(second))
        statuses.append(response.status_code)
        return response.status_code == 200

    eventually(stored, "the store to be started again")
    assert set(statuses) <= {200, 503}
    assert _name(first) in service.blob_names()
    assert service.rows([first.SOPInstanceUID])[first.SOPInstanceUID][0] == "accepted"
    assert service.send(part10(first)).status_code == 200

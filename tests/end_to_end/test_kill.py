"""SIGKILL of each process in the middle of a run ends in the state of an undisturbed run."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from infra.local.commands import stop_stack
from infra.local.configuration import Layout
from tests.conftest import open_folder
from tests.dicom_samples import multipart
from tests.end_to_end.conftest import Stack, sample, wait_for
from tests.end_to_end.test_images_to_reports import ADULT, renewed, reports, versions

NAMES = ("RG1_UNCI.dcm", "MR_small.dcm", "RG1_J2KI.dcm", "CT_small.dcm")


@pytest.fixture
def own_stack() -> Iterator[Stack]:
    """A stack that may be hurt."""
    started = Stack(open_folder())
    started.up()
    yield started
    stop_stack(Layout.at(started.folder))


def send_patiently(stack: Stack, data: bytes) -> None:
    """Send as a PACS does: again until it is acknowledged."""
    body, kind = multipart(data)

    def acknowledged() -> bool:
        try:
            with stack.client("ingestion") as ingestion:
                response = ingestion.post("/dicomweb/studies", content=body, headers={"Content-Type": kind})
        except httpx.HTTPError:
            return False
        return response.status_code == 200

    wait_for("the acknowledgement", acknowledged, 120)


@pytest.mark.parametrize("victim", ["ingestion", "ai", "fhir", "blob", "postgres"])
def test_nothing_is_lost_and_nothing_is_doubled(own_stack: Stack, victim: str) -> None:
    files: list[tuple[bytes, str, str]] = []
    for name in NAMES:
        for _ in range(2):
            files.append(renewed(sample(name), PatientID=f"K{uuid.uuid4().hex[:8]}", **ADULT))
    with ThreadPoolExecutor(4) as threads:
        sending = [threads.submit(send_patiently, own_stack, data) for data, _, _ in files]
        wait_for("the first delivery", lambda: own_stack.status()["ledger"].get("accepted", 0) > 1)
        for pid in own_stack.status()["parts"][victim]["pids"]:
            kill(pid)
        for future in sending:
            future.result()
    settled(own_stack, len(files))
    counted(own_stack, files)
    with own_stack.client("ingestion") as _, own_stack.client("fhir") as fhir:
        before = versions(fhir)
    for data, _, _ in files:
        send_patiently(own_stack, data)
    settled(own_stack, len(files))
    with own_stack.client("fhir") as fhir:
        assert versions(fhir) == before


def test_the_supervisor_may_be_killed(own_stack: Stack) -> None:
    data, study_uid, _ = renewed(sample("RG1_UNCI.dcm"), PatientID=f"K{uuid.uuid4().hex[:8]}", **ADULT)
    send_patiently(own_stack, data)
    state = Layout.at(own_stack.folder).state
    assert state.exists()
    from infra.local.stack_state import read_state

    found = read_state(state)
    assert found is not None
    assert found.supervisor is not None
    kill(found.supervisor.pid)
    own_stack.up()
    settled(own_stack, 1)
    with own_stack.client("fhir") as fhir:
        assert len(reports(fhir, study_uid)) == 1


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def settled(stack: Stack, images: int) -> None:
    """Wait until every accepted image has come to its end."""

    def done() -> bool:
        ledger: dict[str, Any] = stack.status()["ledger"]
        return bool(ledger) and ledger["registered"] == images and ledger["pending"] == 0

    wait_for("every image's end", done, 180)


def counted(stack: Stack, files: list[tuple[bytes, str, str]]) -> None:
    ledger = stack.status()["ledger"]
    assert ledger["failed"] == 0
    assert ledger["accepted"] == len(files)
    assert ledger["analysed"] + ledger["not_analysed"] == len(files) // 2
    assert ledger["no_model"] == len(files) // 2
    with stack.client("fhir") as fhir:
        for number, (_, study_uid, _) in enumerate(files):
            chest = NAMES[number // 2].startswith("RG1")
            assert len(reports(fhir, study_uid)) == (1 if chest else 0)

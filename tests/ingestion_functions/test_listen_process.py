"""`imaging listen` as the process that a hospital runs: stopped, killed, and with its stores killed under it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from imaging_core.blobs import BlobStore
from imaging_core.database import open_pool, unit_of_work
from imaging_core.settings import Settings, operator_settings
from infra.local.commands import stop_stack
from infra.local.configuration import Layout
from infra.local.stack_state import read_state
from tests.conftest import free_ports, open_folder
from tests.dicom_samples import instance, part10
from tests.end_to_end.conftest import wait_for
from tests.ingestion_functions.cstore_scu import Scu, dcmtk

IMAGING = (sys.executable, "-P", "-m", "imaging_core.cli")
MARKERS = ("Zzyzx", "MRN-31337", "19010203", "ACC-4711")


@dataclass
class Running:
    """A listener process and what it has said so far."""

    process: subprocess.Popen[str]
    environment: dict[str, str]
    lines: list[dict[str, Any]] = field(default_factory=list)
    text: list[str] = field(default_factory=list)

    def read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.text.append(line)
            try:
                self.lines.append(json.loads(line))
            except ValueError:
                continue

    @property
    def scu(self) -> Scu:
        said = wait_for("the listener", lambda: [line for line in self.lines if line.get("event") == "listening"], 60)
        return Scu("127.0.0.1", int(said[0]["port"]))

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """PostgreSQL and Azurite that may be hurt; their supervisor starts them again."""
    made = open_folder()
    command = [*IMAGING, "up", "--data-dir", str(made), "--only", "postgres,blob"]
    subprocess.run(command, check=True, env={**os.environ, **free_ports()}, stdout=subprocess.DEVNULL)
    yield made
    stop_stack(Layout.at(made))


@pytest.fixture(scope="module")
def local(folder: Path) -> Settings:
    return operator_settings(folder)


@pytest.fixture
def listen(folder: Path) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(**settings: str) -> Running:
        environment = {**os.environ, "LISTEN_PORT": "0", **settings}
        process = subprocess.Popen(
            [*IMAGING, "listen", "--data-dir", str(folder)], env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        running = Running(process, environment)
        threading.Thread(target=running.read, daemon=True).start()
        started.append(running)
        return running

    yield start
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait(20)


def accepted_and_stored(local: Settings, uids: Sequence[str]) -> set[str]:
    """Return the UIDs of which there is a ledger row, an instance and a blob."""
    blobs = BlobStore.from_settings(local)
    with open_pool(local, size=1) as pool, unit_of_work(pool) as connection:
        rows = connection.execute(
            """
            SELECT n.sop_uid, n.blob FROM ledger.instance n
            JOIN ledger.intake i ON i.sop_uid = n.sop_uid AND i.outcome = 'accepted'
            WHERE n.sop_uid = ANY(%s)
            """,
            (list(uids),),
        ).fetchall()
    return {uid for uid, blob in rows if blobs.exists("images", blob)}


def send_until_it_ends(scu: Scu, files: Sequence[tuple[str, bytes]], succeeded: list[str]) -> None:
    """Send one after the other, noting what was answered with success."""
    with scu.association(files[0][1]) as association:
        for uid, file in files:
            try:
                answer = Scu.store(association, file)
            except ConnectionError:
                return
            if answer.Status == 0x0000:
                succeeded.append(uid)


def many(number: int) -> list[tuple[str, bytes]]:
    made = []
    for _ in range(number):
        dataset = instance(Rows=256, Columns=256, PixelData=os.urandom(256 * 256 * 2))
        made.append((str(dataset.SOPInstanceUID), part10(dataset)))
    return made


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGKILL, -9)])
def test_what_was_answered_with_success_is_there(
    listen: Callable[..., Running], local: Settings, number: signal.Signals, code: int
) -> None:
    running = listen()
    scu = running.scu
    succeeded: list[str] = []
    batches = [many(150) for _ in range(3)]
    senders = [threading.Thread(target=send_until_it_ends, args=(scu, files, succeeded)) for files in batches]
    for sender in senders:
        sender.start()
    wait_for("some success", lambda: len(succeeded) > 10)
    assert running.end(number) == code
    for sender in senders:
        sender.join(60)
        assert not sender.is_alive()
    assert 10 < len(succeeded) < 450
    everything = [uid for files in batches for uid, _ in files]
    there = accepted_and_stored(local, everything)
    assert set(succeeded) <= there
    if number != signal.SIGKILL:  # what was finished was also answered
        assert set(succeeded) == there
        assert [line["finished"] for line in running.lines if line.get("event") == "stopped"] == [True]


@pytest.mark.parametrize("victim", ["postgres", "blob"])
def test_a_store_that_is_killed_is_no_success(
    listen: Callable[..., Running], local: Settings, folder: Path, victim: str
) -> None:
    """A700 while it is away (PS3.4 Table B.2-1: out of resources, send again); then it goes on."""
    scu = listen().scu
    files = many(60)
    statuses: dict[str, list[int]] = {uid: [] for uid, _ in files}
    with scu.association(files[0][1]) as association:
        for number, (uid, file) in enumerate(files):
            if number == 10:
                kill(folder, victim)
            answer = Scu.store(association, file)
            statuses[uid].append(answer.Status)
    seen = {status for answers in statuses.values() for status in answers}
    assert seen <= {0x0000, 0xA700}
    for uid, file in files:  # as a PACS does: again what failed

        def sent_again(uid: str = uid, file: bytes = file) -> bool:
            if statuses[uid][-1] != 0x0000:
                statuses[uid].append(scu.send(file)[0].Status)
            return statuses[uid][-1] == 0x0000

        wait_for("success", sent_again)
    assert accepted_and_stored(local, list(statuses)) == set(statuses)


def kill(folder: Path, part: str) -> None:
    state = read_state(Layout.at(folder).state)
    assert state is not None
    process = state.parts[part].process
    assert process is not None
    for victim in (*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)):
        if victim.is_running():
            victim.kill()


@pytest.mark.requirement("D43")
def test_logs_hold_no_patient(listen: Callable[..., Running], tmp_path: Path) -> None:
    running = listen(LOG_LEVEL="DEBUG")
    scu = running.scu
    named = {
        "PatientName": "Zzyzx^Quentin", "PatientID": "MRN-31337", "PatientBirthDate": "19010203",
        "AccessionNumber": "ACC-4711",
    }  # fmt: skip
    good = instance(**named)
    broken = instance(**named, RescaleSlope="0")
    conflicting = instance(**named, SOPInstanceUID=good.SOPInstanceUID, PixelData=b"\1" * 32)
    statuses = [answer.Status for answer in scu.send(part10(good), part10(broken), part10(conflicting))]
    assert statuses == [0x0000, 0xC000, 0x0110]
    (tmp_path / "one.dcm").write_bytes(part10(instance(**named)))
    dcmtk("storescu", "-aec", "IMAGING", scu.host, str(scu.port), tmp_path / "one.dcm")
    assert running.end(signal.SIGTERM) == 0
    said = "".join(running.text)
    assert said.count('"accepted"') == 2
    assert [marker for marker in MARKERS if marker in said] == []
    assert str(good.StudyInstanceUID) not in said
    assert all("trace_id" in line for line in running.lines if line.get("step") == "intake")


def test_check_asks_the_running_listener(listen: Callable[..., Running], folder: Path) -> None:
    running = listen()
    port = str(running.scu.port)

    def check(port: str) -> subprocess.CompletedProcess[str]:
        command = [*IMAGING, "listen", "--check", "--data-dir", str(folder)]
        environment = {**running.environment, "LISTEN_PORT": port}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)

    found = check(port)
    assert (found.returncode, "C-ECHO answered" in found.stdout) == (0, True), found.stderr
    running.end(signal.SIGTERM)
    assert check(port).returncode == 1


def test_a_port_that_is_taken_is_named(listen: Callable[..., Running], folder: Path) -> None:
    first = listen()
    second = listen(LISTEN_PORT=str(first.scu.port))
    assert second.process.wait(60) == 1
    wait_for("its last words", lambda: any("LISTEN_PORT" in line for line in second.text))

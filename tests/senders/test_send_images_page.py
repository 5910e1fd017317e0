"""Every command of `docs/send_images.md` does what the page says, against the running processes."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imaging_core.database import Pool, unit_of_work
from imaging_core.settings import Settings
from tests import send_images_page
from tests.dicom_samples import instance, part10, png
from tests.end_to_end.conftest import wait_for
from tests.ingestion_functions.test_listen import pki
from tests.senders.conftest import ROOT, Ingestion, Listening, environment_of, free_port
from tests.senders.conftest import listening as plain_listening

__all__ = ["pki", "plain_listening"]


@pytest.fixture(scope="module")
def listening_with_tls(settings: Settings, pki: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    folder, port = tmp_path_factory.mktemp("listen-tls"), free_port()
    environment = environment_of(
        settings, LISTEN_PORT=str(port), LISTEN_TLS_CERT=str(pki / "server.pem"),
        LISTEN_TLS_KEY=str(pki / "server.key"), LISTEN_TLS_CA=str(pki / "ca.pem"),
    )  # fmt: skip
    command = [sys.executable, "-P", "-m", "imaging_core.cli", "listen", "--data-dir", str(folder)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)

    def open_for_calls() -> bool:
        assert process.poll() is None
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_for("the listener", open_for_calls)
    yield Listening("127.0.0.1", port, process)
    process.terminate()
    process.wait(60)


@pytest.fixture
def bench(
    ingestion: Ingestion, listening: Listening, listening_with_tls: Listening, settings: Settings, pki: Path,
    tmp_path: Path,
) -> dict[str, str]:  # fmt: skip
    """A folder with what the page's reader has, and the environment; the page's addresses become the test's."""
    (tmp_path / "study").mkdir()
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "in.dcm").write_bytes(part10(instance(PatientID="PAGE")))
    (tmp_path / "image.dcm").write_bytes(part10(instance(PatientID="PAGE")))
    for number in range(3):
        (tmp_path / "study" / f"{number}.dcm").write_bytes(part10(instance(PatientID="PAGE")))
    (tmp_path / "chest.png").write_bytes(png(seed=int.from_bytes(os.urandom(4), "big")))
    with zipfile.ZipFile(tmp_path / "cd.zip", "w") as archive:
        archive.writestr("1.dcm", part10(instance(PatientID="PAGE")))
    for name in ("client.key", "client.pem", "ca.pem"):
        shutil.copy(pki / name, tmp_path / name)
    # behind the rest: pynetdicom has programs of the same names as DCMTK's
    programs = f"{os.environ['PATH']}:{Path(sys.executable).parent}"
    return environment_of(
        settings, PATH=programs, DICOM_TLS_PORT=str(listening_with_tls.port), FOLDER=str(tmp_path),
        PAGE_URL=ingestion.url, PAGE_TOKEN=ingestion.token, PAGE_PORT=str(listening.port),
    )  # fmt: skip


def here(block: str, environment: dict[str, str]) -> str:
    """Return a block with the page's example addresses replaced."""
    for told, own in (
        ("https://imaging.hospital.example/api", environment["PAGE_URL"]),
        ("imaging.hospital.example", "127.0.0.1"),
        ("eyJ...", environment["PAGE_TOKEN"]),
        ("11112", environment["PAGE_PORT"]),
    ):
        block = block.replace(told, own)
    return block


def run(kind: str, block: str, environment: dict[str, str]) -> str:
    setup = here(send_images_page.blocks("en")[0][1], environment)
    command = ["bash", "-euo", "pipefail", "-c", setup + here(block, environment)]
    if kind == "python":
        (Path(environment["FOLDER"]) / "block.py").write_text(block)
        command[-1] = setup + f"{sys.executable} block.py"
    done = subprocess.run(
        command, cwd=environment["FOLDER"], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def accepted(pool: Pool, source: str) -> int:
    with unit_of_work(pool) as connection:
        row = connection.execute(
            "SELECT count(*) FROM ledger.intake WHERE source = %s AND outcome IN ('accepted', 'duplicate')", (source,)
        ).fetchone()
    return int(row[0]) if row else 0


def watch(block: str, environment: dict[str, str]) -> None:
    """Run a drop folder until what lies in it has been sent."""
    inbox = Path(environment["FOLDER"]) / "inbox"
    setup = here(send_images_page.blocks("en")[0][1], environment)
    command = ["bash", "-euo", "pipefail", "-c", setup + "exec " + here(block, environment)]
    process = subprocess.Popen(command, cwd=environment["FOLDER"], env=environment, stdout=subprocess.DEVNULL)
    try:
        wait_for("the drop folder", lambda: list(inbox.glob("sent/**/in.dcm")))
    finally:
        process.terminate()
        assert process.wait(60) == 0


RUN = [(kind, text) for kind, text in send_images_page.blocks("en") if kind in ("sh", "python")]


def test_every_command_of_the_page(bench: dict[str, str], pool: Pool) -> None:
    """In order, in one folder, as a reader does."""
    before = {source: accepted(pool, source) for source in ("stow", "image", "cstore", "drop")}
    said = [run(kind, text, bench) for kind, text in RUN if "--watch" not in text]
    for _, text in RUN:
        if "--watch" in text:
            watch(text, bench)
    assert len(said) >= 11
    assert json.loads(said[1])["status"] == "ok"
    told = wait_for("the drop", lambda: _done(run(*RUN[-3], bench)))
    assert told["totals"] == {"accepted": 2, "duplicate": 1}, json.dumps(told)
    assert [file["outcome"] for file in told["files"]] == ["unpacked", "accepted", "duplicate"]
    gained = {source: accepted(pool, source) - number for source, number in before.items()}
    # by STOW: one file, the folder by curl, by Python and by `imaging send`, and one by the drop folder;
    # by C-STORE: one, the folder, one over TLS
    assert gained == {"stow": 1 + 3 + 3 + 3 + 1, "image": 1, "cstore": 1 + 3 + 1, "drop": 3}


def _done(text: str) -> dict[str, Any] | None:
    told: dict[str, Any] = json.loads(text)
    return told if told["done"] else None


@pytest.mark.parametrize("language", ["en", "fr"])
def test_the_tables_are_current(language: str) -> None:
    text = send_images_page.PAGES[language].read_text("utf-8")
    assert text == send_images_page.page(language), "run `python -m tests.send_images_page`"


def test_both_languages_show_the_same_commands() -> None:
    assert send_images_page.blocks("fr") == send_images_page.blocks("en")
    headings = [
        [line for line in send_images_page.PAGES[language].read_text("utf-8").splitlines() if line.startswith("#")]
        for language in ("en", "fr")
    ]
    assert len(headings[0]) == len(headings[1])


def test_no_block_is_of_a_kind_that_nobody_runs() -> None:
    """JSON is Orthanc's configuration, with which the tests of Orthanc run."""
    kinds = [kind for kind, _ in send_images_page.blocks("en")]
    assert set(kinds) <= {"sh", "python", "json"}
    assert kinds.count("json") == 1
    assert (ROOT / "docs" / "send_images.md").exists()

"""`imaging send` against the running service: folders, refusals, limits, interruptions, the drop folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from ingestion_functions.drop_folder import DropFolder
from ingestion_functions.send_client import IngestClient, Sent
from tests.dicom_samples import instance, jpeg, part10, png
from tests.ingestion_functions.conftest import Running

IMAGING = (sys.executable, "-P", "-m", "imaging_core.cli")
PATIENT = {"patient-id": "S1", "birth-date": "1980-05-06", "family": "Martin"}


def call(running: Running, *arguments: str, token: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "INGEST_URL": running.url,
        "INGEST_AUTH": "developer",
        "INGEST_TOKEN": running.token if token is None else token,
        "COLUMNS": "200",
    }
    command = [*IMAGING, "send", *arguments]
    assert running.token not in " ".join(command)
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_a_folder_of_everything(running: Running, tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "one.dcm").write_bytes(part10(instance()))
    (tmp_path / "two").write_bytes(part10(instance()))
    (tmp_path / "three.png").write_bytes(png(seed=31))
    (tmp_path / "four.jpg").write_bytes(jpeg(seed=32))
    (tmp_path / "five.txt").write_text("no image")
    (tmp_path / ".hidden").write_text("left out")
    fields = [text for name, value in PATIENT.items() for text in (f"--{name}", value)]
    done = call(running, str(tmp_path), "--workers", "3", *fields)
    assert done.returncode == 1, done.stderr
    assert "2 accepted, 1 rejected, 2 stored" in done.stdout
    assert "not-dicom" in done.stdout
    assert "hidden" not in done.stdout
    (tmp_path / "five.txt").unlink()
    again = call(running, str(tmp_path), *fields)
    assert again.returncode == 0
    assert "2 duplicate, 2 stored" in again.stdout, "nothing is doubled by sending again"


def test_a_wrong_token_and_a_token_file(running: Running, tmp_path: Path) -> None:
    file = tmp_path / "one.dcm"
    file.write_bytes(part10(instance()))
    refused = call(running, str(file), token="wrong")
    assert refused.returncode == 1
    assert "unauthenticated" in refused.stdout
    secret = tmp_path / "token"
    secret.write_text(f"{running.token}\n")
    assert call(running, str(file), "--token-file", str(secret), token="wrong").returncode == 0


def test_nothing_to_send(running: Running, tmp_path: Path) -> None:
    assert call(running).returncode == 2
    empty = call(running, str(tmp_path))
    assert (empty.returncode, "no files" in empty.stdout) == (0, True)


@pytest.fixture
def busy() -> Iterator[tuple[str, list[str]]]:
    """A service that says 503 twice and then 413 to STOW, and takes direct drops."""
    seen: list[str] = []

    class Busy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            seen.append(f"POST {self.path}")
            stows = seen.count("POST /dicomweb/studies")
            if self.path == "/uploads":
                url = f"http://127.0.0.1:{self.server.server_port}/blob"  # type: ignore[attr-defined]
                self.say(
                    201, {"upload_id": "u", "files": [{"name": "x", "url": url, "headers": {"x-ms-blob-type": "B"}}]}
                )
            elif stows < 3:
                self.say(503, {"code": "storage-unavailable"}, **{"Retry-After": "1"})
            else:
                self.say(413, {"code": "body-too-large"})

        def do_PUT(self) -> None:
            seen.append(f"PUT {len(self.rfile.read(int(self.headers['Content-Length'])))}")
            self.say(201, {})

        def do_GET(self) -> None:
            seen.append(f"GET {self.path}")
            outcome = "accepted" if seen.count(f"GET {self.path}") > 1 else "waiting"
            self.say(200, {"files": [{"outcome": outcome, "reason": None, "study_uid": "1.2", "sop_uid": "1.2.3"}]})

        def say(self, status: int, body: object, **headers: str) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(content))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Busy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", seen
    server.shutdown()
    server.server_close()


def test_waits_as_asked_and_drops_what_is_too_large(busy: tuple[str, list[str]], tmp_path: Path) -> None:
    url, seen = busy
    file = tmp_path / "one.dcm"
    file.write_bytes(part10(instance()))
    with httpx.Client(base_url=url) as http:
        sent = IngestClient(http, lambda: "t").send(file, {})
    assert sent == Sent(file, "accepted", "", "1.2", "1.2.3")
    assert seen == [
        *["POST /dicomweb/studies"] * 3,
        "POST /uploads",
        f"PUT {file.stat().st_size}",
        *["GET /uploads/u"] * 2,
    ]


def test_gives_up_after_its_patience_and_says_so(tmp_path: Path) -> None:
    file = tmp_path / "one.dcm"
    file.write_bytes(part10(instance()))
    with httpx.Client(base_url="http://127.0.0.1:1") as http:
        sent = IngestClient(http, lambda: "t", patience_s=0.5).send(file, {})
    assert (sent.outcome, sent.undecided, sent.refused) == ("not sent", True, True)


def test_drop_folder_moves_what_is_decided(running: Running, tmp_path: Path) -> None:
    (tmp_path / "ward").mkdir()
    (tmp_path / "ward" / "one.dcm").write_bytes(part10(instance()))
    (tmp_path / "bad.dcm").write_bytes(part10(instance(RescaleSlope="0", RescaleIntercept="0")))
    (tmp_path / "two.dcm.part").write_bytes(b"still coming")
    growing = tmp_path / "growing.dcm"
    whole = part10(instance())
    growing.write_bytes(whole[:100])
    with running.client() as http:
        client = IngestClient(http, lambda: running.token)
        told: list[Sent] = []
        folder = DropFolder(tmp_path, lambda path: client.send(path, {}), workers=2, tell=told.append)
        assert folder.look() == 0, "nothing is taken at the first look"
        growing.write_bytes(whole[:200])
        assert folder.look() == 2
        growing.write_bytes(whole)
        assert folder.look() == 0
        assert folder.look() == 1
    assert (tmp_path / "sent" / "ward" / "one.dcm").exists()
    assert (tmp_path / "sent" / "growing.dcm").read_bytes() == whole
    assert (tmp_path / "refused" / "bad.dcm").exists()
    reason = json.loads((tmp_path / "refused" / "bad.dcm.reason").read_text())
    assert (reason["outcome"], reason["path"]) == ("rejected", "bad.dcm")
    assert reason["reason"].startswith("C000")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["refused", "sent", "two.dcm.part", "ward"]


def test_drop_folder_keeps_what_could_not_be_sent_and_both_of_one_name(tmp_path: Path) -> None:
    file = tmp_path / "one.dcm"
    answers: list[Callable[[Path], Sent]] = [
        lambda path: Sent(path, "not sent", "away"),
        lambda path: Sent(path, "stored"),
        lambda path: Sent(path, "stored"),
    ]
    folder = DropFolder(tmp_path, lambda path: answers.pop(0)(path), workers=1, tell=lambda _: None)
    for content in (b"first", b"second"):
        file.write_bytes(content)
        folder.look()
        if content == b"first":
            assert folder.look() == 1
            assert file.exists()
        assert folder.look() == 1
        assert not file.exists()
    assert sorted(item.read_bytes() for item in (tmp_path / "sent").iterdir()) == [b"first", b"second"]


def test_watch_survives_a_kill_and_ends_on_sigterm(running: Running, tmp_path: Path) -> None:
    environment = {
        **os.environ, "INGEST_URL": running.url, "INGEST_AUTH": "developer", "INGEST_TOKEN": running.token,
        "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    command = [*IMAGING, "send", "--watch", str(tmp_path), "--interval", "0.2"]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    def until(done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not done():
            assert time.monotonic() < deadline
            time.sleep(0.1)

    sent = tmp_path / "sent"
    first = start()
    for number in range(5):
        (tmp_path / f"{number}.dcm").write_bytes(part10(instance()))
    until(lambda: sent.exists() and len(list(sent.iterdir())) >= 1)
    first.kill()
    first.wait(10)
    second = start()
    assert second.stdout is not None
    assert "watching" in second.stdout.readline(), "before that a signal ends it as any process"
    until(lambda: len(list(sent.iterdir())) == 5)
    second.send_signal(signal.SIGTERM)
    second.communicate(timeout=30)
    assert second.returncode == 0

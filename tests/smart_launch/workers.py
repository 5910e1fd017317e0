"""gunicorn with the example application: two processes over TLS, access log as it comes, debug log on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import urllib3

from infra.local.ca import Certificates
from tests.smart_launch.browser import Browser

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Workers:
    """A running gunicorn."""

    origin: str
    log: Path
    certificates: Certificates

    def browser(self) -> Browser:
        return Browser(str(self.certificates.ca_file))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def serving_workers(
    folder: Path, port: int, registrations: str, *, database_url: str, keys: str, certificates: Certificates
) -> Iterator[Workers]:
    """Serve the example application at a port, with the text of a registrations file."""
    file, log = folder / "ehrs.toml", folder / "gunicorn.log"
    file.write_text(registrations, "utf-8")
    found = Workers(f"https://app.localhost:{port}", log, certificates)
    environment = {
        **os.environ,
        "SERVED_REGISTRATIONS": str(file),
        "SERVED_DATABASE_URL": database_url,
        "SERVED_KEYS": keys,
        "SERVED_BASE_URL": found.origin,
        "PYTHONPATH": str(ROOT),
    }
    options = ["--workers", "2", "--threads", "4", "--log-level", "debug", "--access-logfile", "-"]
    command = [
        sys.executable, "-m", "gunicorn", *options, "--bind", f"127.0.0.1:{port}",
        "--certfile", str(certificates.certificate), "--keyfile", str(certificates.key),
        "tests.smart_launch.served_app:app",
    ]  # fmt: skip
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT)
        try:
            _wait(found, process)
            yield found
        finally:
            process.terminate()
            process.wait(20)


def _wait(workers: Workers, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while True:
        assert process.poll() is None, workers.log.read_text("utf-8")
        try:
            if workers.browser().get(f"{workers.origin}/.well-known/jwks.json").status == 200:
                return
        except urllib3.exceptions.HTTPError:
            pass
        assert time.monotonic() < end, workers.log.read_text("utf-8")
        time.sleep(0.05)  # a bounded wait for a process to listen

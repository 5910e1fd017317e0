"""Two FHIR R4 servers of other authors, each started for the tests on a free port behind a bearer token."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import yaml

from tests import fhir_validation

__all__ = ["FOLDER", "install", "medplum", "sekmet"]

FOLDER = Path(__file__).parent
_PATIENCE_S = 60.0


def install() -> None:
    """Install the npm packages by their lock file, where they are not yet there."""
    if not (FOLDER / "node_modules" / "@medplum" / "fhir-router").is_dir():
        command = [fhir_validation.program("npm"), "ci", "--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run(command, cwd=FOLDER, check=True, timeout=300, env=fhir_validation.environment())


@contextlib.contextmanager
def medplum(folder: Path, token: str) -> Iterator[str]:
    """Run @medplum/fhir-router with its repository in memory; give its base URL."""
    install()
    command = [fhir_validation.program("node"), "--experimental-websocket", str(FOLDER / "medplum.mjs")]
    environment = {**fhir_validation.environment(), "FHIR_TOKEN": token}
    with (folder / "medplum.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment, text=True)
        try:
            yield _first_line(process)
        finally:
            _stop(process)


@contextlib.contextmanager
def sekmet(folder: Path, token: str) -> Iterator[str]:
    """Run sekmet-fhir; give its base URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    base = f"http://127.0.0.1:{port}/fhir"
    config = folder / "settings.yaml"
    settings = {
        "base_url": base,
        "host": "127.0.0.1",
        "port": port,
        "data_dir": str(folder / "data"),
        "log_inbound": False,
        "simulator": {"enabled": False},
        "server_auth": {"types": ["bearer"], "tokens": [token]},
    }
    config.write_text(yaml.safe_dump(settings))
    program = Path(sys.executable).with_name("sekmet")
    with (folder / "sekmet.log").open("wb") as log:
        process = subprocess.Popen([str(program), "serve", "-c", str(config)], stdout=log, stderr=log, text=True)
        try:
            _wait_until_up(base, token, process)
            yield base
        finally:
            _stop(process)


def _first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        assert selector.select(_PATIENCE_S), "the FHIR server did not come up"
    line = process.stdout.readline().strip()
    assert line.startswith("http"), "the FHIR server ended"
    return line


def _wait_until_up(base: str, token: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "the FHIR server ended"
        try:
            if httpx.get(f"{base}/metadata", headers={"Authorization": f"Bearer {token}"}).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.1)
    raise AssertionError("the FHIR server did not come up")


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, 9)
        process.wait(10)

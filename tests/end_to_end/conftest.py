"""The whole stack, started as a user starts it, on free ports and in a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom.data import get_testdata_file

from infra.local.commands import stop_stack
from infra.local.configuration import Layout
from tests.conftest import free_ports, open_folder
from tests.smart_launch.sandbox import Sandbox

IMAGING = (sys.executable, "-P", "-m", "imaging_core.cli")
DONE = ("analysed", "not_analysed", "no_model", "failed", "held")


@dataclass
class Stack:
    """A running stack, seen from outside: through `imaging status` and the addresses it tells."""

    folder: Path
    environment: dict[str, str] = field(default_factory=lambda: {**os.environ, **free_ports()})

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Call `imaging`."""
        return subprocess.run(
            [*IMAGING, *arguments], env=self.environment, capture_output=True, text=True, check=check, timeout=300
        )

    def up(self) -> None:
        done = self.run("up", "--data-dir", str(self.folder), check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def status(self) -> dict[str, Any]:
        done = self.run("status", "--json", "--secrets", "--data-dir", str(self.folder))
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def url(self, part: str) -> str:
        return str(self.status()["parts"][part]["url"])

    def sandbox(self) -> Sandbox:
        """Return the sandbox EHR, to be asked as its browsers and apps do and for variations."""
        parts = self.status()["parts"]
        return Sandbox(
            origin=parts["ehr"]["url"],
            app_origin=parts["app"]["url"],
            ca_file=str(self.folder / "keys" / "ca.pem"),
            control_token=parts["ehr"]["token"],
        )

    def client(self, part: str) -> httpx.Client:
        """Return a client of a part, with its token."""
        found = self.status()["parts"][part]
        return httpx.Client(
            base_url=found["url"], headers={"Authorization": f"Bearer {found['token']}"}, timeout=httpx.Timeout(60)
        )


def wait_for(what: str, check: Callable[[], Any], seconds: float = 90.0) -> Any:
    """Return what `check` returns once it is true; fail, naming `what`, after the bound."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = check()
        if found:
            return found
        time.sleep(0.1)
    pytest.fail(f"waited {seconds:g} s for {what}")


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Every part, started once for all end-to-end tests that leave it as they found it."""
    started = Stack(open_folder())
    started.up()
    yield started
    stop_stack(Layout.at(started.folder))


def sample(name: str) -> Path:
    """Return a file of pydicom or pydicom-data."""
    found = get_testdata_file(name)
    assert isinstance(found, str), f"{name} is missing: is pydicom-data installed?"
    return Path(found)


def state_of(ingestion: httpx.Client, intake_id: str) -> dict[str, Any] | None:
    """Return a delivery's progress once its study's way has ended."""
    found: dict[str, Any] = ingestion.get(f"/intake/{intake_id}").raise_for_status().json()
    study = found.get("study")
    return found if study is None or study["state"] in DONE else None

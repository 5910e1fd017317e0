"""Memory of the ingestion while it takes in one request of 200 MB: the host's process and its children, PSS."""

from __future__ import annotations

import http.client
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import psutil

from infra.local.commands import stop_stack
from infra.local.configuration import Layout
from tests.benchmarks.stow_rate import cr_instances, mr_instances, start_stack
from tests.dicom_samples import multipart

__all__ = ["Peak", "family_pss", "run"]


def run() -> list[str]:
    """Return the section's lines."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        part = start_stack(Path(folder))["ingestion"]
        try:
            rows = [_row(part, title, made) for title, made in (("29 CR", _cr), ("1,500 MR", _mr))]
        finally:
            stop_stack(Layout.at(Path(folder)))
    return [
        "## Memory of one request at the limit",
        "",
        "Proportional set size of the Functions host and all its children, sampled every 20 ms.",
        "",
        "| request | bytes | before | peak | peak / request | after | seconds |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
    ]


def _cr() -> list[bytes]:
    return cr_instances(29)


def _mr() -> list[bytes]:
    return mr_instances(1500)


def _row(part: dict[str, str], title: str, made: Callable[[], Sequence[bytes]]) -> str:
    body, kind = multipart(*made())
    address = urlsplit(part["url"])
    pid = int(part["pids"][0])
    before = family_pss(pid)
    begun = time.monotonic()
    with Peak(pid) as peak:
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=230)
        headers = {"Content-Type": kind, "Authorization": f"Bearer {part['token']}"}
        connection.request("POST", f"{address.path}/dicomweb/studies", body, headers)
        response = connection.getresponse()
        response.read()
    seconds = time.monotonic() - begun
    if response.status != 200:
        raise RuntimeError(f"answered {response.status}")
    mib = 2**20
    return (
        f"| {title} | {len(body) / mib:.0f} MiB | {before / mib:.0f} MiB | {peak.most / mib:.0f} MiB "
        f"| {peak.most / len(body):.2f} | {family_pss(pid) / mib:.0f} MiB | {seconds:.1f} |"
    )


class Peak:
    """Samples the memory of a process and its children while the block runs."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self.most = 0

    def _sample(self) -> None:
        while not self._stop.wait(0.02):
            self.most = max(self.most, family_pss(self._pid))

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def family_pss(pid: int) -> int:
    """Return the proportional set size of a process and its children, in bytes."""
    total = 0
    parent = psutil.Process(pid)
    for process in [parent, *parent.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total


if __name__ == "__main__":
    sys.stdout.write("\n".join(run()))

"""C-STORE instances a second, next to Orthanc, DCMTK's storescp and raw Azurite puts: same bytes, same run.

Each client is a `storescu` of DCMTK with a folder and one association. storescp only writes files: it bounds what the
sender itself can do. The targets take turns, each turn with instances that none has seen.
"""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from infra.local.commands import stop_stack
from infra.local.configuration import Layout
from tests.benchmarks.orthanc import orthanc_server
from tests.benchmarks.stow_rate import Target, azurite_puts, cr_instances, mr_instances, send_all, start_stack

__all__ = ["run"]

CLIENTS = 4
ROUNDS = 3


def run() -> list[str]:
    """Return the section's lines."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o711)
        status = start_stack(folder)
        try:
            with (
                orthanc_server(folder, status["postgres"]["token"]) as peer,
                _listener(folder) as own,
                _storescp(folder) as plain,
            ):
                ports = {"imaging": own, "orthanc": peer.dicom_port, "storescp": plain}
                rows = [
                    _row(folder, title, size, made, ports, status["blob"]["token"])
                    for title, size, made in (("MR, 133 KB", 200, mr_instances), ("CR, 7.2 MB", 16, cr_instances))
                ]
        finally:
            stop_stack(Layout.at(folder))
    return [
        "## C-STORE rate",
        "",
        f"{CLIENTS} `storescu` of DCMTK at once, one association each; median of {ROUNDS} turns of each target. The",
        "last ratio is to raw puts of the same bytes into the same Azurite.",
        "",
        "| instances | this | Orthanc | ratio | storescp | ratio | Azurite puts | ratio |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
        "",
        peer.title,
        "",
    ]


def _row(
    folder: Path, title: str, size: int, made: Callable[[int], list[bytes]], ports: dict[str, int], storage: str
) -> str:
    rates: dict[str, list[float]] = {name: [] for name in (*ports, "azurite")}
    floor = Target("azurite", lambda: azurite_puts(storage))
    for turn in range(ROUNDS + 1):
        for name, port in ports.items():
            rate = _send(folder, made(size), port)
            if turn:  # the first one warms up
                rates[name].append(rate)
        if turn:
            rates["azurite"].append(send_all(floor, made(size), 1, CLIENTS))
    own, orthanc, plain, puts = (statistics.median(rates[name]) for name in (*ports, "azurite"))
    return (
        f"| {title} | {own:.0f}/s | {orthanc:.0f}/s | {own / orthanc:.2f} | {plain:.0f}/s | {own / plain:.2f} "
        f"| {puts:.0f}/s | {own / puts:.2f} |"
    )


def _send(folder: Path, files: Sequence[bytes], port: int) -> float:
    """Send `files` by several storescu; return instances a second."""
    sent = folder / "sent"
    for client in range(CLIENTS):
        (sent / str(client)).mkdir(parents=True)
        for number, data in enumerate(files[client::CLIENTS]):
            (sent / str(client) / f"{number}.dcm").write_bytes(data)
    command = ["storescu", "+sd", "-aet", "BENCH", "-aec", "IMAGING", "-pdu", "131072", "127.0.0.1", str(port)]
    begun = time.monotonic()
    senders = [subprocess.Popen([*command, str(sent / str(client))]) for client in range(CLIENTS)]
    failed = [sender.wait(300) for sender in senders]
    seconds = time.monotonic() - begun
    shutil.rmtree(sent)
    if any(failed):
        raise RuntimeError(f"storescu to port {port} failed")
    return len(files) / seconds


@contextmanager
def _listener(folder: Path) -> Iterator[int]:
    port = _free_port()
    command = [sys.executable, "-P", "-m", "imaging_core.cli", "listen", "--data-dir", str(folder)]
    with _running(command, folder / "listen.log", port, {"LISTEN_PORT": str(port)}):
        yield port


@contextmanager
def _storescp(folder: Path) -> Iterator[int]:
    port = _free_port()
    (folder / "storescp").mkdir()
    command = ["storescp", "--fork", "-pdu", "131072", "-od", str(folder / "storescp"), "-aet", "IMAGING", str(port)]
    with _running(command, folder / "storescp.log", port, {}):
        yield port


@contextmanager
def _running(command: Sequence[str], log: Path, port: int, environment: dict[str, str]) -> Iterator[None]:
    with log.open("wb") as file:
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=file, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 60
        while not _serves(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not start: {log.read_text('utf-8', 'replace')[-500:]}")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(60)


def _serves(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.stdout.write("\n".join(run()))

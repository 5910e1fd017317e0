"""STOW-RS instances a second, next to raw Azurite puts and to Orthanc: same bytes, same clients, same run.

Each client is a process of its own with one kept connection, so that no sender waits for another's interpreter. The
targets take turns, each turn with instances that none has seen, so that what else the machine does meets all of them.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.data import get_testdata_file
from pydicom.uid import MRImageStorage, generate_uid

from infra.local.commands import stop_stack
from infra.local.configuration import Layout
from tests.benchmarks.orthanc import Orthanc, orthanc_server
from tests.conftest import free_ports
from tests.dicom_samples import instance, multipart, part10

__all__ = ["cr_instances", "mr_instances", "ours", "run", "start_stack"]

CLIENTS = 4
ROUNDS = 3
Send = Callable[[Sequence[bytes]], None]


@dataclass(frozen=True)
class Target:
    """Where instances are sent; `opener` runs in the client's process and returns what sends one request."""

    name: str
    opener: Callable[[], Send]


@dataclass
class Rates:
    """Instances a second of each turn."""

    turns: dict[str, list[float]] = field(default_factory=dict)

    def of(self, name: str) -> float:
        """Return the median of a target's turns."""
        return statistics.median(self.turns[name])


def run() -> list[str]:
    """Return the section's lines."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        status = start_stack(Path(folder))
        try:
            return _measure(status, Path(folder))
        finally:
            stop_stack(Layout.at(Path(folder)))


def start_stack(folder: Path) -> dict[str, dict[str, str]]:
    """Start the parts that intake needs; return `imaging status --json`'s parts."""
    imaging = [sys.executable, "-P", "-m", "imaging_core.cli"]
    environment = {**os.environ, **free_ports()}
    up = [*imaging, "up", "--detach", "--data-dir", str(folder), "--only", "postgres,blob,fhir,ingestion"]
    subprocess.run(up, env=environment, check=True, stdout=subprocess.DEVNULL)
    status = [*imaging, "status", "--json", "--secrets", "--data-dir", str(folder)]
    done = subprocess.run(status, env=environment, check=True, capture_output=True, text=True)
    found: dict[str, dict[str, str]] = json.loads(done.stdout)["parts"]
    return found


def _measure(status: dict[str, dict[str, str]], folder: Path) -> list[str]:
    lines = [
        "## STOW-RS rate",
        "",
        f"{CLIENTS} clients, each a process with one kept connection; median of {ROUNDS} turns of each target.",
        "The floor is `upload_blob` of the SDK on the same Azurite. The steps that follow intake run meanwhile.",
        "",
        "| instances | instances a request | Azurite puts | this | ratio | Orthanc | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    with orthanc_server(folder, status["postgres"]["token"]) as peer:
        for title, size, made, a_request in (
            ("MR, 133 KB", 240, mr_instances, 1),
            ("MR, 133 KB", 480, mr_instances, 10),
            ("CR, 7.2 MB", 24, cr_instances, 1),
        ):
            lines.append(_row(title, size, made, a_request, status, peer))
        again = _again(status)
        lines += ["", peer.title, "", again, ""]
    return lines


def _row(
    title: str,
    size: int,
    made: Callable[[int], list[bytes]],
    a_request: int,
    status: dict[str, dict[str, str]],
    peer: Orthanc,
) -> str:
    azurite = Target("azurite", lambda: azurite_puts(status["blob"]["token"]))
    mine = ours(status["ingestion"])
    other = Target("orthanc", lambda: stow(f"{peer.url}/dicom-web", ""))
    rates = Rates()
    for target in (azurite, mine, other):
        send_all(target, made(CLIENTS * a_request), a_request)  # to warm up
    for _ in range(ROUNDS):
        files = made(size)
        for target in (azurite, mine, other):
            rates.turns.setdefault(target.name, []).append(send_all(target, files, a_request))
    floor, rate, their = rates.of("azurite"), rates.of(mine.name), rates.of("orthanc")
    return (
        f"| {title} | {a_request} | {floor:.0f}/s | {rate:.0f}/s | {rate / floor:.2f} | {their:.0f}/s "
        f"| {rate / their:.2f} |"
    )


def _again(status: dict[str, dict[str, str]]) -> str:
    files = mr_instances(200)
    mine = ours(status["ingestion"])
    first = send_all(mine, files, 1)
    second = send_all(mine, files, 1)
    ratio = second / first
    return f"The same {len(files)} MR instances again, one a request: {second:.0f}/s ({ratio:.2f} of the first time)."


def ours(part: dict[str, str]) -> Target:
    """Return the ingestion as a target."""
    return Target("imaging", lambda: stow(f"{part['url']}/dicomweb", part["token"]))


def stow(base: str, token: str) -> Send:
    """Return what sends one STOW-RS request, and fails unless everything was stored."""
    address = urlsplit(base)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=120)
    path = f"{address.path}/studies"

    def send(files: Sequence[bytes]) -> None:
        body, kind = multipart(*files)
        headers = {"Content-Type": kind, "Accept": "application/dicom+json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise RuntimeError(f"{base}: {response.status} {answer[:300]!r}")

    return send


def azurite_puts(connection_string: str) -> Send:
    """Return what puts each file as a blob."""
    from azure.core.exceptions import ResourceExistsError
    from azure.storage.blob import BlobServiceClient

    service = BlobServiceClient.from_connection_string(connection_string)
    container = service.get_container_client("benchmark")
    with contextlib.suppress(ResourceExistsError):
        container.create_container()

    def send(files: Sequence[bytes]) -> None:
        for data in files:
            container.get_blob_client(generate_uid()).upload_blob(data)

    return send


def send_all(target: Target, files: Sequence[bytes], a_request: int, clients: int = CLIENTS) -> float:
    """Send `files` from several processes; return instances a second, from the common start to the last answer."""
    context = multiprocessing.get_context("fork")
    ready, go = context.Barrier(clients + 1), context.Event()
    shares = [files[number::clients] for number in range(clients)]
    processes = [context.Process(target=_client, args=(target, share, a_request, ready, go)) for share in shares]
    for process in processes:
        process.start()
    ready.wait(60)
    begun = time.monotonic()
    go.set()
    for process in processes:
        process.join()
    seconds = time.monotonic() - begun
    if any(process.exitcode for process in processes):
        raise RuntimeError(f"a client of {target.name} failed")
    return len(files) / seconds


def _client(target: Target, files: Sequence[bytes], a_request: int, ready: object, go: object) -> None:
    send = target.opener()
    ready.wait(60)  # type: ignore[attr-defined]  # multiprocessing's classes are made by their context
    go.wait(60)  # type: ignore[attr-defined]
    for start in range(0, len(files), a_request):
        send(files[start : start + a_request])


def mr_instances(count: int) -> list[bytes]:
    """Return MR instances of 133 KB, 20 a series, one study for all."""
    pixels = (np.random.default_rng(7).normal(400, 80, (256, 256)).clip(0, 4095)).astype("<u2").tobytes()
    study, patient = generate_uid(), f"B{generate_uid()[-10:]}"
    template = instance(
        SOPClassUID=MRImageStorage, Modality="MR", StudyInstanceUID=study, PatientID=patient, PixelData=pixels,
        Rows=256, Columns=256, ScanningSequence="SE", SequenceVariant="NONE", ScanOptions="", MRAcquisitionType="2D",
        EchoTime="12", EchoTrainLength="1", RepetitionTime="500", FrameOfReferenceUID=generate_uid(), StudyID="1",
        PixelSpacing=["0.9", "0.9"], ImageOrientationPatient=["1", "0", "0", "0", "1", "0"], SliceThickness="5",
        ImageType=["ORIGINAL", "PRIMARY"], BitsStored=12, HighBit=11, WindowCenter="400", WindowWidth="800",
        Manufacturer="Example",
    )  # fmt: skip
    return _numbered(template, count)


def cr_instances(count: int) -> list[bytes]:
    """Return CR instances of 7.2 MB: pydicom-data's RG1, numbered."""
    template = pydicom.dcmread(str(get_testdata_file("RG1_UNCR.dcm")))
    template.StudyInstanceUID = generate_uid()
    template.PatientID = f"B{generate_uid()[-10:]}"
    return _numbered(template, count)


def _numbered(template: Dataset, count: int) -> list[bytes]:
    files = []
    for number in range(count):
        if number % 20 == 0:
            template.SeriesInstanceUID = generate_uid()
        template.SOPInstanceUID = template.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        template.InstanceNumber = number + 1
        if "ImageOrientationPatient" in template:
            template.ImagePositionPatient = ["0", "0", str(number)]
        files.append(part10(template))
    return files


if __name__ == "__main__":
    sys.stdout.write("\n".join(run()))

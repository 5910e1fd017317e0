"""Time from upload to a report that an EHR can read, images per minute, and each part's memory, on a warm stack."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import psutil

from fhir_adapter.diagnostic_report import report_id
from infra.local.commands import stop_stack
from infra.local.configuration import Layout
from infra.local.demo_images import DemoImage, sample_images
from tests.dicom_samples import multipart
from tests.end_to_end.conftest import Stack, wait_for

__all__ = ["run"]

WARM_UP = 5
IMAGES = 50


def run(samples: Path) -> list[str]:
    """Return the section's lines."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        stack = Stack(Path(folder))
        begun = time.monotonic()
        stack.up()
        first_start = time.monotonic() - begun
        stop_stack(Layout.at(stack.folder))
        begun = time.monotonic()
        stack.up()
        second_start = time.monotonic() - begun
        try:
            images, _ = sample_images(samples, 0)
            return _measure(stack, images, first_start, second_start)
        finally:
            stop_stack(Layout.at(stack.folder))


def _measure(stack: Stack, images: Sequence[DemoImage], first_start: float, second_start: float) -> list[str]:
    one_by_one = images[: WARM_UP + IMAGES]
    with stack.client("ingestion") as ingestion, stack.client("fhir") as fhir:
        seconds = [_until_report(ingestion, fhir, image) for image in one_by_one][WARM_UP:]
        floor = _floor(stack, [image.data for image in one_by_one[WARM_UP:]])
        rest = images[WARM_UP + IMAGES : WARM_UP + 4 * IMAGES]
        begun = time.monotonic()
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda image: _send(ingestion, image), rest))
        wait_for("the end of the burst", lambda: stack.status()["ledger"]["pending"] == 0, 600)
        rate = len(rest) / (time.monotonic() - begun) * 60
    ordered = sorted(seconds)
    p50, p95 = statistics.median(ordered), ordered[int(len(ordered) * 0.95) - 1]
    lines = [
        "## Upload to readable preliminary report",
        "",
        f"{IMAGES} adult chest radiographs (512 px JPEG wrapped as DICOM), one after the other by STOW-RS,",
        f"after {WARM_UP} to warm up; the clock stops when `GET DiagnosticReport` answers 200.",
        "The burst is sent by 4 clients at once.",
        "",
        "| figure | value |",
        "|---|---|",
        f"| p50 | {p50:.2f} s |",
        f"| p95 | {p95:.2f} s |",
        f"| floor: the same bytes put into Azurite, p50 | {floor * 1000:.0f} ms (ratio {p50 / floor:.0f}) |",
        f"| images per minute in a burst of {len(rest)} | {rate:.0f} |",
        f"| first start to ready (empty data folder) | {first_start:.1f} s |",
        f"| second start to ready | {second_start:.1f} s |",
        "",
        "| part | memory (proportional set size of its processes) |",
        "|---|---|",
    ]
    for name, part in stack.status()["parts"].items():
        lines.append(f"| {name} | {_memory(part['pids']) / 2**20:.0f} MiB |")
    return [*lines, ""]


def _send(ingestion: httpx.Client, image: DemoImage) -> None:
    body, kind = multipart(image.data)
    response = ingestion.post("/dicomweb/studies", content=body, headers={"Content-Type": kind})
    response.raise_for_status()


def _until_report(ingestion: httpx.Client, fhir: httpx.Client, image: DemoImage) -> float:
    begun = time.monotonic()
    body, kind = multipart(image.data)
    response = ingestion.post("/dicomweb/studies", content=body, headers={"Content-Type": kind})
    url = response.raise_for_status().json()["00081190"]["Value"][0]
    report = report_id(url.rsplit("/", 1)[1], "chest-opacity", 0)
    while fhir.get(f"/DiagnosticReport/{report}").status_code != 200:
        if time.monotonic() - begun > 60:
            raise TimeoutError(f"no report for {image.title} after 60 s")
        time.sleep(0.01)
    return time.monotonic() - begun


def _floor(stack: Stack, files: Sequence[bytes]) -> float:
    """Return the median time of one blob put of the same bytes."""
    from azure.storage.blob import BlobServiceClient

    service = BlobServiceClient.from_connection_string(stack.status()["parts"]["blob"]["token"])
    service.create_container("benchmark")
    seconds = []
    for number, data in enumerate(files):
        begun = time.monotonic()
        service.get_blob_client("benchmark", str(number)).upload_blob(data)
        seconds.append(time.monotonic() - begun)
    return statistics.median(seconds)


def _memory(pids: Sequence[int]) -> int:
    total = 0
    for pid in pids:
        try:
            total += psutil.Process(pid).memory_full_info().pss
        except psutil.Error:
            continue
    return total

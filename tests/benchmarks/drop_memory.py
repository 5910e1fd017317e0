"""Memory of the ingestion while a large direct drop is taken in: the host's process and its children, PSS.

By default 40 CR instances; ``--full`` drops 300, 2 GB in all (``python -m tests.benchmarks.drop_memory --full``).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from infra.local.commands import stop_stack
from infra.local.configuration import Layout
from tests.benchmarks.stow_memory import Peak, family_pss
from tests.benchmarks.stow_rate import cr_instances, start_stack

__all__ = ["run"]

INSTANCES, ALL = 40, 300
_MIB = 2**20
_PATIENCE_S = 600.0


def run(instances: int = INSTANCES) -> list[str]:
    """Return the section's lines."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        part = start_stack(Path(folder))["ingestion"]
        try:
            row = _row(part, instances)
        finally:
            stop_stack(Layout.at(Path(folder)))
    return [
        "## Memory of a direct drop",
        "",
        "All files written first and taken in while more come; proportional set size of the Functions host and all its",
        "children, sampled every 20 ms.",
        "",
        "| drop | bytes | before | peak | after | instances a second |",
        "|---|---|---|---|---|---|",
        row,
        "",
    ]


def _row(part: dict[str, Any], instances: int) -> str:
    pid = int(part["pids"][0])
    headers = {"Authorization": f"Bearer {part['token']}"}
    sizes: list[int] = []
    with httpx.Client(base_url=part["url"], headers=headers, timeout=60) as client:
        warm, _ = _drop(client, 1)
        _wait(client, warm)
        before = family_pss(pid)
        begun = time.monotonic()
        with Peak(pid) as peak:
            uploads = []
            for _ in range(0, instances, 20):
                upload, written = _drop(client, min(20, instances))
                uploads.append(upload)
                sizes += written
            outcomes = [_wait(client, upload) for upload in uploads]
        seconds = time.monotonic() - begun
    accepted = sum(outcome.get("accepted", 0) for outcome in outcomes)
    if accepted != len(sizes):
        raise RuntimeError(f"{accepted} of {len(sizes)} accepted: {outcomes}")
    return (
        f"| {len(sizes)} CR | {sum(sizes) / _MIB:.0f} MiB | {before / _MIB:.0f} MiB | {peak.most / _MIB:.0f} MiB "
        f"| {family_pss(pid) / _MIB:.0f} MiB | {len(sizes) / seconds:.1f} |"
    )


def _drop(client: httpx.Client, number: int) -> tuple[str, Sequence[int]]:
    """Announce and write so many instances; return the upload and their sizes."""
    files = cr_instances(number)
    wanted = {"files": [{"name": f"{at}.dcm", "bytes": len(data)} for at, data in enumerate(files)]}
    opened = client.post("/uploads", json=wanted).raise_for_status().json()
    for file, data in zip(opened["files"], files, strict=True):
        httpx.put(file["url"], content=data, headers=file["headers"], timeout=60).raise_for_status()
    return str(opened["upload_id"]), [len(data) for data in files]


def _wait(client: httpx.Client, upload: str) -> dict[str, int]:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        told = client.get(f"/uploads/{upload}").raise_for_status().json()
        if told["done"]:
            found: dict[str, int] = told["totals"]
            return found
        time.sleep(0.2)
    raise TimeoutError(f"upload {upload} is not done")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true", help=f"{ALL} instances, 2 GB")
    sys.stdout.write("\n".join(run(ALL if parser.parse_args().full else INSTANCES)))

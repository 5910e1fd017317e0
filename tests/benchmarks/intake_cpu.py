"""What intake's reading of an instance costs in CPU time, beside what it can't cost less than.

The floor: pydicom's walk over every element without pixels, and one SHA-256 of the bytes. Intake: the SHA-256 of the
delivery, and `DecodePool.header`: parsing in a child, the way there and back, hashes of data set and pixels; the CPU
time of both processes, user and system. The ratio may be 2 at most.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from imaging_core.dicom.child import DecodePool

__all__ = ["run"]

LIMIT = 2.0
_TICKS = os.sysconf("SC_CLK_TCK")


def _samples() -> dict[str, bytes]:
    """Return real instances of the two sizes: a radiograph, and an MR slice at 256 x 256."""
    radiograph = get_testdata_file("RG1_UNCR.dcm")
    slice_of_mr = get_testdata_file("MR_small.dcm")
    assert isinstance(radiograph, str)
    assert isinstance(slice_of_mr, str)
    dataset = dcmread(slice_of_mr)
    dataset.PixelData = np.tile(dataset.pixel_array, (4, 4)).tobytes()
    dataset.Rows = dataset.Columns = 256
    dataset.SOPInstanceUID = generate_uid()
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return {"MR, 133 KB": out.getvalue(), "CR, 7 MB": Path(radiograph).read_bytes()}


def _floor(data: bytes) -> None:
    for element in dcmread(io.BytesIO(data), stop_before_pixels=True).iterall():
        element.value  # noqa: B018  # reading it converts it
    hashlib.sha256(data).hexdigest()


def _cpu_s(process: int | None) -> float:
    times = os.times()
    spent = times.user + times.system
    if process is not None:
        fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
        spent += (int(fields[11]) + int(fields[12])) / _TICKS
    return spent


def _each_ms(call: Callable[[], object], repeat: int, process: int | None) -> float:
    call()
    before = _cpu_s(process)
    for _ in range(repeat):
        call()
    return (_cpu_s(process) - before) / repeat * 1000


def run(rounds: int = 5) -> list[str]:
    """Measure in turns, so that a busy moment falls on both; return the lines of a page."""
    lines = [
        "## CPU of intake's reading",
        "",
        f"Per instance, median of {rounds} turns; at most {LIMIT:g} x the floor (`tests/benchmarks/intake_cpu.py`).",
        "",
        "| instance | floor: element walk + SHA-256 | intake | ratio |",
        "|---|---|---|---|",
    ]
    with DecodePool(workers=1) as pool:
        child = pool.run(os.getpid)
        for name, data in _samples().items():
            repeat = 400 if len(data) < 1_000_000 else 60

            def intake(data: bytes = data) -> None:
                hashlib.sha256(data).hexdigest()
                pool.header(data)

            floors, spent = [], []
            for _ in range(rounds):
                floors.append(_each_ms(lambda data=data: _floor(data), repeat, None))  # type: ignore[misc]  # bound now
                spent.append(_each_ms(intake, repeat, child))
            ratio = float(np.median([mine / floor for mine, floor in zip(spent, floors, strict=True)]))
            verdict = "" if ratio <= LIMIT else " **above**"
            lines.append(f"| {name} | {np.median(floors):.2f} ms | {np.median(spent):.2f} ms | {ratio:.2f}{verdict} |")
    return [*lines, ""]


if __name__ == "__main__":
    print("\n".join(run()))

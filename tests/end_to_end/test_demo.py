"""The demo, as a user runs it: one command, every image to its end, nothing left running."""

from __future__ import annotations

from pathlib import Path

import psutil

from imaging_core.dicom.pixels import render_png
from tests.conftest import open_folder
from tests.end_to_end.conftest import Stack, sample


def test_demo_once(tmp_path: Path) -> None:
    folder = open_folder()
    (tmp_path / "own.png").write_bytes(render_png(sample("RG1_UNCI.dcm").read_bytes()))
    done = Stack(folder).run("demo", "--once", "--data-dir", str(folder), "--samples", str(tmp_path), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Lung opacity" in done.stdout
    assert "no model for this examination" in " ".join(done.stdout.split())
    assert "8 images, all with an end" in " ".join(done.stdout.split())
    left = [
        process
        for process in psutil.process_iter(["cmdline"])
        if str(folder) in " ".join(process.info["cmdline"] or ())
    ]
    assert left == []

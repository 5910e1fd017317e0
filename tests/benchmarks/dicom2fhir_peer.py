"""dicom2fhir 0.1.25 over the same files, in a virtual environment of its own: its pins don't go with this project's."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

__all__ = ["NAME", "seconds_per_study"]

NAME = "dicom2fhir 0.1.25 (fhir.resources 8.0.0)"
_REQUIREMENTS = ("dicom2fhir==0.1.25", "fhir.resources==8.0.0")
_PROGRAM = """
import asyncio, logging, sys, time
from dicom2fhir.dicom2fhir import from_directory
logging.disable(logging.CRITICAL)
def once():
    instances = {"imaging_study": {"add_instances": True}}
    return asyncio.run(from_directory(sys.argv[1], {"dicom_timezone": "Europe/Paris", "generator": instances}))
made = once()
assert any(entry.resource.get_resource_type() == "ImagingStudy" for entry in made.entry), "no ImagingStudy"
times = []
for _ in range(int(sys.argv[2])):
    begun = time.perf_counter()
    once()
    times.append(time.perf_counter() - begun)
print(min(times))
"""


def seconds_per_study(files: Sequence[bytes], times: int = 5) -> float | str:
    """Return the shortest time for one study of these files, or why it was not run."""
    with tempfile.TemporaryDirectory() as folder:
        environment, study = Path(folder) / "venv", Path(folder) / "study"
        venv.create(environment, with_pip=True)
        python = environment / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *_REQUIREMENTS]
        done = subprocess.run(install, capture_output=True, text=True, timeout=300)
        if done.returncode:
            return "it can't be installed here"
        study.mkdir()
        for number, data in enumerate(files):
            (study / f"{number}.dcm").write_bytes(data)
        command = [str(python), "-c", _PROGRAM, str(study), str(times)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if done.returncode:
            return f"it fails on these files ({done.stderr.strip().splitlines()[-1][:80]})"
        return float(done.stdout)

"""What validators of other authors say about FHIR resources: `@medplum/core` and npm `fhir`, run by Node."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Issue", "environment", "errors", "install", "program", "unpack_us_core", "validate"]

FOLDER = Path(__file__).parent / "validators"


@dataclass(frozen=True)
class Issue:
    """One complaint about one resource."""

    index: int
    validator: str
    severity: str
    path: str
    message: str


def install() -> None:
    """Install the validators by their lock file, where they are not yet there."""
    if not (FOLDER / "node_modules" / "@medplum" / "core").is_dir():
        command = [program("npm"), "ci", "--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run(command, cwd=FOLDER, check=True, timeout=300, env=environment())


def unpack_us_core(archive: Path, folder: Path) -> Path:
    """Unpack US Core's StructureDefinitions and return their folder."""
    with tarfile.open(archive) as package:
        package.extractall(folder, filter="data")
    return folder / "package"


def validate(resources: Iterable[Mapping[str, Any]], us_core: Path | None = None) -> list[Issue]:
    """Return all that the validators say, of whatever severity."""
    lines = "\n".join(json.dumps(resource) for resource in resources)
    command = [program("node"), str(FOLDER / "validate.mjs"), *([str(us_core)] if us_core else [])]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=180, env=environment())
    assert done.returncode == 0, done.stderr[-2000:]
    return [Issue(**issue) for issue in json.loads(done.stdout)]


def errors(issues: Iterable[Issue]) -> list[Issue]:
    """Return the issues that make a resource wrong."""
    return [issue for issue in issues if issue.severity in ("error", "fatal")]


def environment() -> dict[str, str]:
    """Return the environment in which Node is found."""
    # Node from the machine, else the one that the virtual environment brings
    return {**os.environ, "PATH": os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])}


def program(name: str) -> str:
    """Return where a program of Node is."""
    found = shutil.which(name, path=environment()["PATH"])
    assert found, f"{name} is not installed"
    return found

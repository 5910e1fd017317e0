"""Switch each defence off and see that its test fails (``python -m tests.smart_launch.mutations``).

A defence whose test passes without it is one that nobody would miss: the script then exits 1. What it found is written
into docs/security_mutations.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from infra.local.commands import stop_stack
from infra.local.configuration import Layout
from tests.conftest import free_ports
from tests.smart_launch.conftest import RUNNING_STACK
from tests.smart_launch.mutation_plugin import CHOSEN
from tests.smart_launch.mutation_table import MUTATIONS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "security_mutations.md"
_FAILED = 1  # pytest: tests ran, and some failed


@contextmanager
def running_stack() -> Iterator[str]:
    """Start the stores once for all rows; return their folder."""
    with TemporaryDirectory(prefix="stack-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)  # PostgreSQL's own user passes through
        command = [sys.executable, "-P", "-m", "imaging_core.cli", "up", "--data-dir", folder]
        subprocess.run([*command, "--only", "postgres,blob,fhir"], check=True, env={**os.environ, **free_ports()})
        try:
            yield folder
        finally:
            stop_stack(Layout.at(Path(folder)))


def run(number: int, stack: str) -> str:
    """Return `fails` where the named test notices that the defence is off, else what happened."""
    mutation = MUTATIONS[number]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-p", "tests.smart_launch.mutation_plugin"]
    command.append(f"tests/smart_launch/{mutation.test}")
    environment = {**os.environ, CHOSEN: str(number), RUNNING_STACK: stack, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode == _FAILED and " failed" in done.stdout and " error" not in done.stdout.splitlines()[-1]:
        return "fails"
    return "PASSES" if done.returncode == 0 else f"did not run: {done.stdout[-500:]}"


def page(results: Sequence[str]) -> str:
    """Return the page."""
    lines = [
        "# What happens when a defence is switched off",
        "",
        "Written by `python -m tests.smart_launch.mutations`: for each row a line of `smart_launch` is changed as it",
        "is imported, and the named test run against it. Each must fail; with nothing changed, all pass (`make test`).",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}: {sum(result == 'fails' for result in results)} of {len(results)} are noticed.",
        "",
        "| defence | in | test that fails without it | result |",
        "|---|---|---|---|",
    ]
    for mutation, result in zip(MUTATIONS, results, strict=True):
        file, _, name = mutation.test.partition("::")
        lines.append(f"| {mutation.defence} | `{mutation.module}.py` | `{file}` `{name}` | {result.splitlines()[0]} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Run all, or those whose defence holds a word; write the page where all were run."""
    parser = argparse.ArgumentParser(prog="python -m tests.smart_launch.mutations")
    parser.add_argument(
        "word", nargs="?", default="", help="run only those whose defence has this word; no page is written"
    )
    parser.add_argument("--jobs", type=int, default=1)
    chosen = parser.parse_args()
    numbers = [number for number, item in enumerate(MUTATIONS) if chosen.word.lower() in item.defence.lower()]
    with running_stack() as stack, ThreadPoolExecutor(chosen.jobs) as pool:
        results = []
        for number, result in zip(numbers, pool.map(lambda number: run(number, stack), numbers), strict=True):
            sys.stdout.write(f"{result.splitlines()[0]:12} {MUTATIONS[number].defence}\n")
            sys.stdout.flush()
            results.append(result)
    if len(numbers) == len(MUTATIONS):
        PAGE.write_text(page(results), "utf-8")
    sys.exit(any(result != "fails" for result in results))


if __name__ == "__main__":
    main()

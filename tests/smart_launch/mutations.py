"""Switch each defence off and see that its test fails (``python -m tests.smart_launch.mutations``).

A defence whose test passes without it is one that nobody would miss: the script then exits 1. What it found is written
into docs/security_mutations.md. Each row runs in a process of its own, forked from one that has imported everything but
`smart_launch`; the stores are started once.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from infra.local.commands import stop_stack
from infra.local.configuration import Layout
from tests.conftest import free_ports
from tests.smart_launch.mutation_plugin import RUNNING_STACK, switch_off
from tests.smart_launch.mutation_table import MUTATIONS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "security_mutations.md"


@contextmanager
def running_stack() -> Iterator[Path]:
    """Start stores for one row at a time; return their folder."""
    with TemporaryDirectory(prefix="stack-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)  # PostgreSQL's own user passes through
        command = [sys.executable, "-P", "-m", "imaging_core.cli", "up", "--data-dir", folder]
        environment = {**os.environ, **free_ports()}
        subprocess.run(
            [*command, "--only", "postgres,blob,fhir"], check=True, env=environment, stdout=subprocess.DEVNULL
        )
        try:
            yield Path(folder)
        finally:
            stop_stack(Layout.at(Path(folder)))


def start(number: int, stack: Path) -> int:
    """Run a row's test without its defence in a new process; return its id."""
    child = os.fork()
    if child:
        return child
    os.environ[RUNNING_STACK] = str(stack)
    with (stack / f"row-{number}.txt").open("w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    switch_off(MUTATIONS[number])
    code = pytest.main(
        ["-q", "-x", "--no-header", "-p", "no:cacheprovider", f"tests/smart_launch/{MUTATIONS[number].test}"]
    )
    sys.stdout.flush()
    os._exit(int(code))


def judge(number: int, stack: Path, status: int) -> str:
    """Return `fails` where the named test noticed that the defence is off, else what happened."""
    text = (stack / f"row-{number}.txt").read_text("utf-8", "replace")
    last = text.strip().splitlines()[-1] if text.strip() else ""
    code = os.waitstatus_to_exitcode(status)
    if code == pytest.ExitCode.TESTS_FAILED and re.search(r"\d+ failed", last) and "error" not in last:
        return "fails"
    return "PASSES" if code == pytest.ExitCode.OK else f"did not run: {last[:200]}"


def run(numbers: Sequence[int], jobs: int) -> dict[int, str]:
    """Run rows, as many at once as there are jobs, each job with stores of its own: rows would disturb one another."""
    results: dict[int, str] = {}
    waiting, running = list(numbers), {}
    with ExitStack() as stacks:
        free = [stacks.enter_context(running_stack()) for _ in range(jobs)]
        while waiting or running:
            while waiting and free:
                number, stack = waiting.pop(0), free.pop()
                running[start(number, stack)] = (number, stack)
            child, status = os.wait()
            if child not in running:
                continue
            number, stack = running.pop(child)
            results[number] = judge(number, stack, status)
            free.append(stack)
            sys.stdout.write(f"{results[number]:8} {MUTATIONS[number].defence}\n")
            sys.stdout.flush()
    return results


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
        lines.append(f"| {mutation.defence} | `{mutation.module}.py` | `{file}` `{name}` | {result} |")
    return "\n".join([*lines, ""])


def earlier() -> dict[str, str]:
    """Return the results on the page, for rows that are not run now."""
    lines = PAGE.read_text("utf-8").splitlines() if PAGE.exists() else []
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ") and "`" in line]
    return {row[0]: row[-1] for row in rows}


def main() -> None:
    """Run all, or those whose defence holds a word, and write what was found into the page."""
    parser = argparse.ArgumentParser(prog="python -m tests.smart_launch.mutations")
    parser.add_argument("word", nargs="?", default="", help="only those whose defence has this word")
    parser.add_argument("--jobs", type=int, default=1)
    chosen = parser.parse_args()
    os.chdir(ROOT)
    numbers = [number for number, item in enumerate(MUTATIONS) if chosen.word.lower() in item.defence.lower()]
    results = run(numbers, chosen.jobs)
    known = earlier()
    known |= {MUTATIONS[number].defence: result for number, result in results.items()}
    PAGE.write_text(page([known.get(item.defence, "not run") for item in MUTATIONS]), "utf-8")
    sys.exit(any(result != "fails" for result in results.values()))


if __name__ == "__main__":
    main()

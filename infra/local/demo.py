"""``imaging demo``: the whole stack, and real images through it."""

from __future__ import annotations

import statistics
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from imaging_core.errors import ImagingError
from infra.local.commands import run_foreground
from infra.local.configuration import Layout, load_stack_settings
from infra.local.demo_images import builtin_images, registered_patients, sample_images
from infra.local.demo_run import DemoRun, Result
from infra.local.stack import Stack

__all__ = ["demo"]


@click.command()
@click.option("--once", is_flag=True, help="Stop everything afterwards; exit 0 only if every image came to its end.")
@click.option(
    "--samples",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder with radiographs of one's own: DICOM as they are, PNG and JPEG wrapped as DICOM.",
)
@click.option("--limit", default=0, show_default=True, help="Most images of --samples; 0: all.")
@click.option("--data-dir", type=click.Path(path_type=Path, file_okay=False), help="Folder of the stack's data.")
def demo(once: bool, samples: Path | None, limit: int, data_dir: Path | None) -> None:
    """Start the local stack and send real images through it; Ctrl-C stops all of it."""
    settings = load_stack_settings(data_dir)
    layout = Layout.at(settings.imaging_data_dir)
    # a log file has no width of its own, and eighty columns would fold every cell
    console = Console(width=None if sys.stdout.isatty() else 140)
    scenario = _Scenario(console, once, samples, limit)
    started = run_foreground(layout, settings, (), console, scenario.run)
    scenario.cancelled.set()
    sys.exit(0 if started and scenario.fine else 1)


class _Scenario:
    """What happens once the stack is ready, in a thread beside its supervision."""

    def __init__(self, console: Console, once: bool, samples: Path | None, limit: int) -> None:
        self.cancelled = threading.Event()
        self.fine = False
        self._console = console
        self._once = once
        self._samples = samples
        self._limit = limit

    def run(self, stack: Stack) -> bool:
        """Run it; return whether the stack shall stop now."""
        try:
            results = self._send_all(stack)
        except (ImagingError, OSError) as error:
            self._console.print(f"the demo ended: {error}", highlight=False, markup=False)
            return True
        self.fine = bool(results) and all(result.fine for result in results)
        if not self._once and not self.cancelled.is_set():
            self._console.print(_way_in(stack), highlight=False, soft_wrap=True)
        return self._once

    def _send_all(self, stack: Stack) -> list[Result]:
        images = list(builtin_images())
        if self._samples is not None:
            own, left_out = sample_images(self._samples, self._limit)
            images += own
            if left_out:
                self._console.print(f"{left_out} further images of {self._samples} are left out (--limit)")
        run = DemoRun(stack, self.cancelled)
        results: list[Result] = []
        try:
            new = run.register(registered_patients())
            self._console.print(f"{new} patients registered, {len(images)} images to send")
            for image in images:
                if self.cancelled.is_set():
                    break
                result = run.send(image)
                results.append(result)
                line = f"{image.title}: {result.outcome}" + (f"; {result.finding}" if result.finding else "")
                self._console.print(line, highlight=False, markup=False, soft_wrap=True)
        finally:
            run.close()
        self._console.print(_table(results))
        self._console.print(_summary(results))
        return results


def _table(results: Sequence[Result]) -> Table:
    table = Table(
        "image", "sent by", "outcome", "finding", "seconds", title="from upload to a report readable over FHIR"
    )
    for column in table.columns:
        column.overflow = "fold"
    for result in results:
        seconds = f"{result.seconds:.2f}" if result.seconds is not None else ""
        table.add_row(result.image.title, result.image.door, result.outcome, result.finding, seconds)
    return table


def _summary(results: Sequence[Result]) -> str:
    times = sorted(result.seconds for result in results if result.seconds is not None and result.finding)
    missed = sum(not result.fine for result in results)
    text = f"{len(results)} images, {missed} without an end" if missed else f"{len(results)} images, all with an end"
    if times:
        p95 = times[min(round(0.95 * len(times)), len(times) - 1)]
        text += f"; reports after {statistics.median(times):.2f} s (median), {p95:.2f} s (95th percentile)"
    return text


def _way_in(stack: Stack) -> str:
    addresses = "\n".join(f"  {part.name:<10} {part.url}" for part in stack.parts)
    return f"""
The stack is running; Ctrl-C stops it, its data stay in {stack.layout.root}.

{addresses}

To see a report as a doctor does:
  1. let the browser trust {stack.layout.ca_file} (or accept its warning twice: for ehr.localhost and app.localhost)
  2. open {stack.part("ehr").url}, choose a patient, then "Launch imaging app"

To send images of your own: imaging send FILE...; tokens: imaging status --secrets --json; logs: {stack.layout.logs}
"""

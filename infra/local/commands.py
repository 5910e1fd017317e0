"""The commands ``imaging up``, ``imaging down`` and ``imaging status``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from infra.local.configuration import Layout, Ports, StackSettings, load_stack_settings
from infra.local.stack_state import PartState, StackState, read_state

if TYPE_CHECKING:
    from infra.local.stack import Stack

__all__ = ["down", "run_foreground", "start_detached", "status", "stop_stack", "up"]

_DATA_DIR_HELP = "Folder of the stack's data, logs and keys (setting IMAGING_DATA_DIR)."
_START_SECONDS = 600.0
_STOP_SECONDS = 90.0
_LOG_LINES = 15


@dataclass(frozen=True)
class _Target:
    settings: StackSettings
    layout: Layout


def _target(data_dir: Path | None) -> _Target:
    settings = load_stack_settings(data_dir)
    return _Target(settings, Layout.at(settings.imaging_data_dir))


@click.command()
@click.option("--detach/--foreground", default=True, help="Return once all is ready (default), or stay until Ctrl-C.")
@click.option("--data-dir", type=click.Path(path_type=Path, file_okay=False), help=_DATA_DIR_HELP)
@click.option("--only", default="", help="Parts to start, comma-separated; the others are taken from the settings.")
def up(detach: bool, data_dir: Path | None, only: str) -> None:
    """Start the local stack."""
    target = _target(data_dir)
    parts = tuple(name.strip() for name in only.split(",") if name.strip())
    console = Console()
    if detach:
        start_detached(target.layout.root, parts, console)
        _print_status(target, console)
    else:
        sys.exit(0 if run_foreground(target.layout, target.settings, parts, console) else 1)


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path, file_okay=False), help=_DATA_DIR_HELP)
def down(data_dir: Path | None) -> None:
    """Stop the local stack; its data stays."""
    target = _target(data_dir)
    click.echo("stopped" if stop_stack(target.layout) else "nothing was running")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--secrets", "with_secrets", is_flag=True, help="Add each part's token (local stack only).")
@click.option("--data-dir", type=click.Path(path_type=Path, file_okay=False), help=_DATA_DIR_HELP)
def status(as_json: bool, with_secrets: bool, data_dir: Path | None) -> None:
    """Show addresses, health and version of each part, queue depths and ledger counts."""
    from infra.local.status import status as read

    target = _target(data_dir)
    document = read(target.layout, Ports.from_settings(target.settings), with_secrets=with_secrets)
    if as_json:
        click.echo(json.dumps(document, indent=1))
    else:
        _print_document(document, Console())


def run_foreground(
    layout: Layout,
    settings: StackSettings,
    only: tuple[str, ...],
    console: Console,
    on_ready: Callable[[Stack], bool] = lambda stack: False,
) -> bool:
    """Run the stack in this process until a signal; return False where it could not start.

    Parameters
    ----------
    on_ready : Callable[[Stack], bool]
        Called in a thread once every part is ready; the stack stops where it returns true.
    """
    from infra.local.stack import build
    from infra.local.supervisor import AlreadyRunning, Supervisor, only_supervisor

    def tell(name: str, part: PartState) -> None:
        detail = f" ({part.detail})" if part.detail else ""
        console.print(f"{name:<10} {part.state}{detail}", highlight=False, soft_wrap=True)

    try:
        with only_supervisor(layout.lock):
            stack = build(layout, Ports.from_settings(settings), only)
            supervisor = Supervisor(stack, tell)

            def ready() -> None:
                if on_ready(stack):
                    supervisor.stop()

            def stop(_number: int, _frame: FrameType | None) -> None:
                supervisor.stop()

            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, stop)
            fine = supervisor.run(ready)
            if not fine:
                _explain(read_state(layout.state), console)
            return fine
    except AlreadyRunning as error:
        raise click.ClickException(f"a stack is running in {layout.root}: imaging down ends it") from error


def start_detached(data_dir: Path, only: tuple[str, ...], console: Console) -> None:
    """Start a supervisor that outlives this process, and wait until all is ready.

    Raises
    ------
    click.ClickException
        A part could not be started; the message holds the end of its log.
    """
    layout = Layout.at(data_dir)
    state = read_state(layout.state)
    if state is not None and state.supervisor is not None and state.supervisor.alive:
        missing = set(only) - set(state.parts)
        if missing:
            raise click.ClickException(f"the running stack lacks {', '.join(sorted(missing))}: imaging down, then up")
        _wait_until_started(layout, state.supervisor.process, console)
        return
    # -P: the installed packages, whatever lies in the current folder
    command = [
        sys.executable,
        "-P",
        "-m",
        "infra.local.supervise",
        "--data-dir",
        str(layout.root),
        "--only",
        ",".join(only),
    ]
    with layout.log("stack").open("ab") as log:
        before = log.tell()
        process = subprocess.Popen(  # noqa: S603  # this package's own program
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )

    def alive() -> object:
        return process if process.poll() is None else None

    _wait_until_started(layout, alive, console, supervisor_pid=process.pid, log_offset=before)


def _wait_until_started(
    layout: Layout,
    alive: Callable[[], object],
    console: Console,
    supervisor_pid: int | None = None,
    log_offset: int = 0,
) -> None:
    deadline = time.monotonic() + _START_SECONDS
    with console.status("starting") as shown:
        while time.monotonic() < deadline:
            lives = alive()
            state = read_state(layout.state)
            if state is not None and _is_of(state, supervisor_pid):
                if state.state == "ready":
                    return
                waiting = [f"{name} {part.state}" for name, part in state.parts.items() if part.state != "ready"]
                shown.update(", ".join(waiting) or "starting")
            if not lives:
                if (
                    state is not None
                    and _is_of(state, supervisor_pid)
                    and any(part.state == "failed" for part in state.parts.values())
                ):
                    _explain(state, console)
                    raise click.ClickException("the stack did not start")
                raise click.ClickException(_tail(layout.log("stack"), log_offset) or "the stack did not start")
            time.sleep(0.1)
    raise click.ClickException(f"not ready after {_START_SECONDS:g} s: see {layout.logs}")


def _is_of(state: StackState, supervisor_pid: int | None) -> bool:
    return state.supervisor is not None and supervisor_pid in (None, state.supervisor.pid)


def stop_stack(layout: Layout) -> bool:
    """Stop a stack, or what a killed supervisor left; return whether anything ran."""
    from infra.local.supervisor import end_strays

    state = read_state(layout.state)
    ran = False
    if state is not None and state.supervisor is not None:
        process = state.supervisor.process()
        if process is not None:
            ran = True
            process.terminate()
            deadline = time.monotonic() + _STOP_SECONDS
            while state.supervisor.alive and time.monotonic() < deadline:
                time.sleep(0.05)
            if state.supervisor.alive:
                process.kill()
    return bool(end_strays(layout.root, read_state(layout.state))) or ran


def _explain(state: StackState | None, console: Console) -> None:
    for name, part in (state.parts if state is not None else {}).items():
        if part.state == "failed":
            console.print(f"[bold]{name}[/] {part.detail}; the end of {part.log}:", highlight=False, soft_wrap=True)
            console.print(_tail(Path(part.log)), markup=False, highlight=False, soft_wrap=True)


def _tail(path: Path, offset: int = 0) -> str:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-_LOG_LINES:])


def _print_status(target: _Target, console: Console) -> None:
    from infra.local.status import status as read

    _print_document(read(target.layout, Ports.from_settings(target.settings)), console)


def _print_document(document: dict[str, object], console: Console) -> None:
    parts = document["parts"]
    if not isinstance(parts, dict) or not parts:
        console.print("not running")
        return
    table = Table("part", "address", "health", "version", box=None, pad_edge=False)
    table.columns[1].no_wrap = True
    table.columns[2].overflow = "fold"
    for name, part in parts.items():
        health = "healthy" if part["healthy"] else f"{part['state']} {part['detail']}"
        health += f" (restarted {part['restarts']} times)" if part["restarts"] else ""
        table.add_row(name, part["url"], health, part["version"])
    console.print(table)
    for title in ("queues", "ledger"):
        values = document[title]
        if isinstance(values, dict) and values:
            console.print(f"{title}: " + ", ".join(f"{name} {count}" for name, count in values.items()), soft_wrap=True)
    console.print(f"logs: {Path(next(iter(parts.values()))['log']).parent}", soft_wrap=True)
    console.print(f"CA certificate: {document['ca_file']}", soft_wrap=True)

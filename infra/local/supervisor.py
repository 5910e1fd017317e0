"""Starts the parts, starts again those that die, stops all of them in order."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from imaging_core.errors import ImagingError
from infra.local.parts import Part
from infra.local.ports import require_free
from infra.local.processes import MARK, ProcessId, end, run_as, strays
from infra.local.stack import Stack
from infra.local.stack_state import PartState, StackState, read_state, write_state

__all__ = ["AlreadyRunning", "Supervisor", "end_strays", "only_supervisor"]

_BACKOFF = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
# a part that has run this long is not the one that keeps dying
_SETTLED_SECONDS = 60.0
_FIRST_TRIES = 3
_POLL_SECONDS = 0.05
_LOG_LIMIT = 10 * 1024 * 1024


class AlreadyRunning(Exception):
    """Another supervisor holds this data folder."""


class Supervisor:
    """Runs one stack.

    Parameters
    ----------
    stack : Stack
        What to run.
    on_change : Callable[[str, PartState], None]
        Told of each change of a part's state, from the part's thread.
    """

    def __init__(self, stack: Stack, on_change: Callable[[str, PartState], None] = lambda name, state: None) -> None:
        self._stack = stack
        self._on_change = on_change
        self._stop = threading.Event()
        self._failed = threading.Event()
        self._changed = threading.Condition()
        self._ready = {part.name: threading.Event() for part in stack.parts}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._state = StackState(
            supervisor=ProcessId.of(os.getpid()),
            ca_file=str(stack.layout.ca_file),
            parts={
                part.name: PartState(part.url, str(stack.layout.log(part.name)), dict(part.ports), part.version)
                for part in stack.parts
            },
        )

    def stop(self) -> None:
        """Begin to stop; safe in a signal handler and a second time."""
        self._stop.set()

    def run(self, on_ready: Callable[[], None] = lambda: None) -> bool:
        """Run until `stop`, or until a part fails at its first start.

        Parameters
        ----------
        on_ready : Callable[[], None]
            Called once every part is ready, from a thread of its own.

        Returns
        -------
        bool
            False where a part could not be started; its state says why.

        Raises
        ------
        Permanent
            A port is taken.
        """
        layout = self._stack.layout
        end_strays(layout.root, read_state(layout.state))
        require_free({name: port for part in self._stack.parts for name, port in part.ports.items()})
        self._write("starting")
        threads = [
            threading.Thread(target=self._keep, args=(part,), name=f"keep-{part.name}", daemon=True)
            for part in self._stack.parts
        ]
        for thread in threads:
            thread.start()
        # the signal handler runs in this thread, between the short waits
        announced = False
        while not self._stop.wait(0.1) and not self._failed.is_set():
            if not announced and all(event.is_set() for event in self._ready.values()):
                announced = True
                self._write("ready")
                threading.Thread(target=on_ready, daemon=True).start()
        failed = self._failed.is_set()
        self._stop.set()
        self._write("stopping")
        self._stop_all()
        for thread in threads:
            thread.join(timeout=5)
        self._write("failed" if failed else "stopped")
        return not failed

    # one part

    def _keep(self, part: Part) -> None:
        deaths = 0
        was_ready = False
        while self._wait_for_needs(part):
            self._set(part, "starting")
            started = time.monotonic()
            detail = self._start(part)
            if not detail:
                was_ready = True
                self._set(part, "ready", f"after {time.monotonic() - started:.1f} s")
                self._ready[part.name].set()
                detail = f"ended with {self._running[part.name].wait()}"
                self._ready[part.name].clear()
                _kill_group(self._running[part.name].pid)
            if self._stop.is_set():
                return
            deaths = 1 if time.monotonic() - started > _SETTLED_SECONDS else deaths + 1
            if not was_ready and deaths >= _FIRST_TRIES:
                self._set(part, "failed", detail)
                self._failed.set()
                return
            delay = _BACKOFF[min(deaths, len(_BACKOFF)) - 1]
            self._state.parts[part.name].restarts += 1
            self._set(part, "restarting", f"{detail}; starts again after {delay:g} s")
            self._stop.wait(delay)

    def _wait_for_needs(self, part: Part) -> bool:
        for name in part.needs:
            event = self._ready.get(name)
            while event is not None and not event.wait(0.1):
                if self._stop.is_set():
                    return False
        return not self._stop.is_set()

    def _start(self, part: Part) -> str:
        """Start a part and wait until it serves; return what went wrong."""
        try:
            if part.prepare is not None:
                part.prepare()
            process = self._launch(part)
            detail = self._until_healthy(part, process)
            if not detail and part.complete is not None:
                part.complete()
        except ImagingError as error:
            detail = str(error)
        except Exception as error:  # whatever one part meets must not end the supervision of the others
            detail = f"{type(error).__name__}: {error}"
        if detail and part.name in self._running:
            _end(self._running[part.name], part)
        return detail

    def _launch(self, part: Part) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **part.environment, MARK: str(self._stack.layout.root)}
        with _log_file(self._stack.layout.log(part.name)) as log:
            process = subprocess.Popen(  # noqa: S603  # the parts' own commands
                part.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=part.folder,
                env=environment,
                # a Ctrl-C at the terminal reaches the supervisor alone, which stops the parts in order
                start_new_session=True,
                **run_as(part.user),
            )
        self._running[part.name] = process
        self._state.parts[part.name].process = ProcessId.of(process.pid)
        self._write()
        return process

    def _until_healthy(self, part: Part, process: subprocess.Popen[bytes]) -> str:
        deadline = time.monotonic() + part.start_seconds
        pause = _POLL_SECONDS
        while not part.healthy():
            code = process.poll()
            if code is not None:
                return f"ended with {code} before it served"
            if time.monotonic() > deadline:
                return f"did not serve within {part.start_seconds:g} s"
            if self._stop.wait(pause):
                return "stopped"
            # a check costs a core some milliseconds that the starting parts could use
            pause = min(pause * 1.3, 10 * _POLL_SECONDS)
        # another program may have answered in its place
        return "" if process.poll() is None else f"ended with {process.returncode} before it served"

    # all parts

    def _stop_all(self) -> None:
        left = {part.name: part for part in self._stack.parts}
        while left:
            used = {name for part in left.values() for name in part.uses}
            wave = [part for part in left.values() if part.name not in used] or list(left.values())
            with ThreadPoolExecutor(len(wave)) as threads:
                list(threads.map(self._stop_part, wave))
            for part in wave:
                del left[part.name]

    def _stop_part(self, part: Part) -> None:
        process = self._running.get(part.name)
        in_time = process is None or _end(process, part)
        if self._state.parts[part.name].state != "failed":
            self._set(part, "stopped", "" if in_time else "killed: it did not stop in time")

    def _set(self, part: Part, state: str, detail: str = "") -> None:
        item = self._state.parts[part.name]
        with self._changed:
            item.state = state
            item.detail = detail
            if state in ("stopped", "failed", "restarting"):
                item.process = None
        self._write()
        self._on_change(part.name, item)

    def _write(self, state: str = "") -> None:
        with self._changed:
            if state:
                self._state.state = state
            write_state(self._stack.layout.state, self._state)


def end_strays(data_folder: Path, state: StackState | None) -> list[int]:
    """End what an earlier supervisor of this folder, killed itself, has left running; return the process numbers."""
    parts: Mapping[str, PartState] = state.parts if state is not None else {}
    ended = []
    for name in reversed(list(parts)):
        process = parts[name].process
        if process is not None and process.alive:
            # PostgreSQL's fast shutdown; the others stop in order on SIGTERM
            end(process, signal.SIGINT if name == "postgres" else signal.SIGTERM, 10)
            ended.append(process.pid)
    for process in reversed(strays(data_folder, ())):
        end(process, signal.SIGTERM, 2)
        ended.append(process.pid)
    return ended


@contextlib.contextmanager
def only_supervisor(lock: Path) -> Iterator[None]:
    """Hold the data folder.

    Raises
    ------
    AlreadyRunning
        Another supervisor holds it.
    """
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise AlreadyRunning from error
        yield


@contextlib.contextmanager
def _log_file(path: Path) -> Iterator[int]:
    if path.exists() and path.stat().st_size > _LOG_LIMIT:
        path.replace(path.with_suffix(".log.1"))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _end(process: subprocess.Popen[bytes], part: Part) -> bool:
    """Stop a part's process and all it started; return False where it had to be killed."""
    in_time = True
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(part.stop_signal)
    try:
        process.wait(part.stop_seconds)
    except subprocess.TimeoutExpired:
        in_time = False
    _kill_group(process.pid)
    process.wait()
    return in_time


def _kill_group(leader: int) -> None:
    # what a part leaves behind (workers of a killed master) would keep its port
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)

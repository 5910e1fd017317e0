"""Processes of the stack across restarts of its supervisor: who they are, and how they are ended."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import psutil

__all__ = ["MARK", "ProcessId", "end", "family", "run_as", "strays"]

# every part's environment carries the data folder under this name, so that a part is known again even when its
# supervisor was killed before it could write down the process
MARK = "IMAGING_STACK"


class RunAs(TypedDict, total=False):
    """Keyword arguments of `subprocess.Popen` by which another user's rights are taken."""

    user: int
    group: int
    extra_groups: list[int]


def run_as(user: str | None) -> RunAs:
    """Return the arguments for `user`; none for None. Root's groups are dropped with root."""
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


@dataclass(frozen=True)
class ProcessId:
    """A process, told apart from a later one with the same number by its start time."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """Return the identity of a living process; None where there is none."""
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.Error:
            return None

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        return self.process() is not None

    def process(self) -> psutil.Process | None:
        """Return the process while it runs."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < 0.05
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None


def family(process: ProcessId) -> list[int]:
    """Return the process's number and its descendants'."""
    found = process.process()
    if found is None:
        return []
    with contextlib.suppress(psutil.Error):
        return [found.pid, *(child.pid for child in found.children(recursive=True))]
    return [found.pid]


def strays(data_folder: Path, known: Iterable[ProcessId]) -> list[ProcessId]:
    """Return what still runs of an earlier stack in this folder.

    Parameters
    ----------
    known : Iterable[ProcessId]
        Processes that were written down.
    """
    found = {item for item in known if item.alive}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(MARK) == str(data_folder):
                found.add(ProcessId(process.pid, process.create_time()))
    return sorted(found, key=lambda item: item.started)


def end(process: ProcessId, stop_signal: signal.Signals, seconds: float) -> None:
    """Ask a process to stop, wait up to `seconds`, then kill it and all it started."""
    found = process.process()
    if found is None:
        return
    members = [found, *_children(found)]
    with contextlib.suppress(psutil.Error):
        found.send_signal(stop_signal)
        found.wait(seconds)
    _kill(members)


def _children(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return process.children(recursive=True)
    return []


def _kill(members: Collection[psutil.Process]) -> None:
    left = [member for member in members if member.is_running()]
    # children of a process that was stopped in order are about to end by themselves
    _, left = psutil.wait_procs(left, timeout=0.5)
    for member in left:
        with contextlib.suppress(psutil.Error):
            member.kill()
    psutil.wait_procs(left, timeout=5)

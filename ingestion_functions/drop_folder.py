"""A drop folder (``imaging send --watch DIR``): files that appear are sent and moved to ``sent/`` or ``refused/``.

A file is taken once its size and time have not changed between two looks, so that one that is still being written is
left alone. It is moved only after the service has decided; what could not be sent stays where it is and is tried again.
So a restart at any moment loses nothing: at worst a file is sent a second time, which makes a duplicate of it.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from ingestion_functions.send_client import Sent

__all__ = ["REFUSED", "SENT", "DropFolder"]

SENT, REFUSED = "sent", "refused"
_TOGETHER = 500
_PARTIAL = (".part", ".tmp", ".partial", ".crdownload", ".filepart")


class DropFolder:
    """Watches one folder.

    Parameters
    ----------
    root : Path
        The folder; ``sent`` and ``refused`` are made in it.
    send : callable
        Sends one file and says what became of it.
    workers : int
        Files in work at once.
    tell : callable
        Called with what became of each file.
    """

    def __init__(self, root: Path, send: Callable[[Path], Sent], *, workers: int, tell: Callable[[Sent], None]) -> None:
        self._root = root
        self._send = send
        self._workers = workers
        self._tell = tell
        self._seen: dict[Path, tuple[int, int]] = {}
        for name in (SENT, REFUSED):
            (root / name).mkdir(exist_ok=True)

    def run(self, stop: threading.Event, interval_s: float) -> None:
        """Look every `interval_s` seconds until `stop`; what is in work then is finished."""
        with ThreadPoolExecutor(self._workers, thread_name_prefix="send") as threads:
            while not stop.is_set():
                list(threads.map(lambda path: self._take(path, stop), self._ready()))
                stop.wait(interval_s)

    def look(self) -> int:
        """Look once and send what is ready; return how many files were tried."""
        ready = list(self._ready())
        for path in ready:
            self._take(path, threading.Event())
        return len(ready)

    def _ready(self) -> Iterator[Path]:
        """Yield the files that have not changed since the look before."""
        now: dict[Path, tuple[int, int]] = {}
        for path in self._files():
            try:
                found = path.stat()
            except OSError:
                continue
            now[path] = (found.st_size, found.st_mtime_ns)
        stable = [path for path, state in sorted(now.items()) if self._seen.get(path) == state and state[0] > 0]
        self._seen = now
        yield from stable[:_TOGETHER]

    def _files(self) -> Iterable[Path]:
        for folder, folders, names in os.walk(self._root):
            here = Path(folder)
            folders[:] = [name for name in folders if not name.startswith(".")]
            if here == self._root:
                folders[:] = [name for name in folders if name not in (SENT, REFUSED)]
            for name in names:
                if not name.startswith(".") and not name.lower().endswith(_PARTIAL):
                    yield here / name

    def _take(self, path: Path, stop: threading.Event) -> None:
        if stop.is_set() or not path.exists():
            return
        result = self._send(path)
        self._tell(result)
        if result.undecided:
            return
        if result.refused:
            target = self._move(path, REFUSED)
            reason = {**asdict(result), "path": str(path.relative_to(self._root))}
            target.with_name(f"{target.name}.reason").write_text(f"{json.dumps(reason, indent=1)}\n", "utf-8")
        else:
            self._move(path, SENT)

    def _move(self, path: Path, name: str) -> Path:
        """Move a file, its folders kept; one of the same name that is there already keeps its own."""
        target = self._root / name / path.relative_to(self._root)
        target.parent.mkdir(parents=True, exist_ok=True)
        number = 0
        free = target
        while True:
            try:
                os.link(path, free)  # unlike a rename it never replaces a file
            except FileExistsError:
                number += 1
                free = target.with_name(f"{target.name}.{number}")
                continue
            except OSError:  # a file system without hard links
                path.replace(free)
                return free
            path.unlink()
            return free

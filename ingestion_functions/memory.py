"""A bound on the bytes of instances that a process holds at once: who finds no room waits, and does not fail."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from imaging_core.errors import Retryable

__all__ = ["Room"]


class Room:
    """So many bytes, shared among threads.

    Parameters
    ----------
    total : int
        Bytes that may be taken at once. What is larger than all of it is let in alone.
    patience : float
        Seconds that somebody waits before being told to come back later.
    """

    def __init__(self, total: int, patience: float = 120.0) -> None:
        self._total = total
        self._patience = patience
        self._taken = 0
        self._changed = threading.Condition()

    @contextmanager
    def of(self, size: int) -> Iterator[None]:
        """Take `size` bytes for the length of the block.

        Raises
        ------
        Retryable
            With code ``service-unavailable`` where none came free in time.
        """
        wanted = min(size, self._total)
        with self._changed:
            if not self._changed.wait_for(lambda: self._taken + wanted <= self._total, self._patience):
                raise Retryable("service-unavailable", "too many bytes are being taken in at once")
            self._taken += wanted
        try:
            yield
        finally:
            with self._changed:
                self._taken -= wanted
                self._changed.notify_all()

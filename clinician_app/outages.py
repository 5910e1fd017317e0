"""FHIR services that were just found unreachable: not asked again for a moment, so that pages do not wait in turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

__all__ = ["Outages"]


class Outages:
    """Which services are away, as this process has seen it.

    Parameters
    ----------
    pause : float
        Seconds during which a service that did not answer is not asked again.
    clock : callable
        Monotonic seconds.
    """

    def __init__(self, pause: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._pause = pause
        self._clock = clock
        self._until: dict[str, float] = {}
        self._lock = threading.Lock()

    def away(self, server: str) -> bool:
        """Whether `server` is better not asked now."""
        with self._lock:
            return self._until.get(server, 0.0) > self._clock()

    def no_answer(self, server: str) -> None:
        """Remember that `server` did not answer at all (an error status is an answer, perhaps to this patient only)."""
        with self._lock:
            self._until[server] = self._clock() + self._pause

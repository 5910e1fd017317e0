"""Who may come in: a bounded queue, a bound on the bytes in work, and the time that one request may take.

Everything that waits is bounded, so that a burst is told to come back (429 with Retry-After) rather than eating the
memory of the analyses that run. Each bound is a setting, and a refusal names it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from ai_container.metrics import BYTES_IN_WORK, QUEUE_REFUSED, RUNNING, WAIT_SECONDS, WAITING
from imaging_core.errors import Retryable

__all__ = ["Admission", "ByteBudget", "Deadline"]

_FIRST_GUESS_S = 1.0
_NEWEST = 0.2  # weight of the newest duration in the running mean


class Deadline:
    """The moment at which a request gives up, between two steps.

    Parameters
    ----------
    seconds : float
        AI_REQUEST_SECONDS.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = time.monotonic() + seconds

    def remaining(self) -> float:
        """Return the seconds left, 0 at least."""
        return max(0.0, self._until - time.monotonic())

    def check(self) -> None:
        """Give up where the time is over.

        Raises
        ------
        Retryable
            ``analysis-timeout``.
        """
        if not self.remaining():
            raise Retryable("analysis-timeout", f"longer than AI_REQUEST_SECONDS = {self._seconds:g}", 5)


class Admission:
    """Lets `running` analyses run at once and `waiting` more wait, in the order in which they came.

    Parameters
    ----------
    running : int
        AI_CONCURRENCY.
    waiting : int
        AI_QUEUE.
    seconds : float
        AI_REQUEST_SECONDS; the time in the queue counts.
    """

    def __init__(self, running: int, waiting: int, seconds: float) -> None:
        self._most_running, self._most_waiting, self._seconds = running, waiting, seconds
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()
        self._running = 0
        self._closed = False
        self._mean_s = _FIRST_GUESS_S

    @contextmanager
    def admitted(self) -> Iterator[Deadline]:
        """Wait for a place, hold it, give it back.

        Raises
        ------
        Retryable
            ``queue-full``: more than AI_QUEUE wait; ``analysis-timeout``: no place came free in time;
            ``service-unavailable``: the service is being stopped.
        """
        deadline = Deadline(self._seconds)
        came = time.monotonic()
        self._enter(deadline)
        began = time.monotonic()
        WAIT_SECONDS.observe(began - came)
        try:
            yield deadline
        finally:
            with self._changed:
                self._running -= 1
                self._mean_s += _NEWEST * (time.monotonic() - began - self._mean_s)
                RUNNING.set(self._running)
                self._changed.notify_all()

    def _enter(self, deadline: Deadline) -> None:
        ticket = object()
        with self._changed:
            if self._closed:
                raise self._stopping()
            if self._running >= self._most_running and len(self._queue) >= self._most_waiting:
                QUEUE_REFUSED.inc()
                detail = f"AI_QUEUE = {self._most_waiting} requests wait, AI_CONCURRENCY = {self._most_running} run"
                raise Retryable("queue-full", detail, self._turn_s())
            self._queue.append(ticket)
            WAITING.set(len(self._queue))
            try:
                while self._queue[0] is not ticket or self._running >= self._most_running:
                    if self._closed:
                        raise self._stopping()
                    if not self._changed.wait(deadline.remaining()):
                        deadline.check()
                self._running += 1
            finally:
                self._queue.remove(ticket)
                WAITING.set(len(self._queue))
                RUNNING.set(self._running)
                self._changed.notify_all()

    def _turn_s(self) -> float:
        """Return when a place in the queue may be free: what waits before it, at the pace of late."""
        return max(1.0, self._mean_s * (len(self._queue) + 1) / self._most_running)

    @staticmethod
    def _stopping() -> Retryable:
        return Retryable("service-unavailable", "the service is being stopped", 5)

    def close(self) -> None:
        """Let nobody in any more: what runs goes on to its end, what waits is sent away at once."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class ByteBudget:
    """Bounds the bytes of instances that are held at once; a larger one than the bound is held alone.

    Parameters
    ----------
    most : int
        AI_BYTES_IN_WORK.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0
        self._changed = threading.Condition()

    @contextmanager
    def held(self, size: int, deadline: Deadline) -> Iterator[None]:
        """Wait until `size` bytes fit.

        Raises
        ------
        Retryable
            ``analysis-timeout``.
        """
        with self._changed:
            while self._held and self._held + size > self._most:
                if not self._changed.wait(deadline.remaining()):
                    deadline.check()
            self._held += size
            BYTES_IN_WORK.set(self._held)
        try:
            yield
        finally:
            with self._changed:
                self._held -= size
                BYTES_IN_WORK.set(self._held)
                self._changed.notify_all()

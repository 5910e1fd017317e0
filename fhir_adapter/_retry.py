"""How often and how long the FHIR client tries again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

__all__ = ["Retry", "retry_after_seconds", "wait_asked_for"]


@dataclass(frozen=True)
class Retry:
    """Bounded tries with exponential back-off and full jitter.

    Parameters
    ----------
    tries : int
        Most requests for one call.
    base, cap : float
        The n-th pause is drawn between 0 and ``min(cap, base * 2**n)`` seconds.
    longest_wait : float
        A service that asks for a longer wait gets it from the queue, not from a blocked thread: the call fails at once
        with that wait in its error.
    sleep : callable
        Waits; tests put a recorder here.
    """

    tries: int = 4
    base: float = 0.25
    cap: float = 8.0
    longest_wait: float = 20.0
    sleep: Callable[[float], None] = field(default=time.sleep)

    def pauses(self) -> Iterator[float | None]:
        """Yield the pause after each try; None after the last."""
        for number in range(self.tries - 1):
            # jitter spreads the load, it guards nothing
            yield random.uniform(0, min(self.cap, self.base * 2**number))  # noqa: S311
        yield None


def retry_after_seconds(value: str | None, now: float) -> float:
    """Return the seconds that a ``Retry-After`` header asks for (RFC 9110 10.2.3); 0 where it can't be read."""
    if not value:
        return 0.0
    text = value.strip()
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (TypeError, ValueError):
        return 0.0


def wait_asked_for(headers: Mapping[str, str], now: float) -> float:
    """Return the seconds that an answer asks to wait: ``Retry-After``, or Azure's ``x-ms-retry-after-ms``."""
    milliseconds = headers.get("x-ms-retry-after-ms") or ""
    return max(
        retry_after_seconds(headers.get("Retry-After"), now),
        float(milliseconds) / 1000 if milliseconds.isdigit() else 0.0,
    )

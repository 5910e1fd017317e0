"""Refused requests a minute from one address.

A modality's uploads come in bursts of thousands from one address; with a valid token they are bounded by the limits of
intake and by back-pressure. This limit is for those who try tokens.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

from imaging_core.errors import Retryable

__all__ = ["RateLimit"]

_WINDOW_S = 60.0
_MOST_ADDRESSES = 10_000


class RateLimit:
    """Counts per address, in this process's memory."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def count(self, address: str, limit: int) -> None:
        """Count one refused request.

        Raises
        ------
        Retryable
            ``rate-limited`` beyond `limit` a minute; 0 switches it off.
        """
        if not limit or not address:
            return
        now = time.monotonic()
        with self._lock:
            start, seen = self._seen.pop(address, (now, 0))
            if now - start > _WINDOW_S:
                start, seen = now, 0
            self._seen[address] = (start, seen + 1)
            while len(self._seen) > _MOST_ADDRESSES:
                self._seen.popitem(last=False)
        if seen >= limit:
            raise Retryable("rate-limited", f"RATE_LIMIT_PER_ADDRESS = {limit} a minute", _WINDOW_S - (now - start))

"""Waiting for the first of several events, tasks or a time."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

__all__ = ["any_event"]


async def any_event(*events: asyncio.Event, timeout: float | None, tasks: Collection[asyncio.Task[Any]] = ()) -> None:
    """Return once an event is set, a task is done or `timeout` seconds have passed; `tasks` go on."""
    waiters = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait([*waiters, *tasks], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiter in waiters:
            waiter.cancel()

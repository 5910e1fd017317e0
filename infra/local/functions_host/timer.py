"""Timer triggers."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime

from azure.core.exceptions import AzureError

from imaging_core.errors import Permanent
from imaging_core.telemetry import get_logger
from infra.local.functions_host import ncrontab
from infra.local.functions_host.messages import TypedData
from infra.local.functions_host.outputs import OutputWriter
from infra.local.functions_host.state import HostState
from infra.local.functions_host.waiting import any_event
from infra.local.functions_host.worker import Function, InvocationFailed, Worker, new_traceparent

__all__ = ["Timer"]

_log = get_logger("functions_host")
_APP_SETTING = re.compile(r"%(\w+)%")


class Timer:
    """Runs one timer-triggered function; never twice at once.

    Parameters
    ----------
    function : Function
        Its trigger names ``schedule`` (NCRONTAB, or ``%SETTING%``) and may say ``runOnStartup``.
    state : HostState
        Remembers the last run: one that was missed while the host was down is made up for at start, as past due.
    """

    def __init__(
        self,
        function: Function,
        worker: Worker,
        outputs: OutputWriter,
        state: HostState,
        on_done: Callable[[], None],
    ) -> None:
        self._function = function
        self._worker = worker
        self._outputs = outputs
        self._state = state
        self._on_done = on_done
        options = function.trigger.options
        self._schedule = ncrontab.parse(_resolved(options["schedule"]))
        self._at_startup = str(options.get("runOnStartup", "")).lower() == "true"
        self._monitored = str(options.get("useMonitor", "")).lower() != "false"

    async def run(self, stop: asyncio.Event) -> None:
        """Wait for the schedule until `stop`."""
        last = self._state.last_run(self._function.name)
        past_due = self._monitored and last is not None and self._schedule.next_after(last) <= datetime.now(UTC)
        if self._at_startup or past_due:
            await self._fire(past_due=past_due)
        while not stop.is_set():
            due = self._schedule.next_after(datetime.now(UTC))
            await any_event(stop, timeout=max((due - datetime.now(UTC)).total_seconds(), 0))
            # the loop's clock may run a little ahead of the wall clock
            if not stop.is_set() and datetime.now(UTC) >= due:
                await self._fire(past_due=False)

    async def _fire(self, *, past_due: bool) -> None:
        now = datetime.now(UTC)
        last = self._state.last_run(self._function.name)
        status = {
            "Last": (last or now).isoformat(),
            "Next": self._schedule.next_after(now).isoformat(),
            "LastUpdated": now.isoformat(),
        }
        data = TypedData(json=json.dumps({"Schedule": {}, "ScheduleStatus": status, "IsPastDue": past_due}))
        try:
            outputs = await self._worker.invoke(self._function, data, {}, new_traceparent())
            await self._outputs.write(self._function, outputs)
        except InvocationFailed:
            pass  # logged by the worker; a timer is not retried, the next tick comes
        except (AzureError, Permanent) as error:
            _log.error("output not written", function=self._function.name, error=type(error).__name__)
        finally:
            self._state.ran(self._function.name, now)
            self._on_done()


def _resolved(expression: str) -> str:
    match = _APP_SETTING.fullmatch(expression)
    if match is None:
        return expression
    value = os.environ.get(match[1])
    if not value:
        raise Permanent("bad-setting", f"the schedule's app setting {match[1]} is not set")
    return value

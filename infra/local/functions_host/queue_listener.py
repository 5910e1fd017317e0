"""Queue triggers: polling, retries and the poison queue by the rules of host.json."""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial

from azure.core.exceptions import AzureError, ResourceNotFoundError
from azure.storage.queue import QueueMessage

from imaging_core.errors import Permanent
from imaging_core.telemetry import get_logger
from infra.local.functions_host.connections import Connections
from infra.local.functions_host.host_json import QueueOptions
from infra.local.functions_host.messages import TypedData
from infra.local.functions_host.outputs import OutputWriter, send_creating
from infra.local.functions_host.waiting import any_event
from infra.local.functions_host.worker import Function, InvocationFailed, Worker, new_traceparent

__all__ = ["QueueListener"]

_log = get_logger("functions_host")

_MIN_INTERVAL = 0.1
# a poison queue gets its messages from this host, which knows when it has put one there
_POISON_INTERVAL = 5.0
# how long a message in work stays invisible; renewed while the function runs, so this is the wait after a killed host
_LEASE_SECONDS = 30
_RENEW_SECONDS = 10.0


class QueueListener:
    """Feeds one queue-triggered function.

    Parameters
    ----------
    function : Function
        Its trigger names ``queueName`` and ``connection``.
    on_done : Callable[[], None]
        Called after each invocation.
    on_poison : Callable[[], None]
        Called after a message was put on the poison queue.
    """

    def __init__(
        self,
        function: Function,
        worker: Worker,
        connections: Connections,
        outputs: OutputWriter,
        options: QueueOptions,
        on_done: Callable[[], None],
        on_poison: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_poison = on_poison
        self._function = function
        self._worker = worker
        self._connections = connections
        self._outputs = outputs
        self._options = options
        self._on_done = on_done
        connection, name = function.trigger.options["connection"], function.trigger.options["queueName"]
        self._queue = connections.queue(connection, name)
        self._poison = connections.queue(connection, f"{name}-poison")
        self._is_poison = name.endswith("-poison")
        self._most = _POISON_INTERVAL if self._is_poison else options.max_polling_interval
        self._wake = asyncio.Event()
        self._in_work: set[asyncio.Task[None]] = set()

    def wake(self, *, poisoned: bool = False) -> None:
        """Poll soon: something may have been put on the queue; `poisoned`: on a poison queue."""
        if poisoned or not self._is_poison:
            self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Poll until `stop`, then finish the messages in work."""
        interval = _MIN_INTERVAL
        while not stop.is_set():
            if len(self._in_work) > self._options.new_batch_threshold:
                await any_event(stop, timeout=None, tasks=self._in_work)
                continue
            self._wake.clear()
            polled = time.monotonic()
            messages = await self._receive()
            if messages:
                interval = _MIN_INTERVAL
                for message in messages:
                    self._start(message)
                continue
            await any_event(stop, self._wake, timeout=interval)
            if self._wake.is_set():
                # a hundred requests a second would poll every queue a hundred times
                await any_event(stop, timeout=max(0.0, polled + _MIN_INTERVAL - time.monotonic()))
                interval = _MIN_INTERVAL
            else:
                interval = min(interval * 2, self._most)
        if self._in_work:
            await asyncio.wait(self._in_work)

    def _start(self, message: QueueMessage) -> None:
        task = asyncio.create_task(self._process(message))
        self._in_work.add(task)
        task.add_done_callback(self._in_work.discard)

    async def _receive(self) -> list[QueueMessage]:
        count = self._options.batch_size
        try:
            return await self._connections.call(
                lambda: list(self._queue.receive_messages(max_messages=count, visibility_timeout=_LEASE_SECONDS))
            )
        except ResourceNotFoundError:
            with suppress(AzureError):
                await self._connections.call(self._queue.create_queue)
        except AzureError as error:
            _log.warning("queue not readable", queue=self._queue.queue_name, error=type(error).__name__)
        return []

    async def _process(self, message: QueueMessage) -> None:
        try:
            body = self._body(message)
            if body is None or (message.dequeue_count or 1) > self._options.max_dequeue_count:
                await self._to_poison(message)
                return
            finished = asyncio.Event()
            lease = asyncio.create_task(self._renew(message, finished))
            try:
                done = await self._invoke(message, body)
            finally:
                # awaited, not cancelled: a renewal under way changes the receipt that the next call needs
                finished.set()
                await lease
            await self._settle(message, done)
        except AzureError as error:
            # nothing is lost: the message becomes visible again when its lease ends
            _log.warning("message not settled", queue=self._queue.queue_name, error=type(error).__name__)
        finally:
            self._on_done()

    def _body(self, message: QueueMessage) -> bytes | None:
        text = str(message.content)
        if not self._options.base64:
            return text.encode()
        try:
            return base64.b64decode(text, validate=True)
        except binascii.Error:
            return None

    async def _invoke(self, message: QueueMessage, body: bytes) -> bool:
        try:
            data = TypedData(string=body.decode("utf-8"))
        except UnicodeDecodeError:
            data = TypedData(bytes=body)
        try:
            outputs = await self._worker.invoke(self._function, data, _metadata(message), new_traceparent())
            await self._outputs.write(self._function, outputs)
        except (InvocationFailed, Permanent):
            return False
        return True

    async def _settle(self, message: QueueMessage, done: bool) -> None:
        if done:
            await self._update(lambda: self._queue.delete_message(message.id, message.pop_receipt))
        elif (message.dequeue_count or 1) >= self._options.max_dequeue_count:
            await self._to_poison(message)
        else:
            seconds = round(self._options.visibility_timeout)
            await self._update(
                partial(self._queue.update_message, message.id, message.pop_receipt, visibility_timeout=seconds)
            )

    async def _to_poison(self, message: QueueMessage) -> None:
        await self._connections.call(partial(send_creating, self._poison, str(message.content)))
        await self._update(lambda: self._queue.delete_message(message.id, message.pop_receipt))
        self._on_poison()
        _log.error("message moved to the poison queue", queue=self._poison.queue_name, tries=message.dequeue_count)

    async def _update(self, call: Callable[[], object]) -> None:
        # gone: another host took the message after this one had lost its lease
        with suppress(ResourceNotFoundError):
            await self._connections.call(call)

    async def _renew(self, message: QueueMessage, finished: asyncio.Event) -> None:
        while True:
            await any_event(finished, timeout=_RENEW_SECONDS)
            if finished.is_set():
                return
            update = partial(
                self._queue.update_message, message.id, message.pop_receipt, visibility_timeout=_LEASE_SECONDS
            )
            try:
                message.pop_receipt = (await self._connections.call(update)).pop_receipt
            except AzureError as error:
                _log.warning("lease not renewed", queue=self._queue.queue_name, error=type(error).__name__)


def _metadata(message: QueueMessage) -> dict[str, TypedData]:
    return {
        "Id": TypedData(string=str(message.id)),
        "DequeueCount": TypedData(string=str(message.dequeue_count)),
        "PopReceipt": TypedData(string=str(message.pop_receipt)),
        "ExpirationTime": TypedData(string=_time(message.expires_on)),
        "InsertionTime": TypedData(string=_time(message.inserted_on)),
        "NextVisibleTime": TypedData(string=_time(message.next_visible_on)),
    }


def _time(moment: datetime | None) -> str:
    # the worker parses no other form
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ") if moment is not None else ""

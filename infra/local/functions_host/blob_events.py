"""Blob triggers with source EventGrid: one event per new blob or new version of it, at least once.

Azurite publishes no events, so the container is listed instead: four times a second while blobs come, once a second
when none do. The function sees what Azure gives it: the blob's content, name, properties and metadata.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from azure.core.exceptions import AzureError, ResourceExistsError, ResourceNotFoundError
from azure.storage.blob import BlobClient, BlobProperties, ContainerClient

from imaging_core.errors import Permanent
from imaging_core.telemetry import get_logger
from infra.local.functions_host.connections import Connections
from infra.local.functions_host.host_json import BlobOptions
from infra.local.functions_host.messages import ModelBindingData, TypedData
from infra.local.functions_host.outputs import OutputWriter, send_creating
from infra.local.functions_host.state import HostState
from infra.local.functions_host.waiting import any_event
from infra.local.functions_host.worker import Function, InvocationFailed, Worker, new_traceparent

__all__ = ["BlobEvents"]

_log = get_logger("functions_host")

_MIN_INTERVAL, _MAX_INTERVAL = 0.25, 1.0
_POISON_QUEUE = "webjobs-blobtrigger-poison"


class BlobEvents:
    """Feeds one blob-triggered function.

    Parameters
    ----------
    function : Function
        Its trigger names ``path`` (``container/{name}``) and ``connection``.
    state : HostState
        Remembers which blobs had their event.
    """

    def __init__(
        self,
        function: Function,
        worker: Worker,
        connections: Connections,
        outputs: OutputWriter,
        options: BlobOptions,
        state: HostState,
        on_done: Callable[[], None],
    ) -> None:
        self._function = function
        self._worker = worker
        self._connections = connections
        self._outputs = outputs
        self._options = options
        self._state = state
        self._on_done = on_done
        self._connection: str = function.trigger.options["connection"]
        self._container_name, _, pattern = function.trigger.options["path"].partition("/")
        self._pattern = _compile(pattern or "{name}")
        # what the worker says of a parameter that is a client of the storage SDK
        self._by_reference: bool = bool(function.trigger.options.get("properties", {}).get("SupportsDeferredBinding"))
        self._in_work: dict[str, asyncio.Task[None]] = {}
        self._not_before: dict[str, float] = {}
        self._slots = asyncio.Semaphore(options.max_degree_of_parallelism)

    @property
    def _container(self) -> ContainerClient:
        return self._connections.blobs(self._connection).get_container_client(self._container_name)

    async def run(self, stop: asyncio.Event) -> None:
        """List until `stop`, then finish the events in work."""
        interval = _MIN_INTERVAL
        while not stop.is_set():
            started = time.monotonic()
            found = await self._look()
            # a large container must not keep the machine busy with listing
            pause = max(2 * (time.monotonic() - started), _MIN_INTERVAL)
            interval = pause if found else max(min(interval * 1.5, _MAX_INTERVAL), pause)
            await any_event(stop, timeout=interval)
        if self._in_work:
            await asyncio.wait(self._in_work.values())

    async def _look(self) -> bool:
        try:
            blobs = await self._connections.call(lambda: list(self._container.list_blobs(include=["metadata"])))
        except ResourceNotFoundError:
            await self._make_container()
            return False
        except AzureError as error:
            _log.warning("container not readable", container=self._container_name, error=type(error).__name__)
            return False
        self._state.forget_absent(self._container_name, {blob.name for blob in blobs})
        started = [self._start(blob) for blob in blobs if self._pattern.fullmatch(blob.name)]
        return any(started)

    async def _make_container(self) -> None:
        try:
            await self._connections.call(self._container.create_container)
        except (ResourceExistsError, AzureError) as error:
            _log.warning("container not made", container=self._container_name, error=type(error).__name__)

    def _start(self, blob: BlobProperties) -> bool:
        tries = self._state.tries(self._container_name, blob.name, blob.etag)
        if tries is None or blob.name in self._in_work or time.monotonic() < self._not_before.get(blob.name, 0):
            return False
        task = asyncio.create_task(self._deliver(blob, tries))
        self._in_work[blob.name] = task
        task.add_done_callback(lambda _: self._in_work.pop(blob.name, None))
        return True

    async def _deliver(self, blob: BlobProperties, tries: int) -> None:
        async with self._slots:
            client = self._container.get_blob_client(blob.name)
            try:
                data = self._reference(blob) if self._by_reference else await self._content(client)
                outputs = await self._worker.invoke(
                    self._function, data, self._metadata(blob, client.url), new_traceparent()
                )
                await self._outputs.write(self._function, outputs)
            except ResourceNotFoundError:
                return
            except (InvocationFailed, Permanent):
                await self._failed(blob, tries + 1)
                return
            except AzureError as error:
                _log.warning("blob event not delivered", container=self._container_name, error=type(error).__name__)
                return
            finally:
                self._on_done()
            self._not_before.pop(blob.name, None)
            self._state.delivered(self._container_name, blob.name, blob.etag)

    async def _content(self, client: BlobClient) -> TypedData:
        return TypedData(bytes=await self._connections.call(lambda: client.download_blob().readall()))

    def _reference(self, blob: BlobProperties) -> TypedData:
        """Return what the host of Azure sends for a parameter of an SDK type: where the blob is, and no content."""
        where = {"Connection": self._connection, "ContainerName": self._container_name, "BlobName": blob.name}
        reference = ModelBindingData(
            version="1.0",
            source="AzureStorageBlobs",
            content_type="application/json",
            content=json.dumps(where).encode(),
        )
        return TypedData(model_binding_data=reference)

    async def _failed(self, blob: BlobProperties, tries: int) -> None:
        if tries < self._options.poison_blob_threshold:
            self._not_before[blob.name] = time.monotonic() + 2**tries
            self._state.failed(self._container_name, blob.name, blob.etag, tries)
            return
        text = json.dumps(
            {
                "Type": "BlobTrigger",
                "FunctionId": self._function.name,
                "BlobType": "BlockBlob",
                "ContainerName": self._container_name,
                "BlobName": blob.name,
                "ETag": blob.etag,
            }
        )
        queue = self._connections.queue(self._connection, _POISON_QUEUE)
        try:
            await self._connections.call(partial(send_creating, queue, base64.b64encode(text.encode()).decode()))
        except AzureError as error:
            _log.warning("poison queue not writable", queue=_POISON_QUEUE, error=type(error).__name__)
            return
        self._not_before.pop(blob.name, None)
        self._state.delivered(self._container_name, blob.name, blob.etag)
        _log.error("blob given up", container=self._container_name, queue=_POISON_QUEUE, tries=tries)

    def _metadata(self, blob: BlobProperties, uri: str) -> dict[str, TypedData]:
        properties: dict[str, Any] = {
            "ETag": blob.etag,
            "ContentLength": blob.size,
            "ContentType": blob.content_settings.content_type,
            "LastModified": blob.last_modified.isoformat() if blob.last_modified else None,
        }
        match = self._pattern.fullmatch(blob.name)
        values = match.groupdict() if match else {}
        return {
            "BlobTrigger": TypedData(string=f"{self._container_name}/{blob.name}"),
            "Uri": TypedData(string=uri),
            "Properties": TypedData(json=json.dumps(properties)),
            "Metadata": TypedData(json=json.dumps(dict(blob.metadata or {}))),
            **{name: TypedData(string=value) for name, value in values.items()},
        }


def _compile(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", pattern)
    text = "".join(re.escape(part) if index % 2 == 0 else f"(?P<{part}>.+)" for index, part in enumerate(parts))
    return re.compile(text)

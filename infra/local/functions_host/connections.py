"""Connections of bindings: the name in ``connection=`` to clients of the storage account."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from azure.storage.blob import BlobServiceClient
from azure.storage.queue import QueueClient, QueueServiceClient

from imaging_core.errors import Permanent

__all__ = ["Connections"]

T = TypeVar("T")

_OPTIONS: dict[str, Any] = {"retry_total": 2, "retry_connect": 1, "connection_timeout": 5, "read_timeout": 30}


class Connections:
    """Clients of the connections that bindings name, and the threads on which their blocking calls run.

    Notes
    -----
    A connection's name is an app setting by the rules of Functions, so it is looked up in the environment here: under
    the name itself, else with ``AzureWebJobs`` before it.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(max_workers=32, thread_name_prefix="host-io")
        self._queues: dict[str, QueueServiceClient] = {}
        self._blobs: dict[str, BlobServiceClient] = {}

    async def call(self, function: Callable[[], T]) -> T:
        """Run a blocking SDK call beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    def queue(self, connection: str, name: str) -> QueueClient:
        """Return the client of one queue; texts are passed as they are on the wire."""
        if connection not in self._queues:
            self._queues[connection] = QueueServiceClient.from_connection_string(_setting(connection), **_OPTIONS)
        return self._queues[connection].get_queue_client(name)

    def blobs(self, connection: str) -> BlobServiceClient:
        """Return the client of the account's blobs."""
        if connection not in self._blobs:
            self._blobs[connection] = BlobServiceClient.from_connection_string(_setting(connection), **_OPTIONS)
        return self._blobs[connection]

    def close(self) -> None:
        """End the threads and close the clients."""
        self._threads.shutdown(wait=True)
        for queue_service in self._queues.values():
            queue_service.close()
        for blob_service in self._blobs.values():
            blob_service.close()


def _setting(connection: str) -> str:
    for name in (connection, f"AzureWebJobs{connection}"):
        value = os.environ.get(name)
        if value:
            return value
    raise Permanent("bad-setting", f"the binding connection {connection or '(empty)'} is not set")

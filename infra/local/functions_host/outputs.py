"""Output bindings: what a function returned for a queue or blob is written once it is done."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from functools import partial

from azure.core.exceptions import ResourceNotFoundError
from azure.storage.queue import QueueClient

from imaging_core.errors import Permanent
from infra.local.functions_host.connections import Connections
from infra.local.functions_host.messages import TypedData
from infra.local.functions_host.worker import Binding, Function, Outputs

__all__ = ["OutputWriter", "send_creating"]


class OutputWriter:
    """Writes the outputs of an invocation.

    Parameters
    ----------
    connections : Connections
        Clients of the bindings' connections.
    use_base64 : bool
        ``extensions.queues.messageEncoding`` of host.json.
    on_queued : Callable[[], None]
        Called after messages were put on a queue.
    """

    def __init__(self, connections: Connections, use_base64: bool, on_queued: Callable[[], None]) -> None:
        self._connections = connections
        self._base64 = use_base64
        self._on_queued = on_queued

    async def write(self, function: Function, outputs: Outputs) -> None:
        """Write every queue and blob output; an HTTP answer is the caller's."""
        values = dict(outputs.named)
        if outputs.returned is not None:
            values["$return"] = outputs.returned
        for name, value in values.items():
            binding = function.outputs.get(name)
            if binding is None or binding.type == "http":
                continue
            if binding.type == "queue":
                await self._queue(binding, value)
            elif binding.type == "blob":
                await self._blob(binding, value)
            else:
                raise Permanent("bad-setting", f"{function.name}: no output binding of type {binding.type} here")

    async def _queue(self, binding: Binding, value: TypedData) -> None:
        client = self._connections.queue(binding.options["connection"], binding.options["queueName"])
        for body in _bodies(value):
            text = base64.b64encode(body).decode() if self._base64 else body.decode()
            await self._connections.call(partial(send_creating, client, text))
        self._on_queued()

    async def _blob(self, binding: Binding, value: TypedData) -> None:
        container, _, name = binding.options["path"].partition("/")
        if "{" in name:
            raise Permanent("bad-setting", f"{name}: templated output paths are not taken here")
        client = self._connections.blobs(binding.options["connection"]).get_blob_client(container, name)
        data = value.string.encode() if value.WhichOneof("data") == "string" else value.bytes
        await self._connections.call(partial(client.upload_blob, data, overwrite=True))


def send_creating(client: QueueClient, text: str) -> None:
    """Send a message; a queue that is missing is made first, as the Functions host does."""
    try:
        client.send_message(text)
    except ResourceNotFoundError:
        client.create_queue()
        client.send_message(text)


def _bodies(value: TypedData) -> list[bytes]:
    kind = value.WhichOneof("data")
    if kind == "bytes":
        return [value.bytes]
    if kind == "string":
        return [value.string.encode()]
    document = json.loads(value.json)
    items = document if isinstance(document, list) else [document]
    return [(item["body"] if isinstance(item, dict) and "body" in item else _text(item)).encode() for item in items]


def _text(item: object) -> str:
    return item if isinstance(item, str) else json.dumps(item)

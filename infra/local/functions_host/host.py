"""The host: starts the worker, one listener per trigger and the HTTP server; stops them without losing work."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import uvicorn

from imaging_core.errors import Permanent
from imaging_core.telemetry import get_logger
from infra.local.functions_host.blob_events import BlobEvents
from infra.local.functions_host.connections import Connections
from infra.local.functions_host.host_json import HostOptions, read_host_json
from infra.local.functions_host.http_frontend import HttpFrontend
from infra.local.functions_host.messages import TypedData
from infra.local.functions_host.outputs import OutputWriter
from infra.local.functions_host.queue_listener import QueueListener
from infra.local.functions_host.routes import routes
from infra.local.functions_host.state import HostState
from infra.local.functions_host.timer import Timer
from infra.local.functions_host.waiting import any_event
from infra.local.functions_host.worker import Function, InvocationFailed, Worker, new_traceparent

__all__ = ["HostArguments", "serve"]

_log = get_logger("functions_host")

_GRACE_SECONDS = 25


@dataclass(frozen=True)
class HostArguments:
    """What the command line says.

    Parameters
    ----------
    app : Path
        ``function_app.py``; ``host.json`` lies beside it.
    host, port : str, int
        Where to listen.
    state : Path
        SQLite file of what was delivered.
    max_body : int
        Largest request body, in bytes.
    """

    app: Path
    host: str
    port: int
    state: Path
    max_body: int


class _Listener(Protocol):
    async def run(self, stop: asyncio.Event) -> None: ...


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the host's own stop everything in order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(arguments: HostArguments) -> None:
    """Run the app until SIGTERM or SIGINT, then finish what is in work.

    Raises
    ------
    Permanent
        With code ``bad-setting``: the app does not index, a connection is not set, or the port is taken.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    listening = _bind(arguments.host, arguments.port)
    worker = Worker(arguments.app)
    functions = await worker.start()
    options = read_host_json(arguments.app.resolve().parent / "host.json")
    connections = Connections()
    state = HostState(arguments.state)
    try:
        await _run(arguments, options, functions, worker, connections, state, listening, stop)
    finally:
        worker.stop()
        connections.close()
        state.close()
        listening.close()


async def _run(
    arguments: HostArguments,
    options: HostOptions,
    functions: Sequence[Function],
    worker: Worker,
    connections: Connections,
    state: HostState,
    listening: socket.socket,
    stop: asyncio.Event,
) -> None:
    queues: list[QueueListener] = []

    def wake_queues() -> None:
        # the functions of one app feed one another: what one has done, the next shall see at once
        for queue in queues:
            queue.wake()

    def wake_poison() -> None:
        for queue in queues:
            queue.wake(poisoned=True)

    outputs = OutputWriter(connections, options.queues.base64, wake_queues)
    others: list[_Listener] = []
    for function in functions:
        kind = function.trigger.type
        if kind == "queueTrigger":
            queues.append(
                QueueListener(function, worker, connections, outputs, options.queues, wake_queues, wake_poison)
            )
        elif kind == "blobTrigger":
            others.append(BlobEvents(function, worker, connections, outputs, options.blobs, state, wake_queues))
        elif kind == "timerTrigger":
            others.append(Timer(function, worker, outputs, state, wake_queues))
        elif kind == "warmupTrigger":
            await _warm_up(function, worker)
        elif kind != "httpTrigger":
            raise Permanent("bad-setting", f"{function.name}: no {kind} on this host")
    table = routes(functions, options.route_prefix)
    frontend = HttpFrontend(table, worker, outputs, arguments.max_body, wake_queues)
    server = _Server(
        uvicorn.Config(
            frontend,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
    )
    tasks = [asyncio.create_task(listener.run(stop)) for listener in (*queues, *others)]
    tasks.append(asyncio.create_task(server.serve(sockets=[listening])))
    _log.info("host started", functions=len(functions), port=listening.getsockname()[1])
    # a listener that ends by itself has failed: the host ends too, and is started again from outside
    await any_event(stop, timeout=None, tasks=tasks)
    stop.set()
    server.should_exit = True
    done, late = await asyncio.wait(tasks, timeout=_GRACE_SECONDS + 5)
    for task in late:
        task.cancel()
    _log.info("host stopped", unfinished=len(late))
    for task in done:
        task.result()


async def _warm_up(function: Function, worker: Worker) -> None:
    # as on Azure: before the first request, and a failure keeps nobody from being served
    with contextlib.suppress(InvocationFailed):
        await worker.invoke(function, TypedData(json="{}"), {}, new_traceparent())


def _bind(host: str, port: int) -> socket.socket:
    # asyncio switches Nagle's algorithm off where the protocol is named: else each answer waits 40 ms for an ACK
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise Permanent("bad-setting", f"port {port} is taken: set INGESTION_PORT to another") from error
    return listening

"""HTTP triggers as an ASGI application."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import parse_qsl

from azure.core.exceptions import AzureError

from imaging_core.errors import Permanent
from imaging_core.telemetry import get_logger
from infra.local.functions_host.messages import RpcHttp, TypedData
from infra.local.functions_host.outputs import OutputWriter
from infra.local.functions_host.routes import Route, match_route
from infra.local.functions_host.worker import Function, InvocationFailed, Worker, new_traceparent

__all__ = ["HttpFrontend"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_log = get_logger("functions_host")
_DRAIN_SECONDS = 5.0


class _BodyTooLarge(Exception):
    """The request's body is above the limit."""


class _ClientGone(Exception):
    """The client closed the connection before its request was complete."""


class HttpFrontend:
    """Answers requests by the function whose route matches.

    Parameters
    ----------
    table : Sequence[Route]
        Compiled routes, most specific first.
    worker : Worker
        Runs the functions.
    outputs : OutputWriter
        Writes output bindings before the answer goes out.
    max_body : int
        FUNCTIONS_REQUEST_BODY_SIZE_LIMIT, in bytes; more is answered 413 before the function runs.
    on_done : Callable[[], None]
        Called after each invocation.
    """

    def __init__(
        self,
        table: Sequence[Route],
        worker: Worker,
        outputs: OutputWriter,
        max_body: int,
        on_done: Callable[[], None],
    ) -> None:
        self._table = table
        self._worker = worker
        self._outputs = outputs
        self._max_body = max_body
        self._on_done = on_done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        found = match_route(self._table, scope["method"], scope.get("raw_path") or scope["path"].encode())
        if found is None:
            await _answer(send, 404)
            return
        function, params = found
        try:
            body = await self._body(scope, receive)
        except _BodyTooLarge:
            await _answer(send, 413, [(b"connection", b"close")])
            # a client that is still sending would see a reset connection instead of the answer
            await _drain(receive)
            return
        except _ClientGone:
            return
        await self._invoke(function, _request(scope, params, body), _traceparent(scope), send)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if declared.isdigit() and int(declared) > self._max_body:
            raise _BodyTooLarge
        # one buffer, whose bytes `getvalue` hands over as they are: joined pieces would be a second copy of the body
        body = io.BytesIO()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _ClientGone
            body.write(message.get("body", b""))
            if body.tell() > self._max_body:
                raise _BodyTooLarge
            if not message.get("more_body", False):
                return body.getvalue()

    async def _invoke(self, function: Function, request: RpcHttp, traceparent: str, send: Send) -> None:
        try:
            outputs = await self._worker.invoke(function, TypedData(http=request), {}, traceparent)
            await self._outputs.write(function, outputs)
        except InvocationFailed:
            await _answer(send, 500)
            return
        except (AzureError, Permanent) as error:
            _log.error("output not written", function=function.name, error=type(error).__name__)
            await _answer(send, 500)
            return
        finally:
            self._on_done()
        await _send_result(send, outputs.returned or outputs.named.get("$return"))


async def _send_result(send: Send, result: TypedData | None) -> None:
    if result is None:
        await _answer(send, 204)
    elif result.WhichOneof("data") == "http":
        answer = result.http
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.items()]
        headers += [(b"set-cookie", _cookie(cookie).encode("latin-1")) for cookie in answer.cookies or ()]
        await _answer(send, int(answer.status_code), headers, answer.body.bytes)
    else:
        await _answer(send, 200, [(b"content-type", b"text/plain; charset=utf-8")], _plain(result))


def _plain(result: TypedData) -> bytes:
    value = vars(result)[result.WhichOneof("data") or "string"]
    return value if isinstance(value, bytes) else str(value).encode()


def _cookie(cookie: Any) -> str:
    jar: SimpleCookie = SimpleCookie({cookie.name: cookie.value})
    morsel = jar[cookie.name]
    for attribute, key in (("path", "path"), ("domain", "domain"), ("max_age", "max-age")):
        value = getattr(cookie, attribute, None)
        if value is not None:
            morsel[key] = value.value
    for attribute, key in (("secure", "secure"), ("http_only", "httponly")):
        value = getattr(cookie, attribute, None)
        if value is not None and value.value:
            morsel[key] = True
    return morsel.OutputString()


async def _answer(send: Send, status: int, headers: list[tuple[bytes, bytes]] | None = None, body: bytes = b"") -> None:
    lines = [header for header in headers or [] if header[0] != b"content-length"]
    if status not in (204, 304):
        lines.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})


async def _drain(receive: Receive) -> None:
    async def rest() -> None:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return

    try:
        await asyncio.wait_for(rest(), _DRAIN_SECONDS)
    except TimeoutError:
        return


def _request(scope: Scope, params: dict[str, str], body: bytes) -> RpcHttp:
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    query: dict[str, str] = {}
    text = scope["query_string"].decode("latin-1")
    for name, value in parse_qsl(text, keep_blank_values=True):
        query[name] = f"{query[name]},{value}" if name in query else value
    raw_path = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
    url = f"{scope['scheme']}://{headers.get('host', '')}{raw_path}{'?' + text if text else ''}"
    return RpcHttp(
        method=scope["method"], url=url, headers=headers, params=params, query=query, body=TypedData(bytes=body)
    )


def _traceparent(scope: Scope) -> str:
    sent = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"traceparent"), "")
    parts = sent.split("-")
    well_formed = len(parts) == 4 and [len(part) for part in parts] == [2, 32, 16, 2]
    return sent if well_formed else new_traceparent()

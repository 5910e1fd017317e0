"""A proxy that makes a FHIR server behave as Azure's does where the two differ, and fail as the cloud fails.

Differences, always on: at most 500 entries in a bundle; a conditional create loses its race (microsoft/fhir-server
#1382: its condition goes unseen); a conditional update ignores ``If-Match`` (#4647). Who leans on either is found out.
Faults are scripted: each waits for its request, in order, and then happens once.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import httpx

__all__ = ["Answer", "AzureProxy", "Fault", "Request"]

_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "host", "content-encoding"})
MOST_ENTRIES = 500


@dataclass(frozen=True)
class Request:
    """What came in."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def bundle(self) -> dict[str, Any]:
        """The bundle that was posted; empty where it is none."""
        if self.method == "POST" and self.headers.get("content-type", "").startswith("application/fhir+json"):
            parsed: dict[str, Any] = json.loads(self.body)
            return parsed if parsed.get("resourceType") == "Bundle" else {}
        return {}

    @property
    def writes(self) -> bool:
        """Whether it is a PUT or a transaction."""
        return self.method == "PUT" or self.bundle.get("type") == "transaction"


@dataclass
class Answer:
    """What goes back; `hang_up` closes the connection in the middle of it."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    hang_up: bool = False


Forward = Callable[[], Answer]
Fault = Callable[[Request, Forward], Answer]


class AzureProxy:
    """Runs until `close`.

    Parameters
    ----------
    target : str
        Base URL of the server behind.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._http = httpx.Client(timeout=30)
        self._faults: list[tuple[Callable[[Request], bool], Fault]] = []
        self._lock = threading.Lock()
        self.requests: list[Request] = []
        self.released = threading.Event()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                headers = {key.lower(): value for key, value in self.headers.items()}
                request = Request(self.command, self.path, headers, self.rfile.read(length))
                answer = proxy.answer(request)
                self._send(answer)

            do_GET = do_PUT = do_POST = do_DELETE = handle_one

            def _send(self, answer: Answer) -> None:
                self.send_response(answer.status)
                for key, value in answer.headers.items():
                    if key.lower() not in _HOP:
                        self.send_header(key, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                if answer.hang_up:
                    self.wfile.write(answer.body[: len(answer.body) // 2])
                    self.wfile.flush()
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                self.wfile.write(answer.body)

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that gave up is no error
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def base_url(self) -> str:
        """Where clients reach it."""
        return f"http://127.0.0.1:{self._server.server_address[1]}{urlsplit(self._target).path}"

    def close(self) -> None:
        """Let go of whatever hangs, and stop."""
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._http.close()

    def next(self, fault: Fault, when: Callable[[Request], bool] = lambda _: True, times: int = 1) -> None:
        """Let a fault happen to the next requests that `when` matches."""
        with self._lock:
            self._faults += [(when, fault)] * times

    @property
    def pending(self) -> int:
        """Faults that have not happened yet."""
        return len(self._faults)

    def answer(self, request: Request) -> Answer:
        """Answer as Azure would."""
        with self._lock:
            self.requests.append(request)
            index = next((number for number, (when, _) in enumerate(self._faults) if when(request)), None)
            fault = self._faults.pop(index)[1] if index is not None else None
        if len(request.bundle.get("entry") or []) > MOST_ENTRIES:
            return outcome(400, "too-costly", f"a bundle may hold {MOST_ENTRIES} entries")
        return fault(request, lambda: self._forward(request)) if fault else self._forward(request)

    def _forward(self, request: Request) -> Answer:
        own = urlsplit(self._target)
        headers = {key: value for key, value in request.headers.items() if key not in _HOP and key != "accept-encoding"}
        headers.pop("if-none-exist", None)  # as if another create had come between
        if "?" in request.path and request.method == "PUT":
            headers.pop("if-match", None)  # as Azure does on a conditional update
        body = request.body.replace(self.base_url.encode(), self._target.encode())
        response = self._http.request(
            request.method, f"{own.scheme}://{own.netloc}{request.path}", headers=headers, content=body
        )
        shown = response.content.replace(self._target.encode(), self.base_url.encode())
        return Answer(response.status_code, shown, dict(response.headers))


def outcome(status: int, code: str, text: str = "", **headers: str) -> Answer:
    """Return an OperationOutcome."""
    body = {
        "resourceType": "OperationOutcome",
        "issue": [{"severity": "error", "code": code, "diagnostics": text or code}],
    }
    shown = {
        "Content-Type": "application/fhir+json",
        **{key.replace("_", "-"): value for key, value in headers.items()},
    }
    return Answer(status, json.dumps(body).encode(), shown)


def throttled(seconds: str = "0") -> Fault:
    """429 for the whole request, with Retry-After."""
    return lambda _request, _forward: outcome(429, "throttled", Retry_After=seconds)


def away(_request: Request, _forward: Forward) -> Answer:
    """503 of the service itself."""
    return outcome(503, "transient", Retry_After="0")


def gateway_page(_request: Request, _forward: Forward) -> Answer:
    """502 with a page for people."""
    return Answer(502, b"<html><body><h1>502 Bad Gateway</h1></body></html>", {"Content-Type": "text/html"})


def applied_then_gateway_page(_request: Request, forward: Forward) -> Answer:
    """The service does it, the gateway says 504."""
    forward()
    return Answer(504, b"<html>504 Gateway Time-out</html>", {"Content-Type": "text/html"})


def applied_then_hung_up(_request: Request, forward: Forward) -> Answer:
    """The service does it, and the connection ends in the middle of the answer."""
    answer = forward()
    answer.hang_up = True
    return answer


def applied_then_truncated(_request: Request, forward: Forward) -> Answer:
    """The service does it; the answer is whole for HTTP and cut for JSON."""
    answer = forward()
    answer.body = answer.body[: len(answer.body) // 2]
    return answer


def welcome_page(_request: Request, _forward: Forward) -> Answer:
    """200 with a page: a proxy that answers for the service."""
    return Answer(200, b"<!doctype html><title>Sign in</title>", {"Content-Type": "text/html"})


def throttled_entries(_request: Request, forward: Forward) -> Answer:
    """A batch in which every second entry is throttled."""
    answer = forward()
    bundle = json.loads(answer.body)
    for entry in bundle.get("entry", [])[::2]:
        entry.pop("resource", None)
        entry["response"] = {"status": "429"}
    answer.body = json.dumps(bundle).encode()
    return answer

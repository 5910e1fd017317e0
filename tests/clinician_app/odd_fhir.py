"""A FHIR server on the wire that answers what a test tells it to: other patients' resources, refusals, nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Answer = tuple[int, dict[str, Any]]
Handler = Callable[[str, dict[str, list[str]]], Answer]


class OddFhir:
    """The server; `answer` may be replaced at any time."""

    def __init__(self, answer: Handler, port: int = 0) -> None:
        self.answer = answer
        self.asked: list[str] = []
        outer = self

        class Request(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                outer.asked.append(self.path)
                status, body = outer.answer(parts.path.removeprefix("/fhir/"), parse_qs(parts.query))
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/fhir+json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Request)
        self.base = f"http://127.0.0.1:{self._server.server_port}/fhir"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Go away: connections are refused from now on."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)


def bundle(*resources: dict[str, Any]) -> Answer:
    """Return a searchset."""
    return 200, {"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": item} for item in resources]}


def refusal(status: int) -> Answer:
    """Return an OperationOutcome."""
    return status, {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "forbidden"}]}


def of_resources(*resources: dict[str, Any]) -> Handler:
    """Return a handler that knows these resources, and gives a search all of the type, whoever's they are."""

    def answer(path: str, query: dict[str, list[str]]) -> Answer:
        kind, _, name = path.partition("/")
        found = [item for item in resources if item["resourceType"] == kind]
        if name:
            named = [item for item in found if item["id"] == name]
            return (200, named[0]) if named else refusal(404)
        return bundle(*found)

    return answer


@contextmanager
def running(answer: Handler) -> Iterator[OddFhir]:
    """Run a server for the time of a block."""
    server = OddFhir(answer)
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def running_at(base: str, answer: Handler) -> Iterator[OddFhir]:
    """Run a server at the address of one that was stopped."""
    server = OddFhir(answer, urlsplit(base).port or 0)
    try:
        yield server
    finally:
        server.stop()

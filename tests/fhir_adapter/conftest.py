"""A real FHIR server of this folder's own, empty at the start, and what the tests build on."""

from __future__ import annotations

import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from fhir_adapter.client import FhirClient
from fhir_adapter.token_source import StaticToken
from imaging_core.sites import Site
from tests import fhir_validation

Resource = dict[str, Any]
PHI = "Quibblethwaite"
"""A family name that must turn up nowhere but in FHIR bodies."""


@pytest.fixture(scope="session")
def fhir_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Start sekmet-fhir behind a bearer token; give its base URL and the token."""
    folder = tmp_path_factory.mktemp("fhir")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_urlsafe(24)
    base = f"http://127.0.0.1:{port}/fhir"
    config = folder / "settings.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "base_url": base,
                "host": "127.0.0.1",
                "port": port,
                "data_dir": str(folder / "data"),
                "log_inbound": False,
                "simulator": {"enabled": False},
                "server_auth": {"types": ["bearer"], "tokens": [token]},
            }
        )
    )
    log = (folder / "log").open("wb")
    program = Path(sys.executable).with_name("sekmet")
    process = subprocess.Popen([str(program), "serve", "-c", str(config)], stdout=log, stderr=log)
    try:
        _wait_until_up(base, token, process)
        yield base, token
    finally:
        process.terminate()
        process.wait(10)
        log.close()


def _wait_until_up(base: str, token: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        assert process.poll() is None, "the FHIR server ended"
        try:
            if httpx.get(f"{base}/metadata", headers={"Authorization": f"Bearer {token}"}).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.1)
    raise AssertionError("the FHIR server did not come up")


class Wire(httpx.HTTPTransport):
    """Carries requests to the server and keeps what was sent; a test may answer some itself."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[httpx.Request] = []
        self.before: Callable[[httpx.Request], httpx.Response | None] = lambda _: None
        self.after: Callable[[httpx.Request, httpx.Response], httpx.Response] = lambda _, response: response

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self.before(request) or self.after(request, super().handle_request(request))

    @property
    def writes(self) -> list[httpx.Request]:
        """PUTs and transactions."""
        return [item for item in self.requests if item.method == "PUT" or b'"type":"transaction"' in item.content]


@pytest.fixture
def wire() -> Wire:
    """What goes over the wire of `client`."""
    return Wire()


@pytest.fixture
def client(fhir_service: tuple[str, str], wire: Wire) -> Iterator[FhirClient]:
    """A client of the FHIR server."""
    base, token = fhir_service
    with FhirClient(base, StaticToken(token), transport=wire) as opened:
        yield opened


@pytest.fixture
def site() -> Site:
    """A site with a time zone and a number system of its own for each test, so that no test sees another's patients."""
    return Site("Test hospital", f"urn:oid:1.2.3.{secrets.randbelow(10**9) + 1}", "Europe/Paris", "en")


@pytest.fixture(scope="session")
def validate_resources() -> Callable[[list[Resource]], list[fhir_validation.Issue]]:
    """The validators: resources to issues of severity error."""
    fhir_validation.install()
    return lambda resources: fhir_validation.errors(fhir_validation.validate(resources))

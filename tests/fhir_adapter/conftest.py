"""Real FHIR servers of this folder's own, empty at the start, and what the tests build on."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from fhir_adapter.client import FhirClient
from fhir_adapter.token_source import StaticToken
from imaging_core.sites import Site
from tests import fhir_servers, fhir_validation

Resource = dict[str, Any]
PHI = "Quibblethwaite"
"""A family name that must turn up nowhere but in FHIR bodies."""


@pytest.fixture(scope="session", params=["sekmet", "medplum"])
def fhir_service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Start a FHIR R4 server behind a bearer token; give its base URL and the token.

    Two servers of different authors, so that nothing is tuned to one: sekmet-fhir, and @medplum/fhir-router in memory.
    """
    folder = tmp_path_factory.mktemp("fhir")
    token = secrets.token_urlsafe(24)
    start = {"sekmet": fhir_servers.sekmet, "medplum": fhir_servers.medplum}[request.param]
    with start(folder, token) as base:
        yield base, token


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

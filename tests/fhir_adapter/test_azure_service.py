"""`imaging doctor` against a loopback double of Azure Resource Manager, on the wire below the real SDK."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError

from fhir_adapter.azure_service import ServiceCheck, check_service
from imaging_core.errors import Permanent
from imaging_core.settings import Settings, load_settings

RESOURCE = (
    "/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/imaging"
    "/providers/Microsoft.HealthcareApis/workspaces/hospital/fhirservices/imaging"
)
BASE = "https://hospital-imaging.fhir.azurehealthcareapis.com"
TENANT = "99999999-2222-3333-4444-555555555555"
CONTRIBUTOR = "5a1fc7df-4bf1-4951-a576-89034ee01acd"
READER = "4c8d0bbc-75d3-4935-991f-5f3c56d81508"


class Manager:
    """Azure Resource Manager, as far as the doctor asks it."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.status = 200
        self.role_status = 200
        self.roles = [CONTRIBUTOR]
        self.properties: dict[str, Any] = {
            "provisioningState": "Succeeded",
            "authenticationConfiguration": {
                "authority": f"https://login.microsoftonline.com/{TENANT}",
                "audience": BASE,
                "smartProxyEnabled": False,
            },
            "publicNetworkAccess": "Disabled",
        }
        self.kind = "fhir-R4"
        manager = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                manager.requests.append((self.path, self.headers.get("Authorization", "")))
                status, body = manager.answer(self.path)
                shown = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(shown)))
                self.end_headers()
                self.wfile.write(shown)

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, target: str) -> tuple[int, dict[str, Any]]:
        parts = urlsplit(target)
        if parts.path.lower().endswith("/roleassignments"):
            query = parse_qs(parts.query)
            if "page" not in query:
                assert query["$filter"] == ["assignedTo('me')"]
                following = f"{self.url}{parts.path}?page=2"
                return self.role_status, {"value": [], "nextLink": following}
            prefix = "/subscriptions/1/providers/Microsoft.Authorization/roleDefinitions/"
            return 200, {"value": [{"properties": {"roleDefinitionId": prefix + role}} for role in self.roles]}
        assert parts.path.lower() == RESOURCE.lower()
        if self.status != 200:
            return self.status, {"error": {"code": "ResourceNotFound", "message": "..."}}
        return 200, {"id": RESOURCE, "kind": self.kind, "location": "westeurope", "properties": self.properties}


class Identity:
    """A managed identity whose tokens say who it is."""

    def get_token(self, *_scopes: str, **_: Any) -> AccessToken:
        claims = base64.urlsafe_b64encode(json.dumps({"oid": "me"}).encode()).decode().rstrip("=")
        return AccessToken(f"e30.{claims}.x", 4_102_444_800)


@pytest.fixture
def manager() -> Iterator[Manager]:
    opened = Manager()
    yield opened
    opened.server.shutdown()
    opened.server.server_close()


def configured(manager: Manager, **changes: Any) -> Settings:
    values = {
        "fhir_base_url": BASE,
        "fhir_resource_id": RESOURCE,
        "azure_management_url": manager.url,
        "entra_tenant_id": TENANT,
    }
    return load_settings(**{**values, **changes})


def wrong(found: list[ServiceCheck]) -> dict[str, str]:
    return {item.subject: item.detail for item in found if item.passed is False}


def test_a_service_that_fits(manager: Manager) -> None:
    found = list(check_service(configured(manager), Identity()))
    assert all(item.passed for item in found), found
    assert {item.subject for item in found} >= {"FHIR_AUDIENCE", "Azure role to read", "Azure role to write"}
    assert all(authorization.startswith("Bearer ") for _, authorization in manager.requests)


@pytest.mark.parametrize(
    ("changes", "settings", "subject"),
    [
        ({"audience": f"{BASE}/"}, {}, "FHIR_AUDIENCE"),
        ({}, {"fhir_audience": "https://other.example"}, "FHIR_AUDIENCE"),
        ({"authority": "https://login.microsoftonline.com/other"}, {}, "Azure authority"),
        ({"smartProxyEnabled": True}, {}, "Azure SMART proxy"),
    ],
)
def test_an_authentication_that_does_not_fit(
    manager: Manager, changes: dict[str, Any], settings: dict[str, Any], subject: str
) -> None:
    manager.properties["authenticationConfiguration"] |= changes
    assert set(wrong(list(check_service(configured(manager, **settings), Identity())))) == {subject}


def test_a_service_that_is_not_ready_or_of_another_version(manager: Manager) -> None:
    manager.properties["provisioningState"] = "Creating"
    manager.kind = "fhir-Stu3"
    assert set(wrong(list(check_service(configured(manager), Identity())))) == {
        "Azure FHIR service",
        "Azure FHIR version",
    }


@pytest.mark.requirement("R6")
def test_a_service_that_keeps_no_history(manager: Manager) -> None:
    manager.properties["resourceVersionPolicyConfiguration"] = {
        "default": "versioned",
        "resourceTypeOverrides": {"DiagnosticReport": "no-version"},
    }
    found = wrong(list(check_service(configured(manager), Identity())))
    assert found == {"Azure version policy": "no history is kept of DiagnosticReport"}


def test_roles_that_are_missing(manager: Manager) -> None:
    manager.roles = [READER]
    found = wrong(list(check_service(configured(manager), Identity())))
    assert list(found) == ["Azure role to write"]
    assert "FHIR Data Contributor or FHIR Data Writer" in found["Azure role to write"]


def test_what_may_not_be_read_is_said(manager: Manager) -> None:
    manager.role_status = 403
    found = list(check_service(configured(manager), Identity()))
    assert not wrong(found)
    assert "403" in next(item.detail for item in found if item.subject == "Azure roles")
    manager.status = 404
    found = list(check_service(configured(manager), Identity()))
    assert [item.passed for item in found] == [False]
    assert "404 ResourceNotFound" in found[0].detail


def test_an_identity_without_a_token(manager: Manager) -> None:
    class Nobody:
        def get_token(self, *_scopes: str, **_: Any) -> AccessToken:
            raise ClientAuthenticationError("no identity")

    (found,) = check_service(configured(manager), Nobody())
    assert found.passed is False
    assert not manager.requests


@pytest.mark.parametrize(
    "settings", [{"fhir_resource_id": "/subscriptions/1"}, {"azure_management_url": "http://evil.example"}]
)
def test_settings_that_can_not_be(manager: Manager, settings: dict[str, str]) -> None:
    with pytest.raises(Permanent, match="bad-setting"):
        list(check_service(configured(manager, **settings), Identity()))

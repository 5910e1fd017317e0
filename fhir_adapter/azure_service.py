"""What Azure Resource Manager says of the deployed FHIR service, held against the settings and what is needed.

For `imaging doctor`. The service is read by `azure-mgmt-healthcareapis`; role assignments, which that package does not
know, by one plain request with the same identity.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import httpx

from imaging_core.azure_login import azure_credential
from imaging_core.errors import Permanent, Retryable
from imaging_core.settings import Settings

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

__all__ = ["ServiceCheck", "check_service"]

_RESOURCE = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/resourceGroups/(?P<group>[^/]+)/providers/Microsoft\.HealthcareApis"
    r"/workspaces/(?P<workspace>[^/]+)/fhirservices/(?P<service>[^/]+)",
    re.IGNORECASE,
)
_AUTHORIZATION = "2022-04-01"
_READS = {
    "5a1fc7df-4bf1-4951-a576-89034ee01acd": "FHIR Data Contributor",
    "4c8d0bbc-75d3-4935-991f-5f3c56d81508": "FHIR Data Reader",
}
_WRITES = {
    "5a1fc7df-4bf1-4951-a576-89034ee01acd": "FHIR Data Contributor",
    "3f88fce4-5892-4214-ae73-ba5294559913": "FHIR Data Writer",
}
# what a person has signed must stay readable in history (R6)
_VERSIONED = ("DiagnosticReport", "Observation", "ImagingStudy", "Provenance")
_PAGES = 20


@dataclass(frozen=True)
class ServiceCheck:
    """One thing that was looked at.

    Parameters
    ----------
    subject : str
        What.
    passed : bool or None
        None: worth knowing, not wrong.
    detail : str
        What was found, and what to do.
    """

    subject: str
    passed: bool | None
    detail: str


def check_service(settings: Settings, credential: TokenCredential | None = None) -> Iterator[ServiceCheck]:
    """Compare the service of FHIR_RESOURCE_ID with the settings, and this identity's roles with what is needed.

    Raises
    ------
    Permanent
        ``bad-setting``: FHIR_RESOURCE_ID names no FHIR service, or AZURE_MANAGEMENT_URL is no https URL.
    """
    match = _RESOURCE.fullmatch(settings.fhir_resource_id.rstrip("/"))
    if match is None:
        raise Permanent("bad-setting", "FHIR_RESOURCE_ID is not the resource ID of a FHIR service in Azure")
    management = urlsplit(settings.azure_management_url)
    if management.scheme != "https" and management.hostname not in ("127.0.0.1", "localhost"):
        raise Permanent("bad-setting", "AZURE_MANAGEMENT_URL is no https URL")
    identity = credential or azure_credential()
    try:
        service = _service(settings, identity, match)
    except (Permanent, Retryable) as error:
        yield ServiceCheck("Azure FHIR service", False, error.detail)
        return
    yield from _compare(settings, match, service)
    try:
        yield from _roles(settings, identity)
    except (Permanent, Retryable) as error:
        yield ServiceCheck("Azure roles", None, f"can't be read ({error.detail})")


def _service(settings: Settings, credential: TokenCredential, match: re.Match[str]) -> dict[str, Any]:
    from azure.core.exceptions import AzureError, HttpResponseError
    from azure.mgmt.healthcareapis import HealthcareApisManagementClient

    loopback = urlsplit(settings.azure_management_url).scheme == "http"
    try:
        with HealthcareApisManagementClient(
            credential, match["subscription"], base_url=settings.azure_management_url, retry_total=2
        ) as client:
            found = client.fhir_services.get(
                match["group"], match["workspace"], match["service"], enforce_https=not loopback
            )
    except HttpResponseError as error:
        code = error.error.code if error.error else error.reason
        raise Permanent("fhir-refused", f"Azure Resource Manager: {error.status_code} {code}") from error
    except AzureError as error:
        raise Retryable("fhir-unavailable", f"Azure Resource Manager: {type(error).__name__}") from error
    described = dict(found.as_dict())
    return described


def _compare(settings: Settings, match: re.Match[str], service: dict[str, Any]) -> Iterator[ServiceCheck]:
    state = str(service.get("provisioning_state") or "unknown")
    yield ServiceCheck("Azure FHIR service", state == "Succeeded", f"{match['service']}: {state}")
    kind = str(service.get("kind") or "")
    yield ServiceCheck("Azure FHIR version", kind == "fhir-R4", kind or "not told")
    expected = f"https://{match['workspace']}-{match['service']}.fhir.azurehealthcareapis.com"
    same = settings.fhir_base_url.lower() == expected.lower()
    yield ServiceCheck(
        "FHIR_BASE_URL", True if same else None, settings.fhir_base_url if same else f"the service's own is {expected}"
    )
    authentication: dict[str, Any] = service.get("authentication_configuration") or {}
    audience, ours = str(authentication.get("audience") or ""), settings.fhir_audience or settings.fhir_base_url
    # compared as they stand: one slash more and every token is refused
    yield ServiceCheck(
        "FHIR_AUDIENCE",
        audience == ours,
        ours if audience == ours else f"the service wants {audience or 'none'}, the settings say {ours}",
    )
    authority = str(authentication.get("authority") or "")
    if settings.entra_tenant_id:
        fits = authority.rstrip("/").rpartition("/")[2] == settings.entra_tenant_id
        yield ServiceCheck("Azure authority", fits, authority or "none")
    else:
        yield ServiceCheck("Azure authority", None, authority or "none")
    if authentication.get("smart_proxy_enabled"):
        yield ServiceCheck("Azure SMART proxy", False, "is switched on: it is retired, launches go to the EHR")
    policy: dict[str, Any] = service.get("resource_version_policy_configuration") or {}
    overrides: dict[str, str] = policy.get("resource_type_overrides") or {}
    default = str(policy.get("default") or "versioned")
    lost = [kind for kind in _VERSIONED if overrides.get(kind, default) == "no-version"]
    yield ServiceCheck(
        "Azure version policy", not lost, f"no history is kept of {', '.join(lost)}" if lost else "history is kept"
    )
    access = str(service.get("public_network_access") or "Enabled")
    yield ServiceCheck("Azure public network access", True if access == "Disabled" else None, access)


def _roles(settings: Settings, credential: TokenCredential) -> Iterator[ServiceCheck]:
    token = _token(credential, f"{settings.azure_management_url.rstrip('/')}/.default")
    principal = _claim(token, "oid")
    if not principal:
        yield ServiceCheck("Azure roles", None, "the identity's token names no object id")
        return
    held = _assigned(settings, token, principal)
    for verb, roles in (("read", _READS), ("write", _WRITES)):
        named = sorted(roles[role] for role in held & roles.keys())
        wanted = " or ".join(sorted(roles.values()))
        yield ServiceCheck(
            f"Azure role to {verb}", bool(named), ", ".join(named) if named else f"missing: assign {wanted}"
        )


def _token(credential: TokenCredential, scope: str) -> str:
    from azure.core.exceptions import AzureError

    try:
        return credential.get_token(scope).token
    except AzureError as error:
        raise Retryable("fhir-unavailable", f"no token from the identity endpoint ({type(error).__name__})") from error


def _claim(token: str, name: str) -> str:
    """Read a claim of the own token; Azure, to whom it is shown, is who verifies it."""
    parts = token.split(".")
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (IndexError, ValueError, binascii.Error):
        return ""
    return str(claims.get(name) or "") if isinstance(claims, dict) else ""


def _assigned(settings: Settings, token: str, principal: str) -> set[str]:
    """Return the role definitions that the principal has on the service, those by groups and from above included."""
    base = settings.azure_management_url.rstrip("/")
    question = quote(f"assignedTo('{principal}')", safe="()'")
    url: str | None = (
        f"{base}{settings.fhir_resource_id.rstrip('/')}/providers/Microsoft.Authorization/roleAssignments"
        f"?api-version={_AUTHORIZATION}&$filter={question}"
    )
    held: set[str] = set()
    with httpx.Client(timeout=20) as client:
        for _ in range(_PAGES):
            if url is None or not url.startswith(f"{base}/"):
                break
            page = _page(client, url, token)
            for item in page.get("value") or []:
                role = str((item.get("properties") or {}).get("roleDefinitionId") or "")
                held.add(role.rpartition("/")[2].lower())
            url = page.get("nextLink")
    return held


def _page(client: httpx.Client, url: str, token: str) -> dict[str, Any]:
    try:
        response = client.get(url, headers={"Authorization": f"Bearer {token}"})
        response.raise_for_status()
        page = response.json()
    except httpx.HTTPStatusError as error:
        raise Permanent("fhir-refused", f"role assignments: {error.response.status_code}") from error
    except (httpx.HTTPError, ValueError) as error:
        raise Retryable("fhir-unavailable", f"role assignments: {type(error).__name__}") from error
    return page if isinstance(page, dict) else {}

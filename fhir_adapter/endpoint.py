"""The Endpoint of a site's DICOMweb service (M9)."""

from __future__ import annotations

from urllib.parse import urlsplit

from fhir_adapter.client import Resource
from fhir_adapter.identity import endpoint_id
from fhir_adapter.terminology import WADO_RS
from imaging_core.errors import Permanent

__all__ = ["REQUIRES_ACCESS_TOKEN", "build"]

REQUIRES_ACCESS_TOKEN = "http://hl7.org/fhir/smart-app-launch/StructureDefinition/requires-access-token"  # noqa: S105  # a URL
"""SMART Imaging Access: the reader presents the token with which it found the ImagingStudy."""


def build(address: str, *, name: str = "", requires_access_token: bool = True) -> Resource:
    """Return the Endpoint.

    Parameters
    ----------
    address : str
        DICOMweb base URL; a trailing slash and ``/studies`` are cut off.
    name : str
        What people call it.
    requires_access_token : bool
        Whether the service checks tokens.

    Raises
    ------
    Permanent
        ``bad-setting`` where the address is no http(s) URL.
    """
    base = address.strip().rstrip("/").removesuffix("/studies").rstrip("/")
    parts = urlsplit(base)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Permanent("bad-setting", "the address of the DICOMweb service is no http(s) URL")
    resource: Resource = {
        "resourceType": "Endpoint",
        "id": endpoint_id(base),
        "extension": [{"url": REQUIRES_ACCESS_TOKEN, "valueBoolean": requires_access_token}],
        "status": "active",
        "connectionType": WADO_RS.coding(),
        "payloadType": [{"text": "DICOM"}],
        "payloadMimeType": ["application/dicom"],
        "address": base,
    }
    if name:
        resource["name"] = name
    return resource

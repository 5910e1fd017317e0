"""The key image with the model's map over it, as Media of the report (R1)."""

from __future__ import annotations

import base64

from fhir_adapter.client import Resource
from fhir_adapter.device import device_reference
from fhir_adapter.examination import Examination
from fhir_adapter.findings import AnalysisResult
from fhir_adapter.identity import media_role, resource_id
from fhir_adapter.terminology import AIAST, IMAGE_MEDIA
from fhir_adapter.wording import phrase

__all__ = ["build", "media_type"]


def build(result: AnalysisResult, examination: Examination, revision: int) -> Resource | None:
    """Return the Media of a result's key image; None where it has no picture."""
    if not result.key_image_picture:
        return None
    shared = examination.shared(result)
    title = phrase("key-image", result.language)
    resource: Resource = {
        "resourceType": "Media",
        "id": resource_id(result.study_uid, media_role(result.task), revision),
        "meta": {"security": [AIAST.coding()]},
        "identifier": _identifiers(result, revision),
        "status": "completed",
        "type": IMAGE_MEDIA.concept(),
        **{key: value for key, value in shared.items() if key in ("subject", "encounter")},
        "device": device_reference(result.model),
        "content": {
            "contentType": media_type(result.key_image_picture),
            "data": base64.b64encode(result.key_image_picture).decode(),
            "title": title,
        },
    }
    if not resource["identifier"]:
        del resource["identifier"]
    return resource


def _identifiers(result: AnalysisResult, revision: int) -> list[dict[str, str]]:
    """Name the image that is shown, and the Secondary Capture that shows the same (R8)."""
    if not result.key_image:
        return []
    uids = [("usual", result.key_image)]
    if result.assessed and result.study_uid:
        uids.append(("secondary", result.object_uid("sc", revision)))
    return [{"use": use, "system": "urn:dicom:uid", "value": f"urn:oid:{uid}"} for use, uid in uids]


def media_type(picture: bytes) -> str:
    """Return the media type of a picture by its first bytes."""
    return "image/png" if picture.startswith(b"\x89PNG") else "image/jpeg"

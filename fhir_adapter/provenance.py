"""Who made what from what: Provenance of an analysis (R5, AIProvenance where R4 allows) and of a person's acts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fhir_adapter.client import Resource
from fhir_adapter.device import device_reference
from fhir_adapter.findings import AnalysisResult
from fhir_adapter.identity import provenance_role, resource_id
from fhir_adapter.terminology import AIAST, ASSEMBLER, CREATE

__all__ = ["CONTENT_SHA256", "STATEMENT_SYSTEM", "build", "statement_of"]

STATEMENT_SYSTEM = "urn:imaging:statement"
"""System of the digest of what an analysis said; it stays when a person has changed the findings (R7)."""
CONTENT_SHA256 = "urn:imaging:extension:content-sha256"
"""Extension of an entity: SHA-256 of the stored input (FHIR's Attachment.hash would be SHA-1)."""


def build(
    result: AnalysisResult, targets: Sequence[str], revision: int, recorded: str, follows: str | None = None
) -> Resource:
    """Return the Provenance of an analysis.

    Parameters
    ----------
    targets : sequence of str
        ``Type/id`` of what the analysis wrote.
    recorded : str
        FHIR instant.
    follows : str, optional
        ``DiagnosticReport/<id>`` of the signed report that this one comes after (R7).
    """
    entities: list[dict[str, Any]] = [
        {
            "role": "source",
            "what": {
                "identifier": {"system": "urn:dicom:uid", "value": f"urn:oid:{image.sop_uid}"},
                "display": "DICOM instance",
            },
            **({"extension": [{"url": CONTENT_SHA256, "valueString": image.sha256}]} if image.sha256 else {}),
        }
        for image in sorted(result.instances, key=lambda image: image.sop_uid)
    ]
    if result.model.model_card_url:
        entities.append(
            {
                "role": "source",
                "what": {
                    "type": "DocumentReference",
                    "identifier": {"system": "urn:ietf:rfc:3986", "value": result.model.model_card_url},
                    "display": "Model card",
                },
            }
        )
    entities.append(
        {
            "role": "source",
            "what": {
                "identifier": {"system": STATEMENT_SYSTEM, "value": result.statement()},
                "display": "Digest of what the analysis says",
            },
        }
    )
    if follows:
        entities.append({"role": "revision", "what": {"reference": follows, "display": "Signed report"}})
    return {
        "resourceType": "Provenance",
        "id": resource_id(result.study_uid, provenance_role(result.task), revision),
        "meta": {"security": [AIAST.coding()]},
        "target": [{"reference": target} for target in targets],
        "recorded": recorded,
        "reason": [AIAST.concept()],
        "activity": CREATE.concept(),
        "agent": [{"type": ASSEMBLER.concept(), "who": device_reference(result.model)}],
        "entity": entities,
    }


def statement_of(provenance: Resource | None) -> str:
    """Return the digest that a stored Provenance holds; empty where it holds none."""
    for entity in (provenance or {}).get("entity") or []:
        identifier = (entity.get("what") or {}).get("identifier") or {}
        if identifier.get("system") == STATEMENT_SYSTEM:
            return str(identifier.get("value") or "")
    return ""

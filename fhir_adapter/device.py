"""The Device that stands for one model version (R4, R5: AIDevice of AI Transparency on FHIR where R4 allows)."""

from __future__ import annotations

from fhir_adapter.client import Resource
from fhir_adapter.findings import ModelInfo
from fhir_adapter.identity import device_id
from fhir_adapter.terminology import AI_MODEL_CARD, MEDICAL_IMAGE_ANALYSIS

__all__ = ["MODEL_SYSTEM", "build", "device_reference"]

MODEL_SYSTEM = "urn:imaging:model"
"""System of a model version's identifier, ``name:version``."""
_MODEL_CARD = "http://hl7.org/fhir/uv/aitransparency/StructureDefinition/aitransparency.modelCardDescription"


def build(model: ModelInfo) -> Resource:
    """Return the Device of a model version."""
    resource: Resource = {
        "resourceType": "Device",
        "id": device_id(model.name, model.version),
        "identifier": [{"system": MODEL_SYSTEM, "value": f"{model.name}:{model.version}"}],
        "status": "active",
        "deviceName": [{"name": model.title_en or model.name, "type": "user-friendly-name"}],
        "modelNumber": model.name,
        "type": MEDICAL_IMAGE_ANALYSIS.concept("AI model for medical image analysis"),
        "version": [{"value": model.version}],
    }
    if model.manufacturer:
        resource["manufacturer"] = model.manufacturer
    if model.udi:
        resource["udiCarrier"] = [{"carrierHRF": model.udi}]
    if model.sha256:
        resource["property"] = [{"type": {"text": "SHA-256 of the weights"}, "valueCode": [{"text": model.sha256}]}]
    if model.summary_en:
        resource["note"] = [{"text": model.summary_en}]
    if model.model_card_url:
        resource["contained"] = [
            {
                "resourceType": "DocumentReference",
                "id": "model-card",
                "status": "current",
                "type": AI_MODEL_CARD.concept(),
                "content": [{"attachment": {"contentType": "text/markdown", "url": model.model_card_url}}],
            }
        ]
        resource["extension"] = [{"url": _MODEL_CARD, "valueReference": {"reference": "#model-card"}}]
    return resource


def device_reference(model: ModelInfo) -> Resource:
    """Return the Reference to a model version's Device."""
    return {
        "reference": f"Device/{device_id(model.name, model.version)}",
        "display": f"{model.title_en or model.name} {model.version}",
    }

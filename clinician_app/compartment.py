"""S70: whatever a server returned, a resource is shown only if it says itself that it is the launch's patient's."""

from __future__ import annotations

from collections.abc import Iterable

from clinician_app.fhir_values import Resource, reference_id

__all__ = ["belongs_to", "of_patient"]

_TYPES = ("ImagingStudy", "DiagnosticReport", "Observation")


def belongs_to(resource: Resource, patient: str, base: str) -> bool:
    """Return whether `resource` is the Patient `patient` itself, or one whose subject is that Patient of server `base`.

    A resource without a subject, or of a type that the pages do not read, belongs to nobody.
    """
    kind = resource.get("resourceType")
    if not patient:
        return False
    if kind == "Patient":
        return resource.get("id") == patient
    return kind in _TYPES and reference_id(resource.get("subject"), "Patient", base) == patient


def of_patient(
    resources: Iterable[Resource], resource_type: str, patient: str, base: str
) -> tuple[list[Resource], int]:
    """Split into what is the patient's and of the type asked for, and the number of those dropped.

    OperationOutcome entries, which servers may put into a searchset, are not counted: they are no data.
    """
    kept: list[Resource] = []
    dropped = 0
    for resource in resources:
        if resource.get("resourceType") == resource_type and belongs_to(resource, patient, base):
            kept.append(resource)
        elif resource.get("resourceType") != "OperationOutcome":
            dropped += 1
    return kept, dropped

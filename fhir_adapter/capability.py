"""What the system needs of a FHIR service, held against its CapabilityStatement before the first image comes."""

from __future__ import annotations

from fhir_adapter.client import Resource

__all__ = ["NEEDS", "lacking"]

_WRITTEN = ("read", "update")
# resource type: interactions, search parameters that this system or the EHRs that it documents use
NEEDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "Patient": (("read", "update", "search-type"), ("identifier",)),
    "ImagingStudy": (("read", "vread", "update", "search-type"), ("identifier", "patient", "started")),
    "Endpoint": (_WRITTEN, ()),
    "ServiceRequest": (("search-type",), ("identifier",)),
    "Encounter": (("search-type",), ("identifier",)),
    "Device": (_WRITTEN, ()),
    "DiagnosticReport": (
        ("read", "vread", "update", "search-type"),
        ("patient", "category", "date", "status", "_lastUpdated", "identifier"),
    ),
    "Observation": (("read", "vread", "update", "search-type"), ("patient", "category")),
    "Media": (_WRITTEN, ()),
    "Provenance": (_WRITTEN, ()),
    "AuditEvent": (("update",), ()),
}
_EVERYWHERE = frozenset({"_id", "_lastUpdated"})


def lacking(statement: Resource) -> list[str]:
    """Return what a service does not offer by its own statement, one line each; empty where all is there.

    Parameters
    ----------
    statement : Resource
        CapabilityStatement.
    """
    if not str(statement.get("fhirVersion") or "").startswith("4.0"):
        return [f"FHIR version 4.0.1 is needed, the service has {statement.get('fhirVersion') or 'none'}"]
    rest: Resource = next((item for item in statement.get("rest") or [] if item.get("mode") == "server"), {})
    missing = [
        f"system interaction {name}"
        for name in ("transaction", "batch")
        if name not in {item.get("code") for item in rest.get("interaction") or []}
    ]
    offered = {item.get("type"): item for item in rest.get("resource") or []}
    for kind, (interactions, parameters) in NEEDS.items():
        resource = offered.get(kind)
        if resource is None:
            missing.append(f"resource {kind}")
            continue
        codes = {item.get("code") for item in resource.get("interaction") or []}
        missing.extend(f"{kind}: interaction {name}" for name in interactions if name not in codes)
        if "update" in interactions and resource.get("updateCreate") is False:
            missing.append(f"{kind}: PUT with an id of the client's choice (updateCreate)")
        names = {item.get("name") for item in resource.get("searchParam") or []} | _EVERYWHERE
        missing.extend(f"{kind}: search parameter {name}" for name in parameters if name not in names)
    return missing

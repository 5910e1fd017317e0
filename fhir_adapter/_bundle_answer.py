"""What the entries of a batch's or transaction's answer say."""

from __future__ import annotations

from typing import Any

from fhir_adapter._retry import retry_after_seconds
from fhir_adapter.errors import FhirPermanent, FhirRetryable, PreconditionFailed, outcome_issues, outcome_text

__all__ = ["batch_entry", "check_written"]

Resource = dict[str, Any]
_TRANSIENT = frozenset({408, 409, 423, 425, 429})


def batch_entry(entry: Resource) -> list[Resource]:
    """Return what one read or search of a batch found; nothing where there is nothing (404, 410).

    Raises
    ------
    FhirRetryable, FhirPermanent
        The entry failed.
    """
    status = _status(entry)
    if status in (404, 410):
        return []
    _raise_for(entry, status)
    resource = entry.get("resource")
    if not isinstance(resource, dict):
        return []
    if resource.get("resourceType") != "Bundle":
        return [resource]
    return [
        found["resource"]
        for found in resource.get("entry") or []
        if "resource" in found and (found.get("search") or {}).get("mode") != "outcome"
    ]


def check_written(entry: Resource) -> None:
    """Refuse a transaction's answer in which an entry failed: the standard has none, some gateways do.

    Raises
    ------
    PreconditionFailed, FhirRetryable, FhirPermanent
    """
    _raise_for(entry, _status(entry))


def _status(entry: Resource) -> int:
    shown = str((entry.get("response") or {}).get("status") or "")[:3]
    return int(shown) if shown.isdigit() else 500


def _raise_for(entry: Resource, status: int) -> None:
    if status < 400:
        return
    response = entry.get("response") or {}
    issues = outcome_issues(response.get("outcome") or entry.get("resource"))
    said = outcome_text(issues)
    detail = f"an entry of a bundle: {status}" + (f" ({said})" if said else "")
    if status == 412:
        raise PreconditionFailed(detail)
    if status in _TRANSIENT or status >= 500:
        raise FhirRetryable(detail, status, retry_after_seconds(str(response.get("retryAfter") or ""), 0.0), issues)
    raise FhirPermanent(detail, status, issues)

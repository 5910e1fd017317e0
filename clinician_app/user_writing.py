"""Writing to FHIR with the launching user's own token, where the EHR lets it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from clinician_app.own_studies import is_own_service
from fhir_adapter.client import Resource
from fhir_adapter.errors import FhirPermanent, FhirRetryable, PreconditionFailed
from imaging_core.settings import Settings
from smart_launch import FhirAccessError, FhirSession, LaunchSession, ScopeSet

__all__ = ["may_write", "transaction_of"]

_WRITTEN = ("DiagnosticReport", "Observation", "Provenance")
_FHIR_JSON = "application/fhir+json"


def may_write(launch: LaunchSession, settings: Settings) -> bool:
    """Return whether the launch's token may write, at the imaging service, all that a sign-off consists of."""
    same = launch.ehr.imaging_fhir == "same" and is_own_service(launch.fhir_base, settings)
    return same and all(_covers(launch.scopes, name) for name in _WRITTEN)


def _covers(scopes: ScopeSet, resource_type: str) -> bool:
    """Whether updates are allowed without a condition; an update makes the resource where it is not there yet."""
    return any(
        right.covers(level, resource_type, "u") and not right.query
        for right in scopes.rights
        for level in ("patient", "user")
    )


def transaction_of(session: FhirSession, base: str) -> Callable[[Sequence[Resource]], list[Resource]]:
    """Return what sends a transaction with the launch's token.

    Parameters
    ----------
    session : FhirSession
        Of the launch.
    base : str
        The FHIR base, where transactions are posted to.
    """

    def write(entries: Sequence[Resource]) -> list[Resource]:
        bundle = {"resourceType": "Bundle", "type": "transaction", "entry": list(entries)}
        headers = {"Content-Type": _FHIR_JSON, "Prefer": "return=representation"}
        try:
            answer = session.request("POST", base, json=bundle, headers=headers)
        except FhirAccessError as error:
            raise _typed(error) from error
        try:
            found = answer.json().get("entry")
        except (ValueError, AttributeError) as error:
            raise FhirRetryable("the answer to a transaction is no Bundle", answer.status_code) from error
        if not isinstance(found, list) or len(found) != len(entries):
            raise FhirRetryable("the answer to a transaction has another number of entries", answer.status_code)
        return found

    return write


def _typed(error: FhirAccessError) -> FhirRetryable | FhirPermanent | PreconditionFailed:
    if error.status == 412:
        return PreconditionFailed("the report has changed")
    if error.status in (0, 408, 409, 423, 425, 429) or error.status >= 500:
        return FhirRetryable(str(error), error.status, float(error.retry_after))
    return FhirPermanent(str(error), error.status)

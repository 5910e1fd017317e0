"""Two FHIR servers, one patient: find the imaging service's Patient who carries an identifier of the launch's patient.

Assigner and value must both agree, and exactly one Patient may carry them; the assigners that count are those of the
EHR's registration. Another assigner's equal number links nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from clinician_app.cache import CacheKey, ChartCache
from clinician_app.fhir_values import Identifier, Resource, identifiers, text
from clinician_app.outages import Outages
from clinician_app.sources import SourceAway
from fhir_adapter.client import FhirClient
from fhir_adapter.errors import FhirRetryable

__all__ = ["NoMatch", "SeveralMatches", "matched_patient"]

_PART = "match"


class NoMatch(Exception):
    """No Patient of the imaging service carries an identifier of the launch's patient."""


class SeveralMatches(Exception):
    """More than one does: showing either would be a guess."""


def matched_patient(
    client: FhirClient,
    launch_patient: Resource | None,
    systems: Sequence[str],
    cache: ChartCache,
    key: CacheKey,
    fresh_for: timedelta,
    outages: Outages,
) -> str:
    """Return the id of the launch's patient at the imaging service.

    Parameters
    ----------
    client : FhirClient
        The imaging service, with the app's own identity.
    launch_patient : Resource or None
        The launch's Patient as the EHR tells it.
    systems : sequence of str
        Assigners of the registration.
    cache : ChartCache
        Keeps the answer under the launch's own right.
    key : CacheKey
        That right.
    fresh_for : timedelta
        How old a kept answer may be.
    outages : Outages
        Services that are not asked for a moment.

    Raises
    ------
    NoMatch, SeveralMatches
    SourceAway
        The service is away and there is no kept answer for these identifiers.
    """
    wanted = _wanted(launch_patient, systems)
    if not wanted:
        raise NoMatch
    kept = cache.load(key).get(_PART)
    now = datetime.now(UTC)
    if kept and (now - kept.read_at < fresh_for or outages.away(client.base_url)):
        return _only(kept.resources, wanted)
    try:
        found = [
            resource
            for item in wanted
            for resource in client.search(
                "Patient", {"identifier": f"{item.system}|{item.value}", "_count": "10"}, max_pages=2
            )
        ]
    except FhirRetryable as error:
        if error.status == 0:
            outages.no_answer(client.base_url)
        if kept:
            return _only(kept.resources, wanted)
        raise SourceAway(str(error)) from error
    bare = [{"resourceType": "Patient", "id": item.get("id"), "identifier": item.get("identifier")} for item in found]
    cache.store(key, _PART, bare, now)
    return _only(bare, wanted)


def _wanted(patient: Resource | None, systems: Sequence[str]) -> list[Identifier]:
    carried = identifiers(patient.get("identifier")) if patient else ()
    return [item for item in carried if item.system in systems and item.system and "|" not in item.system]


def _only(found: Sequence[Resource], wanted: Sequence[Identifier]) -> str:
    """Return the one id, trusting no server's search: each must really carry one of the identifiers."""
    pairs = {(item.system, item.value) for item in wanted}
    ids = {
        text(resource.get("id"), 64)
        for resource in found
        if resource.get("resourceType") == "Patient"
        and pairs & {(item.system, item.value) for item in identifiers(resource.get("identifier"))}
    } - {""}
    if not ids:
        raise NoMatch
    if len(ids) > 1:
        raise SeveralMatches
    return ids.pop()

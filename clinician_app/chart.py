"""A patient's chart as the pages read it: through the cache, from FHIR where the cache is not fresh.

The parts are read one by one, so that a right that is missing for one takes nothing from the others. Whatever comes,
from FHIR or from the cache, is checked again to be the launch's patient's before it goes any further (S70).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from clinician_app.cache import CachedPart, ChartCache
from clinician_app.compartment import of_patient
from clinician_app.fhir_values import Resource, text
from clinician_app.outages import Outages
from clinician_app.patient import PatientIdentity, read_patient
from clinician_app.report import Report, read_report
from clinician_app.sources import MOST, ChartSource, SourceAway, SourceRefused
from clinician_app.study import Study, read_study
from imaging_core.telemetry import get_logger

__all__ = ["FRESH_FOR_IMAGES", "FRESH_FOR_PAGES", "Chart", "Missing", "read_chart"]

Missing = Literal["not-granted", "refused", "away"]

# A page asks FHIR again after this; a doctor who reloads while waiting for a result sees it.
FRESH_FOR_PAGES = timedelta(seconds=5)
# The images of a page were asked for a moment after it: they rest on the same reading.
FRESH_FOR_IMAGES = timedelta(minutes=2)

_RADIOLOGY = "http://terminology.hl7.org/CodeSystem/v2-0074|RAD,http://loinc.org|LP29684-5"


@dataclass(frozen=True)
class Part:
    """One question to FHIR: its name in the cache, the type that answers it, the search."""

    name: str
    resource_type: str
    params: Mapping[str, str] = field(default_factory=dict)

    @property
    def interaction(self) -> str:
        """The scope letter that the question needs."""
        return "s" if self.params else "r"


PARTS = (
    Part("patient", "Patient"),
    Part("studies", "ImagingStudy", {"_count": "100"}),
    Part("reports", "DiagnosticReport", {"category": _RADIOLOGY, "_count": "100"}),
    Part("findings", "Observation", {"category": "imaging", "_count": "100"}),
)


@dataclass(frozen=True)
class Chart:
    """What is known of the launch's patient.

    Parameters
    ----------
    patient : PatientIdentity or None
        None where the EHR does not tell.
    studies, reports : tuple
        In the server's order.
    read_at : datetime
        When the oldest part was read.
    stale : bool
        A part came from the cache because the FHIR service is away.
    missing : dict
        Parts that can't be shown, and why.
    incomplete : bool
        There is more than is read.
    """

    patient: PatientIdentity | None
    studies: tuple[Study, ...]
    reports: tuple[Report, ...]
    read_at: datetime
    stale: bool
    missing: dict[str, Missing]
    incomplete: bool
    patient_resource: Resource | None = None

    @property
    def age(self) -> timedelta:
        """How long ago the oldest part was read."""
        return datetime.now(UTC) - self.read_at

    def study(self, uid: str) -> Study | None:
        """Return the patient's study with this UID."""
        return next((study for study in self.studies if study.uid == uid), None) if uid else None

    def report(self, report_id: str) -> Report | None:
        """Return the patient's report with this id."""
        return next((report for report in self.reports if report.id == report_id), None)


def read_chart(
    source: ChartSource,
    cache: ChartCache,
    fresh_for: timedelta,
    *,
    outages: Outages,
    systems: Sequence[str] = (),
    parts: Sequence[Part] = PARTS,
) -> Chart:
    """Read the chart of the source's patient.

    Parameters
    ----------
    source : ChartSource
        Where to read.
    cache : ChartCache
        Asked first, and filled.
    fresh_for : timedelta
        How old an answer may be before FHIR is asked again.
    outages : Outages
        Services that are not asked for a moment.
    systems : sequence of str
        Identifier systems to prefer in the banner.
    parts : sequence of Part
        Which parts; those left out are empty.
    """
    reading = _Reading(source, cache, fresh_for, outages)
    found = {part.name: reading.resources(part) for part in parts}
    observations = {text(item.get("id"), 64): item for item in found.get("findings", [])}
    people = found.get("patient", [])
    return Chart(
        patient=read_patient(people[0], systems) if people else None,
        studies=tuple(read_study(item) for item in found.get("studies", [])),
        reports=tuple(read_report(item, observations, source.base) for item in found.get("reports", [])),
        read_at=reading.oldest,
        stale=reading.stale,
        missing=reading.missing,
        incomplete=reading.incomplete,
        patient_resource=people[0] if people else None,
    )


class _Reading:
    """One pass over the parts; remembers what it met."""

    def __init__(self, source: ChartSource, cache: ChartCache, fresh_for: timedelta, outages: Outages) -> None:
        self._source = source
        self._cache = cache
        self._now = datetime.now(UTC)
        self._fresh_for = fresh_for
        self._cached = cache.load(source.key)
        self._outages = outages
        self._away = outages.away(source.base)
        self.oldest = self._now
        self.stale = False
        self.incomplete = False
        self.missing: dict[str, Missing] = {}

    def resources(self, part: Part) -> list[Resource]:
        """Return a part's resources, all of them the patient's."""
        if not self._source.allows(part.resource_type, part.interaction):
            self.missing[part.name] = "not-granted"
            return []
        cached = self._cached.get(part.name)
        if cached and self._now - cached.read_at < self._fresh_for:
            return self._checked(part, cached.resources, cached.read_at)
        if self._away:
            return self._without_service(part, cached)
        try:
            answer = self._asked(part)
        except SourceRefused:
            self._cache.forget(self._source.key, part.name)
            self.missing[part.name] = "refused"
            return []
        except SourceAway as error:
            self._away = True  # one time-out is enough for a page
            if error.no_answer:
                self._outages.no_answer(self._source.base)
            get_logger(__name__).warning("fhir-away", part=part.name, error=type(error.__cause__).__name__)
            return self._without_service(part, cached)
        kept = self._checked(part, answer, self._now)
        self._cache.store(self._source.key, part.name, kept, self._now)
        return kept

    def _asked(self, part: Part) -> list[Resource]:
        if part.resource_type == "Patient":
            found = self._source.read("Patient", self._source.patient)
            return [found] if found else []
        return self._source.search(part.resource_type, {"patient": self._source.patient, **part.params})

    def _without_service(self, part: Part, cached: CachedPart | None) -> list[Resource]:
        if cached is None:
            self.missing[part.name] = "away"
            return []
        self.stale = True
        return self._checked(part, cached.resources, cached.read_at)

    def _checked(self, part: Part, resources: Sequence[Resource], read_at: datetime) -> list[Resource]:
        kept, dropped = of_patient(resources, part.resource_type, self._source.patient, self._source.base)
        if dropped:
            get_logger(__name__).error("foreign-resources-dropped", part=part.name, count=dropped)
        self.oldest = min(self.oldest, read_at)
        self.incomplete = self.incomplete or len(kept) > MOST
        return kept[:MOST]

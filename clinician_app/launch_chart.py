"""The chart that a launch may see: from the EHR itself, or from the imaging service for the one patient who matches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from clinician_app.cache import CacheKey
from clinician_app.chart import PARTS, Chart, Missing, read_chart
from clinician_app.patient_match import matched_patient
from clinician_app.services import Services
from clinician_app.sources import ImagingServiceSource, LaunchSource, SourceAway
from clinician_app.study_progress import StudyProgress, load_progress
from clinician_app.timeline import Entry, timeline
from smart_launch import LaunchSession

__all__ = ["LaunchChart", "open_chart"]

_PATIENT = tuple(part for part in PARTS if part.name == "patient")
_IMAGING = tuple(part for part in PARTS if part.name != "patient")


@dataclass(frozen=True)
class LaunchChart:
    """A chart, the key under which it is cached, and the patient's id where the results are."""

    chart: Chart
    key: CacheKey
    base: str
    subject: str

    def entries(self, services: Services) -> list[Entry]:
        """Return the timeline, with what the pipeline says of each study."""
        progress: dict[str, StudyProgress] = load_progress(
            services.cache, self.key, (study.uid for study in self.chart.studies)
        )
        return timeline(self.chart.studies, self.chart.reports, progress)


def open_chart(services: Services, launch: LaunchSession, fresh_for: timedelta) -> LaunchChart:
    """Read the chart of the launch's patient.

    Raises
    ------
    LaunchError
        ``no-patient``; or what ended the session.
    NoMatch, SeveralMatches
        The results are at another service, and it can't be said who the patient is there.
    """
    ehr = LaunchSource(launch, services.smart.fhir(launch))
    systems = launch.ehr.patient_identifier_systems
    if launch.ehr.imaging_fhir == "same":
        chart = read_chart(ehr, services.cache, fresh_for, outages=services.outages, systems=systems)
        return LaunchChart(chart, ehr.key, ehr.base, ehr.patient)
    client = services.imaging_client()
    person = read_chart(ehr, services.cache, fresh_for, outages=services.outages, systems=systems, parts=_PATIENT)
    try:
        matched = matched_patient(
            client, person.patient_resource, systems, services.cache, ehr.key, fresh_for, services.outages
        )
    except SourceAway:
        away: dict[str, Missing] = {part.name: "away" for part in _IMAGING}
        without = replace(person, missing={**person.missing, **away})
        return LaunchChart(without, ehr.key, ehr.base, ehr.patient)
    imaging = ImagingServiceSource(client, matched)
    chart = read_chart(imaging, services.cache, fresh_for, outages=services.outages, parts=_IMAGING)
    joined = replace(
        chart,
        patient=person.patient,
        patient_resource=person.patient_resource,
        read_at=min(chart.read_at, person.read_at),
        stale=chart.stale or person.stale,
        missing={**person.missing, **chart.missing},
    )
    return LaunchChart(joined, imaging.key, imaging.base, matched)

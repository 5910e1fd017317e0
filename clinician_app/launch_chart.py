"""The chart that a launch may see: from the EHR itself, or from the imaging service for the one patient who matches.

With it comes which of its studies are really that patient's by the ledger: only their images and results are shown.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from clinician_app.bearer_access import BearerCaller
from clinician_app.cache import CacheKey
from clinician_app.chart import PARTS, Chart, Missing, read_chart
from clinician_app.own_studies import NOTHING_OWN, OwnStudies, is_own_service, own_studies
from clinician_app.patient_match import matched_patient
from clinician_app.report import Report, ReportPath
from clinician_app.services import Services
from clinician_app.sources import ImagingServiceSource, LaunchSource, SourceAway
from clinician_app.study import Study
from clinician_app.study_progress import StudyProgress, load_progress
from clinician_app.timeline import Entry, timeline
from smart_launch import LaunchSession

__all__ = ["LaunchChart", "bearer_chart", "open_chart"]

_PATIENT = tuple(part for part in PARTS if part.name == "patient")
_IMAGING = tuple(part for part in PARTS if part.name != "patient")


@dataclass(frozen=True)
class LaunchChart:
    """A chart, the key under which it is cached, the patient's id where the results are, and what is really theirs."""

    chart: Chart
    key: CacheKey
    base: str
    subject: str
    own: OwnStudies = NOTHING_OWN

    def holds(self, study: Study | None) -> bool:
        """Whether the study's images lie in our store as this patient's."""
        return study is not None and study.uid in self.own.shown

    def files_of(self, report: Report | None) -> ReportPath | None:
        """Return where a report's files lie; None unless they are of a study that is the report's and the patient's."""
        if report is None or report.path is None:
            return None
        study = self.chart.study(report.path.study_uid)
        return report.path if study and self.holds(study) and study.id in report.study_ids else None

    def entries(self, services: Services) -> list[Entry]:
        """Return the timeline, with what the pipeline says of each study."""
        progress: dict[str, StudyProgress] = load_progress(
            services.cache, self.key, (study.uid for study in self.chart.studies if study.uid in self.own.known)
        )
        return timeline(self.chart.studies, self.chart.reports, progress)


def bearer_chart(services: Services, caller: BearerCaller, fresh_for: timedelta) -> LaunchChart:
    """Read the chart of a token's patient, as far as the token's scopes reach, with the app's own identity.

    Raises
    ------
    Permanent
        ``forbidden``: the token lets nobody read reports.
    """
    caller.require("DiagnosticReport", "rs")
    granted = [part for part in _IMAGING if caller.allows(part.resource_type, "s")]
    source = ImagingServiceSource(services.imaging_client(), caller.patient)
    chart = read_chart(source, services.cache, fresh_for, outages=services.outages, parts=granted)
    denied: dict[str, Missing] = {part.name: "not-granted" for part in _IMAGING if part not in granted}
    own = own_studies(services.pool, caller.patient)
    return LaunchChart(
        replace(chart, missing={**chart.missing, **denied}), source.key, source.base, caller.patient, own
    )


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
        own = own_studies(services.pool, ehr.patient) if is_own_service(ehr.base, services.settings) else NOTHING_OWN
        return LaunchChart(chart, ehr.key, ehr.base, ehr.patient, own)
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
    return LaunchChart(joined, imaging.key, imaging.base, matched, own_studies(services.pool, matched))

"""The patient's imaging in order of time: each study with its reports, and reports whose study is not there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clinician_app.fhir_values import Moment
from clinician_app.report import Finding, Report
from clinician_app.study import Study
from clinician_app.study_progress import StudyProgress

__all__ = ["Entry", "timeline"]


@dataclass(frozen=True)
class Entry:
    """One line: a study with its reports, or a report alone.

    Parameters
    ----------
    study : Study or None
        None for a report whose study the EHR does not show.
    reports : tuple of Report
        Newest revision first.
    progress : StudyProgress or None
        None where the pipeline does not know the study (an outside image).
    """

    study: Study | None
    reports: tuple[Report, ...]
    progress: StudyProgress | None = None

    @property
    def when(self) -> Moment | None:
        """When the examination was."""
        if self.study and self.study.started:
            return self.study.started
        return next((moment for report in self.reports if (moment := report.effective or report.issued)), None)

    @property
    def report(self) -> Report | None:
        """The report to open first: the newest that is not withdrawn."""
        standing = [report for report in self.reports if report.status not in ("cancelled", "entered-in-error")]
        return next(iter(standing or self.reports), None)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings of that report, the most notable first."""
        return self.report.notable_first if self.report else ()


def timeline(
    studies: Sequence[Study], reports: Sequence[Report], progress: Mapping[str, StudyProgress] | None = None
) -> list[Entry]:
    """Join studies and reports; newest first, undated last."""
    known = progress or {}
    by_study: dict[str, list[Report]] = {study.id: [] for study in studies}
    alone: list[Report] = []
    for report in reports:
        homes = [name for name in report.study_ids if name in by_study]
        if homes:
            for name in homes:
                by_study[name].append(report)
        else:
            alone.append(report)
    entries = [
        Entry(study, tuple(sorted(by_study[study.id], key=_newest, reverse=True)), known.get(study.uid))
        for study in studies
    ]
    entries += [Entry(None, (report,)) for report in alone]
    return sorted(entries, key=lambda entry: entry.when.sort_key if entry.when else (0, 0, 0, 0.0), reverse=True)


def _newest(report: Report) -> tuple[int, tuple[int, int, int, float]]:
    revision = report.path.revision if report.path else 0
    return (revision, report.issued.sort_key if report.issued else (0, 0, 0, 0.0))

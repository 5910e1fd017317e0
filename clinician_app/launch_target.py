"""What the EHR wants to be opened: the study or report of ``fhirContext`` (S53), if it is the patient's (S54)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from clinician_app.chart import Chart
from clinician_app.refusals import ContextMismatch
from clinician_app.report import Report
from clinician_app.study import Study
from smart_launch import ContextItem

__all__ = ["launch_target"]

T = TypeVar("T", Study, Report)
_OPENED = ("launch", "")


def launch_target(context: Iterable[ContextItem], chart: Chart) -> Study | Report | None:
    """Return what to open; None where the context names no imaging, or several and no one of them is meant.

    A report goes before a study. Entries with roles other than ``launch`` only add to the context and open nothing.

    Raises
    ------
    ContextMismatch
        The context names a study or report by reference or study UID that the chart, which was read, does not have.
    """
    reports: list[Report] = []
    studies: list[Study] = []
    for item in context:
        if item.role not in _OPENED:
            continue
        kind, _, name = item.reference.partition("/")
        if kind == "DiagnosticReport":
            reports += _found(chart.report(name), "reports", chart)
        elif kind == "ImagingStudy":
            studies += _found(next((study for study in chart.studies if study.id == name), None), "studies", chart)
        elif item.identifier_system == "urn:dicom:uid":
            uid = item.identifier_value.removeprefix("urn:oid:")
            studies += _found(chart.study(uid), "studies", chart)
        elif item.identifier_value:
            studies += [study for study in chart.studies if study.accession == item.identifier_value]
    named = {id(found): found for found in (reports or studies)}
    return next(iter(named.values())) if len(named) == 1 else None


def _found(found: T | None, part: str, chart: Chart) -> list[T]:
    if found is not None:
        return [found]
    if part in chart.missing:
        return []
    raise ContextMismatch

"""Pages within one launch: the patient's timeline, one examination with its report."""

from __future__ import annotations

from flask import Blueprint, abort, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from clinician_app.chart import FRESH_FOR_PAGES
from clinician_app.examination import assemble
from clinician_app.launch_chart import LaunchChart, open_chart
from clinician_app.launch_target import launch_target
from clinician_app.report import Report
from clinician_app.result_file import load_report_file
from clinician_app.services import Services, current_services
from clinician_app.signing_panel import signing_panel
from clinician_app.study import Study
from clinician_app.timeline import Entry
from clinician_app.views.page_values import page_values
from smart_launch import LaunchSession

__all__ = ["pages"]

pages = Blueprint("pages", __name__, url_prefix="/l/<launch_id>")

_PRIORS = 8


@pages.get("/")
def start(launch_id: str) -> ResponseReturnValue:
    """Open what the EHR's context names, else the timeline (S53)."""
    services = current_services()
    launch = services.smart.require(launch_id)
    opened = open_chart(services, launch, FRESH_FOR_PAGES)
    target = launch_target(launch.fhir_context, opened.chart)
    if isinstance(target, Report):
        return redirect(url_for("pages.report_page", launch_id=launch_id, report_id=target.id))
    if isinstance(target, Study):
        return redirect(url_for("pages.study_page", launch_id=launch_id, study_uid=target.uid))
    return _timeline(services, launch, opened)


@pages.get("/studies")
def timeline_page(launch_id: str) -> ResponseReturnValue:
    """Show all of the patient's imaging."""
    services = current_services()
    launch = services.smart.require(launch_id)
    return _timeline(services, launch, open_chart(services, launch, FRESH_FOR_PAGES))


@pages.get("/studies/<study_uid>")
def study_page(launch_id: str, study_uid: str) -> ResponseReturnValue:
    """Show a study; with its report, where there is one."""
    services = current_services()
    launch = services.smart.require(launch_id)
    opened = open_chart(services, launch, FRESH_FOR_PAGES)
    entries = opened.entries(services)
    entry = next((item for item in entries if item.study and item.study.uid and item.study.uid == study_uid), None)
    if entry is None or entry.study is None:
        abort(404)
    report = entry.report
    what = f"DiagnosticReport/{report.id}" if report else f"ImagingStudy/{entry.study.id}"
    services.audit.record("report-read", launch, opened.subject, what)
    return _examination(services, launch, opened, entries, entry, report)


@pages.get("/reports/<report_id>")
def report_page(launch_id: str, report_id: str) -> ResponseReturnValue:
    """Show a report, with the images of its study."""
    services = current_services()
    launch = services.smart.require(launch_id)
    opened = open_chart(services, launch, FRESH_FOR_PAGES)
    report = opened.chart.report(report_id)
    if report is None:
        abort(404)
    entries = opened.entries(services)
    entry = next(item for item in entries if any(mine.id == report.id for mine in item.reports))
    services.audit.record("report-read", launch, opened.subject, f"DiagnosticReport/{report.id}")
    return _examination(services, launch, opened, entries, entry, report)


def _timeline(services: Services, launch: LaunchSession, opened: LaunchChart) -> str:
    services.audit.record("patient-searched", launch, opened.subject)
    return render_template("timeline.html", entries=opened.entries(services), **page_values(services, launch, opened))


def _examination(
    services: Services,
    launch: LaunchSession,
    opened: LaunchChart,
    entries: list[Entry],
    entry: Entry,
    report: Report | None,
) -> str:
    result = load_report_file(services.blobs, opened.files_of(report))
    examination = assemble(entry, report, result, request.args.get("image", ""), images_here=opened.holds(entry.study))
    return render_template(
        "examination.html",
        examination=examination,
        signing=signing_panel(services, launch, opened, report),
        priors=[item for item in entries if item is not entry][:_PRIORS],
        **page_values(services, launch, opened),
    )

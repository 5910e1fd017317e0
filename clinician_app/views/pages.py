"""Pages within one launch: the patient's timeline, one examination with its report."""

from __future__ import annotations

from flask import Blueprint, abort, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from clinician_app import wording
from clinician_app.chart import FRESH_FOR_PAGES, Chart
from clinician_app.examination import Examination, assemble
from clinician_app.language import today
from clinician_app.launch_chart import LaunchChart, open_chart
from clinician_app.launch_target import launch_target
from clinician_app.probability_scale import draw
from clinician_app.report import Report
from clinician_app.result_file import ResultFile, load_result_file
from clinician_app.services import Services, current_services
from clinician_app.study import Instance, Study
from clinician_app.study_progress import StudyProgress
from clinician_app.timeline import Entry
from clinician_app.translation import gettext
from imaging_core.errors import Retryable
from smart_launch import LaunchSession

__all__ = ["pages"]

pages = Blueprint("pages", __name__, url_prefix="/l/<launch_id>")

_PRIORS = 8
_THUMBNAIL = 144


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
    return render_template("timeline.html", entries=opened.entries(services), **_common(services, launch, opened))


def _examination(
    services: Services,
    launch: LaunchSession,
    opened: LaunchChart,
    entries: list[Entry],
    entry: Entry,
    report: Report | None,
) -> str:
    result = _result(services, opened, report)
    examination = assemble(entry, report, result, request.args.get("image", ""), images_here=opened.holds(entry.study))
    return render_template(
        "examination.html",
        examination=examination,
        priors=[item for item in entries if item is not entry][:_PRIORS],
        **_common(services, launch, opened),
    )


def _result(services: Services, opened: LaunchChart, report: Report | None) -> ResultFile | None:
    """Return the report's result file; the page stands without it, where the image store is away."""
    path = opened.files_of(report)
    if path is None:
        return None
    try:
        return load_result_file(services.blobs, path)
    except Retryable:
        return None


def _common(services: Services, launch: LaunchSession, opened: LaunchChart) -> dict[str, object]:
    """Return what every page of a launch needs: the banner, addresses bound to the launch, the words."""
    launch_id = launch.launch_id

    def instance_url(endpoint: str, study: Study, image: Instance, **query: int) -> str:
        return url_for(
            endpoint,
            launch_id=launch_id,
            study_uid=study.uid,
            series_uid=image.series_uid,
            sop_uid=image.uid,
            **query,  # type: ignore[arg-type]  # werkzeug puts further values into the query
        )

    def report_url(report: Report) -> str:
        return url_for("pages.report_page", launch_id=launch_id, report_id=report.id)

    def entry_url(entry: Entry) -> str:
        if entry.report:
            return report_url(entry.report)
        if entry.study and entry.study.uid:
            return url_for("pages.study_page", launch_id=launch_id, study_uid=entry.study.uid)
        return url_for("pages.timeline_page", launch_id=launch_id)

    def image_url(examination: Examination, image: Instance) -> str:
        if examination.report:
            return url_for("pages.report_page", launch_id=launch_id, report_id=examination.report.id, image=image.uid)
        study_uid = examination.study.uid if examination.study else ""
        return url_for("pages.study_page", launch_id=launch_id, study_uid=study_uid, image=image.uid)

    def language_url(code: str) -> str:
        kept = {name: value for name, value in request.args.items() if name == "image"}
        return url_for(request.endpoint or "pages.start", **{**(request.view_args or {}), **kept, "lang": code})

    return {
        "launch": launch,
        "chart": opened.chart,
        "patient": opened.chart.patient,
        "site_name": services.settings.site_name,
        "today": today,
        "draw": draw,
        "entry_url": entry_url,
        "report_url": report_url,
        "image_url": image_url,
        "language_url": language_url,
        "timeline_url": url_for("pages.timeline_page", launch_id=launch_id),
        "logout_url": f"/l/{launch_id}/logout",
        "rendered_url": lambda study, image: instance_url("images.rendered", study, image),
        "thumbnail_url": lambda study, image: instance_url("images.rendered", study, image, max=_THUMBNAIL),
        "pixels_url": lambda study, image: instance_url("images.pixels", study, image),
        "heatmap_url": lambda report: url_for("images.heatmap", launch_id=launch_id, report_id=report.id),
        "missing_parts": _missing_parts,
        "viewer_words": _viewer_words,
        "progress_words": _progress_words,
        "progress_detail": _progress_detail,
        **{name: getattr(wording, name) for name in wording.__all__},
    }


def _missing_parts(chart: Chart) -> list[tuple[str, str]]:
    """Return each cause for which parts are missing, with the parts in words."""
    causes: dict[str, list[str]] = {}
    for part, why in chart.missing.items():
        causes.setdefault(why, []).append(wording.part_name(part))
    return [(why, ", ".join(parts)) for why, parts in causes.items()]


def _viewer_words() -> dict[str, str]:
    return {
        "window": gettext("W"),
        "level": gettext("L"),
        "imageFailed": gettext("The image can't be shown. It may still be on its way, or its file can't be read."),
        "valuesFailed": gettext("Brightness and contrast can't be changed: the pixel values could not be loaded."),
        "heatmapFailed": gettext("The heatmap can't be loaded."),
    }


def _progress_words(progress: StudyProgress | None) -> str:
    words = {
        "pending": gettext("Analysis under way"),
        "no-model": gettext("No model for this examination"),
        "not-analysed": gettext("Not analysed"),
        "analysed": gettext("Report on its way"),
        "failed": gettext("Analysis failed"),
        "held": gettext("Waiting for the patient to be confirmed"),
    }
    return words.get(progress.stage if progress else "unknown", gettext("No report"))


def _progress_detail(progress: StudyProgress | None) -> str:
    words = {
        "pending": gettext("The images have arrived and are being analysed. Reload the page in a few seconds."),
        "no-model": gettext(
            "No automated analysis exists for this kind of examination. The images can be viewed here."
        ),
        "not-analysed": gettext("The model was not made for these images."),
        "analysed": gettext("The analysis is done and its report will appear here. Reload the page in a few seconds."),
        "failed": gettext("The analysis did not succeed. The images can be viewed here; support staff have been told."),
        "held": gettext("The imaging department has yet to confirm whose images these are."),
    }
    return words.get(
        progress.stage if progress else "unknown", gettext("No report on this examination is on record here.")
    )

"""What every page of a launch needs: the banner, addresses bound to the launch, the words."""

from __future__ import annotations

from flask import g, request, url_for

from clinician_app import wording
from clinician_app.chart import Chart
from clinician_app.examination import Examination
from clinician_app.language import today
from clinician_app.launch_chart import LaunchChart
from clinician_app.probability_scale import draw
from clinician_app.report import Report
from clinician_app.services import Services
from clinician_app.study import Instance, Study
from clinician_app.study_progress import StudyProgress
from clinician_app.timeline import Entry
from clinician_app.translation import gettext
from smart_launch import LaunchSession

__all__ = ["page_values"]

_THUMBNAIL = 144
_KEPT = ("image", "act", "form")
# The answer to a form can't be asked for again in another language; the page that it came from can.
_FORM_PAGES: dict[str | None, str] = {"signoff.submit": "signoff.review", "signoff.confirm": "signoff.review"}


def page_values(services: Services, launch: LaunchSession, opened: LaunchChart) -> dict[str, object]:
    """Return the values of a page's template, by name."""
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
        kept = {name: value for name, value in request.args.items() if name in _KEPT}
        endpoint = (request.endpoint or "pages.start") if request.method == "GET" else _FORM_PAGES[request.endpoint]
        if request.method != "GET" and "form" in g:
            kept["form"] = g.form
        return url_for(endpoint, **{**(request.view_args or {}), **kept, "lang": code})

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
        "original_url": lambda report: url_for("signoff.original", launch_id=launch_id, report_id=report.id),
        "review_url": lambda report, act=None: url_for(
            "signoff.review", launch_id=launch_id, report_id=report.id, act=act
        ),
        "sign_url": lambda report: url_for("signoff.confirm", launch_id=launch_id, report_id=report.id),
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

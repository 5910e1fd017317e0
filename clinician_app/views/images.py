"""Pixels within one launch: what FHIR shows to it and the ledger holds as this patient's; all else is not found."""

from __future__ import annotations

from flask import Blueprint, Response, abort, make_response, request

from clinician_app.chart import FRESH_FOR_IMAGES
from clinician_app.images import instance_blob
from clinician_app.launch_chart import open_chart
from clinician_app.services import current_services
from clinician_app.study import Instance, Study

__all__ = ["images"]

images = Blueprint("images", __name__, url_prefix="/l/<launch_id>")

_INSTANCE = "/studies/<study_uid>/series/<series_uid>/instances/<sop_uid>"
_SIDES = {"144": 144, "1024": 1024}


@images.get(f"{_INSTANCE}/rendered")
def rendered(launch_id: str, study_uid: str, series_uid: str, sop_uid: str) -> Response:
    """Return the image as a picture in the header's own window (``?max=144`` for a thumbnail, ``?frame=`` from 1)."""
    study, instance = _allowed(launch_id, study_uid, series_uid, sop_uid)
    side = _SIDES.get(request.args.get("max", ""), 0)
    services = current_services()
    blob = instance_blob(study.uid, instance.series_uid, instance.uid)
    return _bytes(services.images.rendered(blob, _frame(), side), "image/png")


@images.get(f"{_INSTANCE}/pixels")
def pixels(launch_id: str, study_uid: str, series_uid: str, sop_uid: str) -> Response:
    """Return the image's values for windowing; 204 for a colour image, which has none."""
    study, instance = _allowed(launch_id, study_uid, series_uid, sop_uid)
    frame = current_services().images.frame(instance_blob(study.uid, instance.series_uid, instance.uid), _frame())
    if not frame.description:
        return make_response("", 204)
    response = _bytes(frame.deflated, "application/octet-stream")
    response.headers["Content-Encoding"] = "deflate"
    response.headers["X-Frame"] = frame.description
    return response


@images.get("/reports/<report_id>/heatmap.png")
def heatmap(launch_id: str, report_id: str) -> Response:
    """Return the heatmap of a report of this patient's."""
    services = current_services()
    launch = services.smart.require(launch_id)
    opened = open_chart(services, launch, FRESH_FOR_IMAGES)
    report = opened.chart.report(report_id)
    path = opened.files_of(report)
    if report is None or path is None:
        abort(404)
    services.audit.record("image-viewed", launch, opened.subject, f"DiagnosticReport/{report.id}")
    return _bytes(services.blobs.get("results", path.blob("heatmap.png")), "image/png")


def _allowed(launch_id: str, study_uid: str, series_uid: str, sop_uid: str) -> tuple[Study, Instance]:
    """Return study and instance, if they are the patient's by FHIR and by the ledger; the look is put on record."""
    services = current_services()
    launch = services.smart.require(launch_id)
    opened = open_chart(services, launch, FRESH_FOR_IMAGES)
    study = opened.chart.study(study_uid)
    instance = study.instance(series_uid, sop_uid) if study else None
    if study is None or not opened.holds(study) or instance is None or not instance.is_image:
        abort(404)
    services.audit.record("image-viewed", launch, opened.subject, f"urn:oid:{instance.uid}")
    return study, instance


def _frame() -> int:
    number = request.args.get("frame", "1")
    if not number.isascii() or not number.isdigit() or not 1 <= int(number[:7]) <= 100_000:
        abort(404)
    return int(number[:7]) - 1


def _bytes(data: bytes, media_type: str) -> Response:
    response = make_response(data)
    response.mimetype = media_type
    return response

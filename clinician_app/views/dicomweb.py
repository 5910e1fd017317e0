"""DICOMweb read (PS3.18): QIDO-RS and WADO-RS over one patient's instances, for pages and for bearers of a token.

Below ``/dicomweb`` the caller shows a token; below ``/l/<launch_id>/dicomweb`` the page's own session counts. Either
way the patient is decided before the address is looked at, and what is not that patient's is not there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from flask import Blueprint, Response, abort, current_app, g, jsonify, make_response, request, stream_with_context

from clinician_app.audit import Actor
from clinician_app.chart import FRESH_FOR_IMAGES
from clinician_app.instance_parts import MEDIA_TYPES, bulk_data, frames, metadata, rendered
from clinician_app.launch_chart import open_chart
from clinician_app.media_types import accepted, choose, multipart
from clinician_app.own_instances import OwnInstance, own_instances
from clinician_app.own_studies import patient_of_study
from clinician_app.qido import Level, Query, search
from clinician_app.refusals import launch_problem
from clinician_app.served_patient import as_json, changes_of
from clinician_app.services import Services, current_services
from imaging_core.dicom.coerce import Changes
from imaging_core.dicom.header import valid_uid
from imaging_core.dicom.pixels import Window
from imaging_core.errors import ImagingError, Permanent, Rejected
from imaging_core.telemetry import get_logger
from smart_launch import LaunchError, LaunchSession

__all__ = ["dicomweb"]

dicomweb = Blueprint("dicomweb", __name__)
dicomweb.register_error_handler(LaunchError, launch_problem)

_STUDY = "/studies/<study_uid>"
_SERIES = f"{_STUDY}/series/<series_uid>"
_INSTANCE = f"{_SERIES}/instances/<sop_uid>"
_DICOM, _JSON = "application/dicom", "application/dicom+json"
_OCTETS = "application/octet-stream"
_MOST_SEARCHED = 5_000
_MOST_RETRIEVED = 3_000
_MOST_FRAMES = 64
_LARGEST_SIDE = 4_096
_EXPLICIT = "1.2.840.10008.1.2.1"


@dataclass(frozen=True)
class _Reader:
    """Who reads, and whose images."""

    services: Services
    actor: LaunchSession | Actor
    patient: str
    studies: frozenset[str] | None
    base: str

    def instances(self, *, most: int, **uids: str) -> list[OwnInstance]:
        """Return the patient's instances under these UIDs; other than UIDs are not found."""
        if any(uid and not valid_uid(uid) for uid in uids.values()):
            abort(404)
        return own_instances(self.services.pool, self.patient, studies=self.studies, most=most, **uids)

    def found(self, **uids: str) -> list[OwnInstance]:
        """Return instances to be retrieved; the look is put on record.

        Raises
        ------
        Permanent
            ``body-too-large``: more than one request may ask for.
        """
        held = self.instances(most=_MOST_RETRIEVED + 1, **uids)
        if not held:
            abort(404)
        if len(held) > _MOST_RETRIEVED:
            raise Permanent("body-too-large", f"more than {_MOST_RETRIEVED} instances: retrieve by series or instance")
        lowest = uids.get("sop_uid") or uids.get("series_uid") or uids["study_uid"]
        self.services.audit.record("image-viewed", self.actor, self.patient, f"urn:oid:{lowest}")
        return held

    def one(self, **uids: str) -> OwnInstance:
        """Return one instance; see `found`."""
        return self.found(**uids)[0]

    def linked(self, instance: OwnInstance) -> Changes | None:
        """Return what names the Patient to whom a person linked the study; None where the header does."""
        if not instance.linked:
            return None
        kept: dict[str, Changes] = g.setdefault("linked_patient", {})
        if self.patient not in kept:
            found = self.services.imaging_client().read("Patient", self.patient)
            if found is None:
                abort(404)
            kept[self.patient] = changes_of(found, self.services.settings.site_assigner_system)
        return kept[self.patient]

    def file(self, instance: OwnInstance) -> bytes:
        """Return the instance's file as it leaves the system."""
        changes = self.linked(instance)
        at = instance.decided_at
        return self.services.images.served(instance.blob, (changes, at) if changes is not None and at else None)

    def url(self, instance: OwnInstance, level: Level) -> str:
        """Return the address of a study, series or instance."""
        address = f"{self.base}/studies/{instance.study_uid}"
        if level != "study":
            address += f"/series/{instance.series_uid}"
        return f"{address}/instances/{instance.sop_uid}" if level == "instance" else address


@dicomweb.url_value_preprocessor
def _launch_of_address(_: str | None, values: dict[str, Any] | None) -> None:
    g.dicomweb_launch = (values or {}).pop("launch_id", "")


def _reader(interaction: str) -> _Reader:
    """Return who reads whose images.

    Raises
    ------
    LaunchError
        The launch is over, or another browser's.
    Permanent
        ``unauthenticated``, ``forbidden``.
    """
    services = current_services()
    base = services.settings.app_base_url
    launch_id: str = g.dicomweb_launch
    asked = request.args.get("patient", "").removeprefix("Patient/")
    if not launch_id:
        if services.bearer is None:
            raise Permanent("unauthenticated", "no tokens are accepted here")
        caller = services.bearer.caller(request.headers.get("Authorization", ""))
        caller.require("ImagingStudy", interaction)
        study_uid = (request.view_args or {}).get("study_uid", "")
        if caller.system and not asked and valid_uid(study_uid):
            # the address of ImagingStudy.endpoint names no patient; the ledger has the last word on whose study it is
            asked = patient_of_study(services.imaging_client(), study_uid, services.settings.fhir_base_url)
            if not asked:
                abort(404)
        caller = caller.about(asked)
        if asked and asked != caller.patient:
            abort(404)
        return _Reader(services, caller, caller.patient, None, f"{base}/dicomweb")
    launch = services.smart.require(launch_id)
    opened = open_chart(services, launch, FRESH_FOR_IMAGES)
    if asked and asked not in (launch.patient, opened.subject):
        abort(404)
    shown = frozenset(study.uid for study in opened.chart.studies if opened.holds(study))
    return _Reader(services, launch, opened.subject, shown, f"{base}/l/{launch_id}/dicomweb")


# QIDO-RS


@dicomweb.get("/studies")
def search_studies() -> Response:
    """Search for studies."""
    return _search("study")


@dicomweb.get("/series")
def search_all_series() -> Response:
    """Search for series in all studies."""
    return _search("series", all_levels=True)


@dicomweb.get(f"{_STUDY}/series")
def search_series(study_uid: str) -> Response:
    """Search for series of a study."""
    return _search("series", study_uid=study_uid)


@dicomweb.get("/instances")
def search_all_instances() -> Response:
    """Search for instances in all studies."""
    return _search("instance", all_levels=True)


@dicomweb.get(f"{_STUDY}/instances")
def search_study_instances(study_uid: str) -> Response:
    """Search for instances of a study."""
    return _search("instance", study_uid=study_uid)


@dicomweb.get(f"{_SERIES}/instances")
def search_instances(study_uid: str, series_uid: str) -> Response:
    """Search for instances of a series."""
    return _search("instance", study_uid=study_uid, series_uid=series_uid)


def _search(level: Level, *, all_levels: bool = False, **uids: str) -> Response:
    reader = _reader("s")
    choose(request.headers.get("Accept", ""), (_JSON, "application/json"))
    query = Query.parse(request.args.items(multi=True))
    held = reader.instances(most=_MOST_SEARCHED + 1, **uids)
    linked = next((item for item in held if item.linked), None)
    patient = as_json(reader.linked(linked) or {}) if linked else {}
    reader.services.audit.record("patient-searched", reader.actor, reader.patient)
    told, more = search(level, held[:_MOST_SEARCHED], query, reader.url, patient, all_levels=all_levels)
    response = jsonify(told) if told else make_response("", 204)
    response.mimetype = _JSON
    warnings = []
    if query.fuzzy:
        warnings.append("The fuzzymatching parameter is not supported. Only literal matching has been performed.")
    if more:
        warnings.append(f"There are {more} additional results that can be requested")
    if len(held) > _MOST_SEARCHED:
        warnings.append("There are more instances than are searched. Search in one study.")
    if warnings:
        response.headers["Warning"] = ", ".join(f'299 {reader.base}: "{words}"' for words in warnings)
    return response


# WADO-RS


@dicomweb.get(_STUDY)
def retrieve_study(study_uid: str) -> Response:
    """Retrieve the files of a study."""
    return _retrieve(study_uid=study_uid)


@dicomweb.get(_SERIES)
def retrieve_series(study_uid: str, series_uid: str) -> Response:
    """Retrieve the files of a series."""
    return _retrieve(study_uid=study_uid, series_uid=series_uid)


@dicomweb.get(_INSTANCE)
def retrieve_instance(study_uid: str, series_uid: str, sop_uid: str) -> Response:
    """Retrieve one file."""
    return _retrieve(study_uid=study_uid, series_uid=series_uid, sop_uid=sop_uid)


def _retrieve(**uids: str) -> Response:
    reader = _reader("r")
    wanted = choose(request.headers.get("Accept", ""), (_DICOM,))
    held = reader.found(**uids)
    for item in held:
        # files are given as they are stored: nothing is converted, so nothing is lost
        if wanted.transfer_syntax not in ("", "*", item.transfer_syntax_uid):
            raise Permanent("not-acceptable", f"stored in {item.transfer_syntax_uid}; ask for transfer-syntax=*")
    first = reader.file(held[0])
    if not wanted.multipart and len(held) == 1 and request.headers.get("Accept", "").strip().startswith(_DICOM):
        response = make_response(first)
        response.headers["Content-Disposition"] = f'attachment; filename="{held[0].sop_uid}.dcm"'
        response.mimetype = _DICOM
        return response

    def parts() -> Iterator[tuple[str, str, bytes]]:
        for item, data in chain([(held[0], first)], ((item, reader.file(item)) for item in held[1:])):
            kind = f"{_DICOM}; transfer-syntax={item.transfer_syntax_uid}"
            yield kind, reader.url(item, "instance"), data

    return _multipart(parts(), _DICOM)


@dicomweb.get(f"{_STUDY}/metadata")
def study_metadata(study_uid: str) -> Response:
    """Retrieve the metadata of a study."""
    return _metadata(study_uid=study_uid)


@dicomweb.get(f"{_SERIES}/metadata")
def series_metadata(study_uid: str, series_uid: str) -> Response:
    """Retrieve the metadata of a series."""
    return _metadata(study_uid=study_uid, series_uid=series_uid)


@dicomweb.get(f"{_INSTANCE}/metadata")
def instance_metadata(study_uid: str, series_uid: str, sop_uid: str) -> Response:
    """Retrieve the metadata of an instance."""
    return _metadata(study_uid=study_uid, series_uid=series_uid, sop_uid=sop_uid)


def _metadata(**uids: str) -> Response:
    reader = _reader("r")
    choose(request.headers.get("Accept", ""), (_JSON, "application/json"))
    held = reader.found(**uids)

    def described(item: OwnInstance) -> bytes:
        url = f"{reader.url(item, 'instance')}/bulkdata"
        model = reader.services.images.run(metadata, reader.file(item), url)
        return current_app.json.dumps(model).encode()

    first = described(held[0])

    def body() -> Iterator[bytes]:
        yield b"[" + first
        for item in held[1:]:
            yield b"," + described(item)
        yield b"]"

    return Response(stream_with_context(_logged(body())), mimetype=_JSON)


@dicomweb.get(f"{_INSTANCE}/bulkdata/<path:where>")
def retrieve_bulk_data(study_uid: str, series_uid: str, sop_uid: str, where: str) -> Response:
    """Retrieve the value of one bulk data element, as metadata names it."""
    reader = _reader("r")
    wanted = choose(request.headers.get("Accept", ""), (_OCTETS,))
    item = reader.one(study_uid=study_uid, series_uid=series_uid, sop_uid=sop_uid)
    data = reader.services.images.run(bulk_data, reader.file(item), where.upper())
    return _octets([data], f"{reader.url(item, 'instance')}/bulkdata/{where}", wrapped=wanted.multipart)


@dicomweb.get(f"{_INSTANCE}/frames/<numbers>")
def retrieve_frames(study_uid: str, series_uid: str, sop_uid: str, numbers: str) -> Response:
    """Retrieve frames: as they are stored where the Accept header takes that, else uncompressed."""
    reader = _reader("r")
    wanted_frames = _numbers(numbers)
    item = reader.one(study_uid=study_uid, series_uid=series_uid, sop_uid=sop_uid)
    compressed = MEDIA_TYPES.get(item.transfer_syntax_uid)
    stored = False
    for choice in accepted(request.headers.get("Accept", "")):
        takes_any = choice.transfer_syntax in ("*", item.transfer_syntax_uid)
        if compressed and choice.covers(compressed) and choice.media_type != "*/*":
            stored = choice.transfer_syntax in ("", "*", item.transfer_syntax_uid)
        elif choice.media_type in ("*/*", _OCTETS):
            stored = bool(compressed) and takes_any
        else:
            continue
        if stored or choice.transfer_syntax in ("", "*", _EXPLICIT):
            break
    else:
        raise Permanent("not-acceptable", f"offered: {_OCTETS}" + (f", {compressed}" if compressed else ""))
    found = reader.services.images.run(frames, reader.file(item), wanted_frames, stored)
    kind = f"{found.media_type}; transfer-syntax={found.transfer_syntax}" if stored else found.media_type
    address = f"{reader.url(item, 'instance')}/frames"
    parts = zip(wanted_frames, found.parts, strict=True)
    return _multipart(((kind, f"{address}/{number}", data) for number, data in parts), found.media_type)


@dicomweb.get(f"{_INSTANCE}/rendered")
def retrieve_rendered(study_uid: str, series_uid: str, sop_uid: str) -> Response:
    """Retrieve the first frame as a picture."""
    return _rendered(study_uid, series_uid, sop_uid, "1")


@dicomweb.get(f"{_INSTANCE}/frames/<numbers>/rendered")
def retrieve_rendered_frame(study_uid: str, series_uid: str, sop_uid: str, numbers: str) -> Response:
    """Retrieve one frame as a picture."""
    return _rendered(study_uid, series_uid, sop_uid, numbers)


def _rendered(study_uid: str, series_uid: str, sop_uid: str, numbers: str) -> Response:
    reader = _reader("r")
    wanted = choose(request.headers.get("Accept", ""), ("image/jpeg", "image/png"))
    window, viewport, quality = _window(), _viewport(), _quality()
    frame = _numbers(numbers)[0] - 1
    item = reader.one(study_uid=study_uid, series_uid=series_uid, sop_uid=sop_uid)
    picture = reader.services.images.run(
        rendered, reader.file(item), frame, wanted.media_type, window, viewport, quality
    )
    response = make_response(picture)
    response.mimetype = wanted.media_type
    return response


def _numbers(text: str) -> list[int]:
    if not re.fullmatch(r"[0-9]{1,6}(,[0-9]{1,6})*", text) or text.count(",") >= _MOST_FRAMES:
        raise Rejected("bad-field", f"frames: at most {_MOST_FRAMES} numbers from 1, with commas")
    return [int(number) for number in text.split(",")]


def _window() -> Window | None:
    raw = request.args.get("window", "")
    if not raw:
        return None
    center, width, function = [*raw.split(","), "linear", "", ""][:3]
    names = {"linear": "LINEAR", "linear-exact": "LINEAR_EXACT", "sigmoid": "SIGMOID"}
    try:
        found = Window(float(center), float(width), names[function])
    except (ValueError, KeyError) as error:
        raise Rejected("bad-field", "window: center,width,function") from error
    if not (abs(found.center) < 1e9 and 0 < found.width < 1e9):
        raise Rejected("bad-field", "window: center,width,function")
    return found


def _viewport() -> tuple[int, int] | None:
    raw = request.args.get("viewport", "")
    if not raw:
        return None
    match = re.fullmatch(r"([0-9]{1,5}),([0-9]{1,5})", raw)
    if not match or not all(1 <= int(side) <= _LARGEST_SIDE for side in match.groups()):
        raise Rejected("bad-field", f"viewport: width,height up to {_LARGEST_SIDE}")
    return int(match[1]), int(match[2])


def _quality() -> int:
    raw = request.args.get("quality", "90")
    if not (raw.isascii() and raw.isdigit() and 1 <= int(raw[:4]) <= 100):
        raise Rejected("bad-field", "quality: 1 to 100")
    return int(raw)


def _octets(parts: list[bytes], location: str, *, wrapped: bool) -> Response:
    if wrapped:
        return _multipart(((_OCTETS, location, part) for part in parts), _OCTETS)
    response = make_response(parts[0])
    response.mimetype = _OCTETS
    return response


def _multipart(parts: Iterator[tuple[str, str, bytes]], media_type: str) -> Response:
    content_type, body = multipart(parts, media_type)
    response = Response(stream_with_context(_logged(body)))
    response.headers["Content-Type"] = content_type
    return response


def _logged(body: Iterator[bytes]) -> Iterator[bytes]:
    """Break the answer off where a later part can't be had: an answer without its end is no complete one."""
    try:
        yield from body
    except ImagingError as error:
        get_logger(__name__).error("retrieve-cut-short", code=error.code)
        raise

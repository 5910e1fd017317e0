"""STOW-RS: ``POST /api/dicomweb/studies[/{study}]`` (PS3.18 10.5)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

import azure.functions as func

from imaging_core import errors
from imaging_core.dicom.header import valid_uid
from imaging_core.errors import ImagingError, Rejected, Retryable
from imaging_core.settings import Settings
from ingestion_functions.auth import Caller
from ingestion_functions.http_api import json_answer, problem
from ingestion_functions.intake import Source, TakenIn, refuse, site_of, take_in
from ingestion_functions.multipart_related import Part, media_type, split
from ingestion_functions.services import Services

__all__ = ["store"]

_JSON, _XML = "application/dicom+json", "application/dicom+xml"
# Failure reasons of PS3.18 Table I.2-2 that are not an error code of ours.
_OUT_OF_RESOURCES = 0xA700
_VR = {"00081190": "UR", "00081150": "UI", "00081155": "UI", "00081197": "US"}
_KEYWORD = {
    "00081190": "RetrieveURL",
    "00081150": "ReferencedSOPClassUID",
    "00081155": "ReferencedSOPInstanceUID",
    "00081197": "FailureReason",
    "00081198": "FailedSOPSequence",
    "00081199": "ReferencedSOPSequence",
    "0008119A": "OtherFailuresSequence",
}


def store(parts: Services, caller: Caller, request: func.HttpRequest) -> func.HttpResponse:
    """Store the instances of one request.

    Returns
    -------
    HttpResponse
        200 where all are stored, 202 where some are, 409 where none is, with a Store Instances Response
        (PS3.18 10.5.3); a problem where nothing of the request can be read (400, with the failed items as further
        members), and for 406, 413, 415 and 503 (a store is away, Retry-After). A single delivery is named in
        ``X-Intake-Id``, to be asked for at ``/api/intake/{id}``.
    """
    study = request.route_params.get("study", "")
    source = Source("stow", caller.client, site_of(parts, caller), study_uid=study)
    body = request.get_body()
    try:
        if study and not valid_uid(study):
            raise Rejected("bad-uid", "the address names no valid Study Instance UID")
        answer_type = _accepted(request.headers.get("Accept", ""))
        body = _plain(body, request.headers.get("Content-Encoding", ""), parts.settings)
        files = _files(body, request.headers.get("Content-Type", ""), parts.settings)
    except Rejected as error:
        delivery = refuse(parts, error, source, size=len(body))
        return problem(error, intake_id=str(delivery.intake_id))
    results = _take_in_all(parts, files, source)
    stored = sum(isinstance(result, TakenIn) and result.stored for result in results)
    response = _response(results, parts.settings)
    if not stored and all(_unreadable(result) for result in results):
        return problem(_first_error(results), **response)
    status = 200 if stored == len(results) else 202 if stored else 409
    if answer_type == _XML:
        made = func.HttpResponse(
            _xml(response), status_code=status, mimetype=_XML, headers={"Cache-Control": "no-store"}
        )
    else:
        made = json_answer(response, status, _JSON)
    if len(results) == 1 and isinstance(results[0], TakenIn):
        made.headers["X-Intake-Id"] = str(results[0].delivery.intake_id)
    return made


def _unreadable(result: TakenIn | ImagingError) -> bool:
    """Nothing in it could be parsed: bad syntax, which is the request's fault (D3)."""
    code = result.delivery.reason if isinstance(result, TakenIn) else result.code
    return code in ("not-dicom", "truncated", "empty-body")


def _first_error(results: Sequence[TakenIn | ImagingError]) -> ImagingError:
    first = results[0]
    if isinstance(first, ImagingError):
        return first
    return Rejected(first.delivery.reason or "internal", first.delivery.detail or "")


def _accepted(accept: str) -> str:
    """Choose the answer's form by Accept, JSON first (PS3.18 10.5.3)."""
    wanted = [item.split(";")[0].strip().lower() for item in accept.split(",") if item.strip()]
    if not wanted:
        return _JSON
    for item in wanted:
        if item in ("*/*", "application/*", _JSON, "application/json"):
            return _JSON
        if item in (_XML, "application/xml", "text/xml"):
            return _XML
    raise Rejected("not-acceptable", f"answers come as {_JSON} or {_XML}")


def _plain(body: bytes, encoding: str, settings: Settings) -> bytes:
    """Undo ``Content-Encoding: gzip`` within the request's limit."""
    limit = settings.max_request_bytes
    way_out = f"MAX_REQUEST_BYTES = {limit}: send several requests, or use the direct drop (POST /api/uploads)"
    if len(body) > limit:
        raise Rejected("body-too-large", f"{len(body)} bytes, {way_out}")
    if encoding.lower() in ("", "identity"):
        return body
    if encoding.lower() not in ("gzip", "x-gzip"):
        raise Rejected("unsupported-media-type", "of content encodings, only gzip is taken")
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        plain = inflater.decompress(body, limit)
    except zlib.error as error:
        raise Rejected("bad-multipart", "the gzip encoding is broken") from error
    if inflater.unconsumed_tail:
        raise Rejected("body-too-large", f"more than the limit after inflating, {way_out}")
    if not inflater.eof:
        raise Rejected("bad-multipart", "the gzip encoding is cut off")
    return plain


def _files(body: bytes, content_type: str, settings: Settings) -> Sequence[Part]:
    kind, parameters = media_type(content_type)
    if kind == "application/dicom":
        if not body:
            raise Rejected("empty-body", "send one DICOM file, or multipart/related with several")
        return [Part({"content-type": kind}, memoryview(body))]
    if kind != "multipart/related" or parameters.get("type", "application/dicom").lower() != "application/dicom":
        raise Rejected(
            "unsupported-media-type", 'send multipart/related; type="application/dicom", or one application/dicom'
        )
    if not body:
        raise Rejected("empty-body", "the multipart body is empty")
    return split(body, parameters.get("boundary", ""), settings.max_parts)


def _take_in_all(parts: Services, files: Sequence[Part], source: Source) -> list[TakenIn | ImagingError]:
    """Take in one after the other.

    Raises
    ------
    Retryable
        A store is away before anything was taken; later failures are told per instance (A700).
    """
    results: list[TakenIn | ImagingError] = []
    for part in files:
        kind, _ = media_type(part.headers.get("content-type", "application/dicom"))
        try:
            if kind != "application/dicom":
                error = Rejected("unsupported-media-type", f"a part is {kind[:40]}, not application/dicom")
                refuse(parts, error, source, size=len(part.content))
                results.append(error)
            elif not part.content:
                error = Rejected("empty-body", "a part is empty")
                refuse(parts, error, source)
                results.append(error)
            else:
                results.append(take_in(parts, bytes(part.content), source))
        except Retryable as away:
            if not any(isinstance(result, TakenIn) and result.stored for result in results):
                raise
            results.append(away)
    return results


def _response(results: Sequence[TakenIn | ImagingError], settings: Settings) -> dict[str, Any]:
    """Return the Store Instances Response Module (PS3.18 10.5.3, Table 10.5.3-1) as DICOM JSON."""
    base = f"{settings.app_base_url}/dicomweb"
    stored: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    other: list[dict[str, Any]] = []
    studies = set()
    for result in results:
        if isinstance(result, ImagingError):
            reason = _OUT_OF_RESOURCES if isinstance(result, Retryable) else errors.code(result.code).failure_reason
            other.append({"00081197": _value("00081197", reason)})
            continue
        delivery = result.delivery
        item = {}
        if delivery.sop_uid:
            item["00081155"] = _value("00081155", delivery.sop_uid)
        if result.sop_class_uid:
            item["00081150"] = _value("00081150", result.sop_class_uid)
        if result.stored:
            studies.add(delivery.study_uid)
            url = f"{base}/studies/{delivery.study_uid}/series/{_series_of(delivery.blob)}/instances/{delivery.sop_uid}"
            stored.append({**item, "00081190": _value("00081190", url)})
        else:
            item["00081197"] = _value("00081197", errors.code(delivery.reason or "internal").failure_reason)
            (failed if delivery.sop_uid else other).append(item)
    response: dict[str, Any] = {}
    if len(studies) == 1:
        response["00081190"] = _value("00081190", f"{base}/studies/{studies.pop()}")
    for tag, items in (("00081199", stored), ("00081198", failed), ("0008119A", other)):
        if items:
            response[tag] = {"vr": "SQ", "Value": items}
    return response


def _series_of(blob: str | None) -> str:
    return (blob or "//").split("/")[-2]


def _value(tag: str, value: str | int) -> dict[str, Any]:
    return {"vr": _VR[tag], "Value": [value]}


def _xml(response: dict[str, Any]) -> bytes:
    """Return the response in the Native DICOM Model (PS3.19 A.1)."""
    root = ElementTree.Element("NativeDicomModel", {"xmlns": "http://dicom.nema.org/PS3.19/models/NativeDICOM"})
    _xml_attributes(root, response)
    document: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return document


def _xml_attributes(parent: ElementTree.Element, attributes: dict[str, Any]) -> None:
    for tag, element in sorted(attributes.items()):
        node = ElementTree.SubElement(
            parent, "DicomAttribute", {"tag": tag, "vr": element["vr"], "keyword": _KEYWORD[tag]}
        )
        for number, value in enumerate(element["Value"], 1):
            if element["vr"] == "SQ":
                _xml_attributes(ElementTree.SubElement(node, "Item", {"number": str(number)}), value)
            else:
                ElementTree.SubElement(node, "Value", {"number": str(number)}).text = str(value)

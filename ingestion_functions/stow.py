"""STOW-RS: ``POST /api/dicomweb/studies[/{study}]`` (PS3.18 10.5)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import azure.functions as func

from imaging_core import errors
from imaging_core.dicom.header import valid_uid
from imaging_core.errors import Rejected, Retryable
from imaging_core.media_types import MediaRange, accepted_ranges, best, media_type
from imaging_core.settings import Settings
from ingestion_functions.auth import Caller
from ingestion_functions.http_api import HEADERS, problem
from ingestion_functions.intake import NotTaken, Source, TakenIn, refuse, refuse_all, site_of, take_in_all
from ingestion_functions.multipart_related import Part, split
from ingestion_functions.services import Services
from ingestion_functions.store_response import JSON, XML, Item, as_json, as_xml, response_module

__all__ = ["store"]

_DICOM = "application/dicom"
_MULTIPART = "multipart/related"
_BOUNDARY = "imaging-answer"
_INFLATE = 1024 * 1024
_READABLE_SYNTAX = frozenset({"", "*"})


@dataclass(frozen=True)
class _Refused:
    """A part that is not even a file."""

    error: Rejected


def store(parts: Services, caller: Caller, request: func.HttpRequest) -> func.HttpResponse:
    """Store the instances of one request.

    Returns
    -------
    HttpResponse
        200 where all are stored without a warning, 202 where some are, or some with a warning, 409 where none is, with
        a Store Instances Response (PS3.18 10.5.3); a problem where nothing of the request can be read (400, with the
        failed items as further members), and for 406, 413, 415 and 503 (a store is away, Retry-After). A single
        delivery is named in ``X-Intake-Id``, to be asked for at ``/api/intake/{id}``.
    """
    study = request.route_params.get("study", "")
    source = Source("stow", caller.client, site_of(parts, caller), study_uid=study)
    size = len(request.get_body())
    try:
        if study and not valid_uid(study):
            raise Rejected("bad-uid", "the address names no valid Study Instance UID")
        # 8.3.3.1: a user agent that can't set headers asks by a query parameter, which goes before the header
        form = _answer_form(request.params.get("accept") or request.headers.get("Accept", ""))
        files = _files(_plain(request, parts.settings), request.headers.get("Content-Type", ""), parts.settings)
    except Rejected as error:
        delivery = refuse(parts, error, source, size=size)
        answer = problem(error, request, intake_id=str(delivery.intake_id))
        if error.code == "unsupported-media-type":
            answer.headers["Accept-Encoding"] = "gzip, identity"  # RFC 9110 12.5.3
        return answer
    results = _take_in_parts(parts, files, source)
    return _answer(request, results, form, parts.settings)


def _answer(
    request: func.HttpRequest, results: Sequence[TakenIn | NotTaken | _Refused], form: str, settings: Settings
) -> func.HttpResponse:
    items = [_item(result) for result in results]
    stored = sum(item.stored for item in items)
    response = response_module(items, f"{settings.app_base_url}/dicomweb")
    if not stored:
        away = next((result.error for result in results if isinstance(result, NotTaken)), None)
        if away is not None:
            raise away
        reasons = {item.code for item in items}
        if reasons <= _UNREADABLE or reasons == {"unsupported-media-type"}:
            return problem(Rejected(items[0].code, items[0].detail), request, **response)
    status = 409 if not stored else 202 if stored < len(items) or any(item.warning for item in items) else 200
    body = as_xml(response) if XML in form else as_json(response)
    kind = form
    if form.startswith(_MULTIPART):
        inner = XML if XML in form else JSON
        body = b"--%b\r\nContent-Type: %b\r\n\r\n%b\r\n--%b--\r\n" % (
            _BOUNDARY.encode(),
            inner.encode(),
            body,
            _BOUNDARY.encode(),
        )
        kind = f'{_MULTIPART}; type="{inner}"; boundary={_BOUNDARY}'
    headers = {**HEADERS, "Content-Type": kind}
    made = func.HttpResponse(body, status_code=status, mimetype=kind.split(";")[0], headers=headers)
    if len(results) == 1 and isinstance(results[0], TakenIn):
        made.headers["X-Intake-Id"] = str(results[0].delivery.intake_id)
    return made


_UNREADABLE = frozenset({"not-dicom", "truncated", "empty-body"})
"""Nothing in it could be parsed: bad syntax, which is the request's fault (D3)."""


def _item(result: TakenIn | NotTaken | _Refused) -> Item:
    if isinstance(result, NotTaken):
        reason = errors.code("service-unavailable").failure_reason
        return Item(result.sop_class_uid, result.sop_uid, code=result.error.code, failure=reason)
    if isinstance(result, _Refused):
        error = result.error
        return Item(code=error.code, detail=error.detail, failure=errors.code(error.code).failure_reason)
    delivery = result.delivery
    if result.stored:
        series = (delivery.blob or "//").split("/")[-2]
        return Item(result.sop_class_uid, delivery.sop_uid or "", delivery.study_uid or "", series, delivery.warnings)
    code = delivery.reason or "internal"
    return Item(
        result.sop_class_uid,
        delivery.sop_uid or "",
        code=code,
        detail=delivery.detail or "",
        failure=errors.code(code).failure_reason,
    )


def _answer_form(accept: str) -> str:
    """Choose the answer's form by Accept (PS3.18 8.7.4), JSON first; multipart only where nothing else serves."""
    ranges = accepted_ranges(accept)
    # senders are known that ask for the generic types
    generic = {"application/json": JSON, "text/json": JSON, "application/xml": XML, "text/xml": XML}
    single = [MediaRange(generic.get(item.kind, item.kind), item.parameters, item.weight) for item in ranges]
    form = best((JSON, XML), single)
    if form is not None:
        return form
    for item in sorted(ranges, key=lambda item: -item.weight):
        kind = item.parameters.get("type", JSON).lower()
        if item.covers(_MULTIPART) and item.weight and generic.get(kind, kind) in (JSON, XML):
            return f"{_MULTIPART}; {generic.get(kind, kind)}"
    raise Rejected("not-acceptable", f"answers come as {JSON} or {XML}")


def _plain(request: func.HttpRequest, settings: Settings) -> bytes | bytearray:
    """Return the body without ``Content-Encoding: gzip``, within the request's limit."""
    body: bytes = request.get_body()
    limit = settings.max_request_bytes
    way_out = f"MAX_REQUEST_BYTES = {limit}: send several requests, or use the direct drop (POST /api/uploads)"
    if len(body) > limit:
        raise Rejected("body-too-large", f"{len(body)} bytes, {way_out}")
    encoding = request.headers.get("Content-Encoding", "").strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip"):
        raise Rejected("unsupported-media-type", "of content encodings, only gzip is taken")
    return _gunzip(body, limit, way_out)


def _gunzip(body: bytes, limit: int, way_out: str) -> bytearray:
    """Inflate piece by piece, so that there is one copy and never more than the limit (RFC 1952: several members)."""
    plain = bytearray()
    rest: bytes | memoryview = memoryview(body)
    try:
        while rest:
            inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
            while not inflater.eof:
                piece = inflater.decompress(rest, _INFLATE)
                if not piece and not inflater.unconsumed_tail and not inflater.eof:
                    raise Rejected("bad-multipart", "the gzip encoding is cut off")
                plain += piece
                if len(plain) > limit:
                    raise Rejected("body-too-large", f"more than the limit after inflating, {way_out}")
                rest = rest[len(rest) - len(inflater.unconsumed_tail) :]
            rest = memoryview(inflater.unused_data)
    except zlib.error as error:
        raise Rejected("bad-multipart", "the gzip encoding is broken") from error
    return plain


def _files(body: bytes | bytearray, content_type: str, settings: Settings) -> Sequence[Part]:
    kind, parameters = media_type(content_type)
    if kind == _DICOM:
        if not body:
            raise Rejected("empty-body", "send one DICOM file, or multipart/related with several")
        return [Part({"content-type": content_type}, memoryview(body))]
    if kind != _MULTIPART or media_type(parameters.get("type", _DICOM))[0] != _DICOM:
        raise Rejected(
            "unsupported-media-type", 'send multipart/related; type="application/dicom", or one application/dicom'
        )
    if not body:
        raise Rejected("empty-body", "the multipart body is empty")
    return split(body, parameters.get("boundary", ""), settings.max_parts)


def _take_in_parts(parts: Services, files: Sequence[Part], source: Source) -> list[TakenIn | NotTaken | _Refused]:
    """Take in what is a file, and write a row for what is none."""
    refused = {number: error for number, part in enumerate(files) if (error := _refusal(part)) is not None}
    whole = [part for number, part in enumerate(files) if number not in refused]
    taken = iter(take_in_all(parts, [part.content for part in whole], source, [_syntax(part) for part in whole]))
    away = None
    try:
        refuse_all(parts, [(error, len(files[number].content)) for number, error in refused.items()], source)
    except Retryable as error:  # what has no row was not refused either: it is to be sent again
        away = NotTaken(error)
    return [(away or _Refused(refused[number])) if number in refused else next(taken) for number in range(len(files))]


def _refusal(part: Part) -> Rejected | None:
    kind, _ = media_type(part.headers.get("content-type", _DICOM))
    if kind != _DICOM:
        return Rejected("unsupported-media-type", f"a part is {kind[:40] or 'of no media type'}, not {_DICOM}")
    if part.headers.get("content-transfer-encoding", "binary").lower() not in ("binary", "8bit", "7bit"):
        return Rejected("unsupported-media-type", "a part has a transfer encoding: send it as it is (PS3.18 8.6.1.2)")
    return Rejected("empty-body", "a part is empty") if not part.content else None


def _syntax(part: Part) -> str:
    """Return the transfer syntax that the part's media type claims (PS3.18 8.7.3.5.2); empty: none."""
    claimed = media_type(part.headers.get("content-type", _DICOM))[1].get("transfer-syntax", "")
    return "" if claimed in _READABLE_SYNTAX else claimed

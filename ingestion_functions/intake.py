"""Take in files, however they came: the same for STOW-RS, image upload, direct drop and C-STORE.

The order makes a crash harmless: blobs first (never overwritten), then the ledger's rows in one transaction, then the
queue's hint. A file that is sent again after a crash finds its blob, writes its row, and is accepted.
"""

from __future__ import annotations

import contextvars
import hashlib
import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from imaging_core import telemetry
from imaging_core.blobs import BlobMissing
from imaging_core.database import one_statement
from imaging_core.dicom.header import DicomHeader
from imaging_core.dicom.same_content import same_content
from imaging_core.errors import ImagingError, Permanent, Rejected, Retryable
from imaging_core.ledger.accept import Entry, Known, enter, look
from imaging_core.ledger.intake import Delivery
from imaging_core.ledger.origin import metadata_of
from imaging_core.queues import STUDIES
from imaging_core.sites import Site
from ingestion_functions.auth import Caller
from ingestion_functions.services import IntakeServices
from ingestion_functions.sop_reference import OPENING, sop_reference

__all__ = ["NotTaken", "Source", "TakenIn", "refuse", "refuse_all", "site_of", "take_in", "take_in_all"]

T = TypeVar("T")
R = TypeVar("R")
File = bytes | memoryview
# What kills or exhausts a decode child may be an attack or the only copy of a real image: it is kept for a person to
# look at.
_POISON = frozenset({"decode-timeout", "decode-memory", "decode-crashed"})
_COERCED = "B000"  # PS3.18 Table I.2-1
# Files that are read, looked up, stored and entered together: their headers are in memory at once, their bytes are not.
_TOGETHER = 32
_AT_ONCE = 4  # of them in work, so that copies of large ones stay few
log = telemetry.get_logger(__name__)


@dataclass(frozen=True)
class Source:
    """Where a file comes from.

    Parameters
    ----------
    kind : str
        The door.
    client : str
        The authenticated sender.
    site : Site
        The site that it sends for.
    study_uid : str
        Study of the request's address: another one in the file is an error (D9); empty: any.
    delivery_key : str or None
        Name under which a repeated event is recognised.
    """

    kind: Literal["stow", "image", "drop", "cstore"]
    client: str
    site: Site
    study_uid: str = ""
    delivery_key: str | None = None
    upload_id: uuid.UUID | None = None


@dataclass(frozen=True)
class TakenIn:
    """What became of a file: the ledger's row, and the SOP class for the answer."""

    delivery: Delivery
    sop_class_uid: str = ""

    @property
    def stored(self) -> bool:
        """Accepted, or there already: what counts as success for the sender (D15)."""
        return self.delivery.outcome in ("accepted", "duplicate")


@dataclass(frozen=True)
class NotTaken:
    """A file about which nothing was decided, for a store is away: the sender must send it again."""

    error: Retryable
    sop_class_uid: str = ""
    sop_uid: str = ""


@dataclass(frozen=True, eq=False)
class _File:
    """One file of a request: its place there, its bytes, and the transfer syntax that the sender claims."""

    number: int
    data: File
    syntax: str = ""


@dataclass(frozen=True, eq=False)
class _Read:
    """A file on its way: what is to be stored where, and what the ledger is to hold of it."""

    file: _File
    delivery: Delivery
    header: DicomHeader | None = None
    sop_class_uid: str = ""
    quarantine: bool = False

    def ends(self, delivery: Delivery, *, quarantine: bool = False) -> _Read:
        """Return the same file with the outcome that it has now."""
        return replace(self, delivery=delivery, header=None, quarantine=quarantine)


class _Halt:
    """The first store that is away ends the request: each further wait would be as long, and the sender waits too."""

    def __init__(self) -> None:
        self.error: Retryable | None = None

    def attempt(self, call: Callable[[T], R], item: T) -> R | None:
        """Return what `call` returns; None where a store is away."""
        try:
            return call(item)
        except Retryable as error:
            self.error = error
            return None

    def each(self, call: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Call for each item, several at a time, until a store is away; return what came back, in order."""

        def guarded(item: T) -> R | None:
            return None if self.error is not None else self.attempt(call, item)

        return [found for found in _each(guarded, items) if found is not None]


def site_of(parts: IntakeServices, caller: Caller) -> Site:
    """Return the caller's site.

    Raises
    ------
    Permanent
        ``forbidden`` where the client sends for no site.
    """
    site = parts.sites.of_client(caller.client)
    if site is None:
        raise Permanent("forbidden", "this client is not listed with any site (SITES)")
    return site


def take_in(parts: IntakeServices, data: File, source: Source) -> TakenIn:
    """Read, store and register one DICOM Part 10 file in the ledger.

    Returns
    -------
    TakenIn
        Exactly one outcome, durable when this returns.

    Raises
    ------
    Retryable
        A store is away; nothing was acknowledged.
    """
    (result,) = take_in_all(parts, [data], source)
    if isinstance(result, NotTaken):
        raise result.error
    return result


def take_in_all(
    parts: IntakeServices, files: Sequence[File], source: Source, syntaxes: Sequence[str] = ()
) -> list[TakenIn | NotTaken]:
    """Take in the files of one request, several at a time.

    Parameters
    ----------
    files : sequence of bytes or memoryview
        DICOM Part 10 files. None is kept or copied as a whole beyond the few that are in work.
    syntaxes : sequence of str
        Transfer syntax that the sender claims for each; empty: none. A file that says otherwise is refused.

    Returns
    -------
    list of TakenIn or NotTaken
        In the order of `files`. Once a store is away, what was not stored by then is `NotTaken`, and not tried.
    """
    with telemetry.step("intake", files=len(files), bytes=sum(len(data) for data in files), source=source.kind):
        results: list[TakenIn | NotTaken | None] = [None] * len(files)
        halt = _Halt()
        claimed = syntaxes or [""] * len(files)
        waiting = [_File(number, *item) for number, item in enumerate(zip(files, claimed, strict=True))]
        while waiting and halt.error is None:
            waiting = _take_in_some(parts, waiting[:_TOGETHER], source, results, halt) + waiting[_TOGETHER:]
        error = halt.error or Retryable("service-unavailable", "not taken in")
        return [result or _not_taken(parts, data, error) for result, data in zip(results, files, strict=True)]


def refuse(parts: IntakeServices, error: ImagingError, source: Source, *, size: int = 0, detail: str = "") -> Delivery:
    """Write the row of a delivery that never became a file: empty body, wrong media type, missing field."""
    (delivery,) = refuse_all(parts, [(error, size)], source, detail)
    return delivery


def refuse_all(
    parts: IntakeServices, refusals: Sequence[tuple[ImagingError, int]], source: Source, detail: str = ""
) -> list[Delivery]:
    """Write the rows of several deliveries that never became files; with each error goes the size in bytes."""
    deliveries = [
        replace(_delivery(source, size), reason=error.code, detail=detail or error.detail) for error, size in refusals
    ]
    with one_statement(parts.pool) as connection:
        enter(connection, [Entry(delivery) for delivery in deliveries])
    for delivery in deliveries:
        _tell(delivery)
    return deliveries


def _take_in_some(
    parts: IntakeServices,
    files: Sequence[_File],
    source: Source,
    results: list[TakenIn | NotTaken | None],
    halt: _Halt,
) -> list[_File]:
    """Take in a few files together; return those that name an instance a second time, for they must come after it."""
    read = halt.each(lambda file: _read_file(parts, file, source), files)
    first: dict[str, int] = {}
    work: list[_Read] = []
    later: list[_Read] = []
    for item in read:
        is_first = item.header is None or first.setdefault(item.header.sop_uid, item.file.number) == item.file.number
        (work if is_first else later).append(item)
    known = halt.attempt(lambda items: _look(parts, items), work)
    if known is None:
        return []
    kept = halt.each(lambda item: _keep(parts, item, known), work)
    stands = halt.attempt(lambda items: _enter(parts, items), kept)
    if stands is None:
        return []
    overtaken = []
    for item in kept:
        if item.delivery.intake_id in stands:
            results[item.file.number] = TakenIn(item.delivery, item.sop_class_uid)
        else:  # another request brought the same UID between the look and the entry: it is a duplicate, or a conflict
            overtaken.append(item)
    for uid in {item.delivery.study_uid for item in kept if item.header is not None and item not in overtaken}:
        _hint(parts, uid or "")
    return [item.file for item in (*overtaken, *later)]


def _delivery(source: Source, size: int) -> Delivery:
    return Delivery(
        intake_id=uuid.uuid4(),
        source=source.kind,
        client=source.client,
        site=source.site.name,
        outcome="rejected",
        bytes=size,
        upload_id=source.upload_id,
        trace_id=telemetry.trace_id(),
        delivery_key=source.delivery_key,
    )


def _read_file(parts: IntakeServices, file: _File, source: Source) -> _Read:
    """Read the header; what can't be read has its outcome already."""
    data = file.data
    delivery = replace(_delivery(source, len(data)), sha256=hashlib.sha256(data).hexdigest())
    try:
        limit = parts.settings.max_instance_bytes
        if len(data) > limit:
            raise Rejected("instance-too-large", f"{len(data)} bytes, MAX_INSTANCE_BYTES = {limit}")
        header = parts.decoder.header(_whole(data))
    except Rejected as error:
        sop_class_uid, sop_uid = _reference(parts, data)
        delivery = replace(delivery, reason=error.code, detail=error.detail, sop_uid=sop_uid or None)
        return _Read(file, delivery, sop_class_uid=sop_class_uid, quarantine=error.code in _POISON)
    delivery = replace(delivery, sop_uid=header.sop_uid)
    refusal = _contradiction(file, header, source)
    if refusal is not None:
        refused = replace(delivery, reason=refusal.code, detail=refusal.detail)
        return _Read(file, refused, sop_class_uid=header.sop_class_uid)
    name = f"{header.study_uid}/{header.series_uid}/{header.sop_uid}.dcm"
    accepted = replace(
        delivery, outcome="accepted", study_uid=header.study_uid, blob=f"images/{name}", warnings=header.warnings
    )
    return _Read(file, accepted, header, header.sop_class_uid)


def _contradiction(file: _File, header: DicomHeader, source: Source) -> Rejected | None:
    """Return why a file that can be read is not what the request says."""
    if source.study_uid and header.study_uid != source.study_uid:
        return Rejected("uid-mismatch", "the instance belongs to another study than the address names")
    if file.syntax and header.transfer_syntax_uid != file.syntax:
        return Rejected("transfer-syntax-not-supported", "the part's media type claims another than the file has")
    return None


def _look(parts: IntakeServices, items: Sequence[_Read]) -> Known:
    headers = [item.header for item in items if item.header is not None]
    if not headers:
        return Known({}, frozenset())
    with one_statement(parts.pool) as connection:
        return look(connection, [item.sop_uid for item in headers], sorted({item.study_uid for item in headers}))


def _keep(parts: IntakeServices, item: _Read, known: Known) -> _Read:
    """Store the file where its outcome says; what is known already has another outcome."""
    header = item.header
    if header is None:
        return _quarantined(parts, item) if item.quarantine else item
    if header.study_uid in known.coerced:
        item = replace(item, delivery=replace(item.delivery, warnings=(_COERCED, *item.delivery.warnings)))
    stored = known.instances.get(header.sop_uid)
    if stored is not None:  # same UID: the same content is a duplicate (D14), other content is no overwrite (D15)
        dataset_sha256, blob = stored
        if not _same(parts, item, header, dataset_sha256, blob):
            return _conflict(parts, item)
        return item.ends(replace(item.delivery, outcome="duplicate", blob=f"images/{blob}"))
    name = (item.delivery.blob or "").removeprefix("images/")
    metadata = {"datasetsha256": header.dataset_sha256, "traceparent": telemetry.traceparent()}
    fresh = parts.blobs.put_new(
        "images",
        name,
        _whole(item.file.data),
        metadata=metadata | metadata_of(item.delivery),
        content_type="application/dicom",
    )
    if not fresh and not _same(parts, item, header, _stored_hash(parts, name), name):
        return _conflict(parts, item)
    return item


def _same(parts: IntakeServices, item: _Read, header: DicomHeader, dataset_sha256: str, blob: str) -> bool:
    """Return whether a stored instance is the same one.

    Where the hashes differ the contents are compared: the other route of a modality, or a PACS on the way, may have
    encoded the same instance otherwise, and an earlier version of this system may have reckoned the hash otherwise.
    """
    if dataset_sha256 == header.dataset_sha256:
        return True
    try:
        return parts.decoder.run(same_content, parts.blobs.get("images", blob), bytes(item.file.data))
    except Rejected:
        return False  # can't be compared: a person will look at it
    except BlobMissing as error:
        raise Retryable("storage-unavailable", "the blob was deleted while it was looked at") from error


def _conflict(parts: IntakeServices, item: _Read) -> _Read:
    detail = "this SOP Instance UID is stored with other content; an admin will look at it"
    refused = replace(item.delivery, reason="conflicting-content", detail=detail, warnings=())
    return _quarantined(parts, item.ends(refused))


def _quarantined(parts: IntakeServices, item: _Read) -> _Read:
    name = f"{item.delivery.sha256}.dcm"
    delivery = replace(item.delivery, outcome="quarantined", blob=f"quarantine/{name}")
    parts.blobs.put_new("quarantine", name, _whole(item.file.data), metadata=metadata_of(delivery))
    return item.ends(delivery)


def _enter(parts: IntakeServices, items: Sequence[_Read]) -> set[uuid.UUID]:
    traceparent = telemetry.traceparent()
    with one_statement(parts.pool) as connection:
        stands = enter(connection, [Entry(item.delivery, item.header, traceparent) for item in items])
    for item in items:
        if item.delivery.intake_id in stands:
            _tell(item.delivery)
    return stands


def _hint(parts: IntakeServices, study_uid: str) -> None:
    try:
        parts.queues.hint(STUDIES, study_uid)
    except Retryable:
        log.warning("hint lost; the sweep will find it", study=telemetry.hashed_uid(study_uid))


def _tell(delivery: Delivery) -> None:
    uid = telemetry.hashed_uid(delivery.study_uid) if delivery.study_uid else None
    log.info(delivery.outcome, step="intake", code=delivery.reason, study=uid, bytes=delivery.bytes)


def _stored_hash(parts: IntakeServices, name: str) -> str:
    try:
        return parts.blobs.info("images", name).metadata.get("datasetsha256", "")
    except BlobMissing as error:
        raise Retryable("storage-unavailable", "the blob was deleted while it was looked at") from error


def _not_taken(parts: IntakeServices, data: File, error: Retryable) -> NotTaken:
    return NotTaken(error, *_reference(parts, data))


def _reference(parts: IntakeServices, data: File) -> tuple[str, str]:
    try:
        return parts.decoder.run(sop_reference, bytes(data[:OPENING]))
    except ImagingError:
        return "", ""


def _whole(data: File) -> bytes:
    """Return the file as bytes: a copy of this one alone, for as long as it is in work."""
    if isinstance(data, bytes):
        return data
    whole = data.obj
    return whole if isinstance(whole, bytes) and len(whole) == len(data) else bytes(data)


_threads: list[ThreadPoolExecutor] = []
_opening = threading.Lock()


def _each(call: Callable[[T], R], items: Sequence[T]) -> Iterable[R]:
    """Call for each item: several at a time, in the caller's trace; one alone in the caller's own thread."""
    if len(items) < 2:
        return [call(item) for item in items]
    with _opening:
        if not _threads:
            _threads.append(ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="intake"))
    contexts = [contextvars.copy_context() for _ in items]
    return list(_threads[0].map(lambda context, item: context.run(call, item), contexts, items))

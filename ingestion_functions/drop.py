"""A file has arrived in container ``incoming``: the same intake as for a request.

Event Grid repeats and reorders events, sends several per blob, and may lose one: an event only says "look at this
blob". The delivery's key is the blob's name and ETag, so that a version of a blob has one outcome however often it is
looked at, and the sweep looks at what no event has told of. What is accepted, there already or in quarantine is stored
elsewhere by then, and its blob is deleted; a rejected one stays until the container's lifecycle rule ends it, so that
nothing that a sender dropped is lost before somebody has looked.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from imaging_core import telemetry
from imaging_core.blobs import BlobInfo, BlobMissing
from imaging_core.database import unit_of_work
from imaging_core.errors import Rejected, Retryable
from imaging_core.ledger import drop as ledger
from imaging_core.ledger.drop import Announced
from imaging_core.sites import Site
from ingestion_functions.file_kind import HEAD, kind_of
from ingestion_functions.image_upload import PatientFields, StudyFields, take_in_image
from ingestion_functions.intake import Source, refuse, take_in
from ingestion_functions.memory import Room
from ingestion_functions.services import Services, services
from ingestion_functions.zip_members import Member, ZipArchive

__all__ = ["arrived", "sweep"]

CONTAINER = "incoming"
_CLIENT = "drop"
_AT_ONCE = 1024 * 1024  # up to here a blob is read in one go
_STORED = frozenset({"accepted", "duplicate", "quarantined"})
_CALL_S = 420.0  # a call ends before `functionTimeout` of host.json; the sweep goes on with what is left
_LOOKED_AT = 500
log = telemetry.get_logger(__name__)


@dataclass(frozen=True)
class _Drop:
    """One version of one blob."""

    parts: Services
    blob: BlobInfo
    key: str
    source: Source
    announced: Announced | None
    until: float

    def read(self, offset: int = 0, length: int | None = None) -> bytes:
        return self.parts.blobs.read(CONTAINER, self.blob.name, self.blob.etag, offset=offset, length=length)

    def delete(self) -> None:
        self.parts.blobs.delete(CONTAINER, self.blob.name, etag=self.blob.etag)


def arrived(name: str) -> None:
    """Take in one dropped blob, once.

    Raises
    ------
    Retryable
        A store is away: the event must come again.
    """
    _look_at(services(), name, time.monotonic() + _CALL_S)


def sweep() -> None:
    """Look at the blobs that have lain for a while without an outcome: their events were lost, or gave up too early."""
    parts = services()
    until = time.monotonic() + _CALL_S
    with telemetry.continue_trace(None, "drop sweep"):
        try:
            for name in _due(parts):
                _look_at_one(parts, name, until)
                if time.monotonic() > until:
                    return
        except Retryable as error:
            log.warning("postponed", step="drop sweep", code=error.code)


def _look_at_one(parts: Services, name: str, until: float) -> None:
    try:
        _look_at(parts, name, until)
    except Retryable:
        raise
    except Exception:  # one file that nothing can be done with keeps no other from being looked at
        log.exception("failed", step="drop sweep")


def _due(parts: Services) -> Iterator[str]:
    before = time.time() - parts.settings.sweep_after_s
    listed = (
        blob for blob in parts.blobs.list(CONTAINER) if blob.modified is None or blob.modified.timestamp() < before
    )
    while some := list(islice(listed, _LOOKED_AT)):
        keys = {_key(blob): blob.name for blob in some}
        with unit_of_work(parts.pool) as connection:
            done = ledger.delivered(connection, list(keys))
        yield from (name for key, name in keys.items() if key not in done)


def _key(blob: BlobInfo) -> str:
    return f"drop:{blob.name}:{blob.etag}"


def _look_at(parts: Services, name: str, until: float) -> None:
    try:
        blob = parts.blobs.info(CONTAINER, name)
        key = _key(blob)
        with (
            telemetry.continue_trace(blob.metadata.get("traceparent"), "drop", bytes=blob.size),
            unit_of_work(parts.pool) as connection,
        ):
            # held to the end: a second worker with the same event leaves, and finds nothing to do later
            if not ledger.claim(connection, key):
                return
            announced = ledger.announced(connection, name)
            outcome = ledger.outcome_of(connection, key)
            _settle(_Drop(parts, blob, key, _source(parts, key, announced), announced, until), outcome)
    except BlobMissing:
        return  # taken in already, overwritten, deleted, or not readable yet: then the sweep finds it


def _settle(drop: _Drop, outcome: str | None) -> None:
    """Bring one blob to its outcome; `outcome` is set where that was done and only the blob is left."""
    if outcome is None:
        outcome = _outcome(drop)
    if outcome in _STORED:
        drop.delete()


def _source(parts: Services, key: str, announced: Announced | None) -> Source:
    if announced is not None:
        site = parts.sites.named(announced.site)
        return Source("drop", announced.client, site, delivery_key=key, upload_id=announced.upload_id)
    return Source("drop", _CLIENT, parts.sites.of_client(_CLIENT) or Site(""), delivery_key=key)


def _outcome(drop: _Drop) -> str | None:
    """Return what became of the blob; None where an archive needs another call."""
    settings, size = drop.parts.settings, drop.blob.size
    try:
        if not drop.source.site.name:
            raise Rejected("forbidden", "SITES lists no client `drop`: announce files by POST /api/uploads")
        if size == 0:
            raise Rejected("empty-body", "the file is empty")
        if size > settings.max_drop_bytes:
            raise Rejected("body-too-large", f"{size} bytes, MAX_DROP_BYTES = {settings.max_drop_bytes}")
        head = drop.read(0, min(size, _AT_ONCE if size <= _AT_ONCE else HEAD))
        kind = kind_of(head[:HEAD])
        if kind.name == "zip":
            return _archive(drop)
        if kind.name == "other":
            raise Rejected("file-type-not-taken", kind.told)
        if size > settings.max_instance_bytes:
            raise Rejected(
                "instance-too-large",
                f"{size} bytes, MAX_INSTANCE_BYTES = {settings.max_instance_bytes} (MAX_DROP_BYTES is for archives)",
            )
    except Rejected as error:
        return refuse(drop.parts, error, drop.source, size=size).outcome
    with _room(settings.max_bytes_in_work).of(size):
        return _file(drop, head if len(head) == size else drop.read(), drop.source)


def _file(drop: _Drop, data: bytes, source: Source) -> str:
    """Take in one file, dropped alone or in an archive; return its outcome."""
    parts = drop.parts
    kind = kind_of(data[:HEAD])
    try:
        if not data:
            raise Rejected("empty-body", "the file is empty")
        if kind.name == "zip":
            raise Rejected("archive-nested", "send the archive itself, or its files in one archive")
        if kind.name == "other":
            raise Rejected("file-type-not-taken", kind.told)
        if kind.name == "picture":
            patient, study = _fields(drop.announced)
            return take_in_image(parts, data, patient, study, source).delivery.outcome
        return take_in(parts, data, source).delivery.outcome
    except Rejected as error:
        return refuse(parts, error, source, size=len(data)).outcome


def _fields(announced: Announced | None) -> tuple[PatientFields, StudyFields]:
    patient = announced.fields.get("patient") if announced else None
    if announced is None or patient is None:
        raise Rejected("missing-field", "patient: a picture needs POST /api/uploads with patient fields")
    study = announced.fields.get("study") or {}
    return PatientFields.model_validate(patient), StudyFields.model_validate(study)


def _archive(drop: _Drop) -> str | None:
    """Take in the files of a zip archive, each a delivery of its own; go on where an earlier call stopped.

    Raises
    ------
    Rejected
        Nothing of the archive is taken.
    """
    archive = ZipArchive(lambda offset, length: drop.read(offset, length), drop.blob.size, drop.parts.settings)
    members = {f"{drop.key}#{member.ordinal}": member for member in archive.members}
    if not members:
        raise Rejected("empty-body", "the archive holds no file")
    with unit_of_work(drop.parts.pool) as connection:
        listed = [(key, member.ordinal, member.name) for key, member in members.items()]
        ledger.open_archive(connection, drop.key, drop.blob.name, drop.source.upload_id, listed)
        outcomes = ledger.outcomes_of_members(connection, drop.key)
    for key, member in members.items():
        if key in outcomes:
            continue
        if time.monotonic() > drop.until:
            log.info("archive goes on later", step="drop", done=len(outcomes), members=len(members))
            return None
        outcomes[key] = _member(drop, archive, member, key)
    with unit_of_work(drop.parts.pool) as connection:
        ledger.finish_archive(connection, drop.key)
    log.info("archive done", step="drop", members=len(members), bytes=drop.blob.size)
    return "accepted" if set(outcomes.values()) <= _STORED else "rejected"


def _member(drop: _Drop, archive: ZipArchive, member: Member, key: str) -> str:
    source = Source("drop", drop.source.client, drop.source.site, delivery_key=key, upload_id=drop.source.upload_id)
    with _room(drop.parts.settings.max_bytes_in_work).of(member.size):
        try:
            data = archive.content(member)
        except Rejected as error:
            return refuse(drop.parts, error, source, size=member.size).outcome
        return _file(drop, data, source)


@functools.cache
def _room(total: int) -> Room:
    return Room(total)

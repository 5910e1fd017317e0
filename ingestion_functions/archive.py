"""The archive step: beside each original, a lossless copy that is smaller, where there can be one.

It comes last and may wait: it runs when a study's analysis is done, in a decode child of its own at low priority, one
instance at a time in a process. The original is what was received and stays; a copy has a name that follows from the
original's, so that doing it twice writes the same blob twice.
"""

from __future__ import annotations

import functools
import random
import threading
import time
from typing import Any

import azure.functions as func

from imaging_core import telemetry
from imaging_core.database import unit_of_work
from imaging_core.dicom.archival import EXTENSIONS, ArchiveSyntax
from imaging_core.dicom.child import DecodePool
from imaging_core.errors import ImagingError, Retryable
from imaging_core.ledger import rendition as ledger
from imaging_core.ledger.rendition import Due
from imaging_core.queues import ARCHIVES
from imaging_core.settings import Settings
from ingestion_functions.services import Services
from ingestion_functions.steps import hint

__all__ = ["archive", "due", "give_up", "rendition_name"]

# What one message may take: a queue message is invisible for as long as its function runs, and others wait behind it.
_AT_ONCE_S = 60.0
_BUSY_S = 10.0
_AWAY_S = 30.0
_NICE = 15
_one_at_a_time = threading.Lock()
log = telemetry.get_logger(__name__)


def rendition_name(blob: str, syntax: ArchiveSyntax) -> str:
    """Return the blob name of an original's rendition: ``<study>/<series>/<sop>.jls.dcm``."""
    return f"{blob.removesuffix('.dcm')}.{EXTENSIONS[syntax]}.dcm"


def archive(parts: Services, study_uid: str) -> None:
    """Make the renditions that a study lacks."""
    syntax = parts.settings.archive_syntax
    if syntax == "none":
        return
    if not _one_at_a_time.acquire(blocking=False):
        hint(parts, ARCHIVES, study_uid, delay_s=_BUSY_S * random.uniform(1, 2))  # noqa: S311  # no secret
        return
    try:
        more = _archive(parts, study_uid, syntax)
    finally:
        _one_at_a_time.release()
    if more:
        hint(parts, ARCHIVES, study_uid, delay_s=more)


def due(parts: Services) -> int:
    """Send a hint for each study whose renditions wait; return how many."""
    if parts.settings.archive_syntax == "none":
        return 0
    with unit_of_work(parts.pool) as connection:
        studies = ledger.due_studies(connection, parts.settings.sweep_after_s)
    for study_uid in studies:
        hint(parts, ARCHIVES, study_uid)
    return len(studies)


def give_up(message: func.QueueMessage) -> None:
    """Leave a message that failed five times: the ledger counts the tries of each instance, the sweep comes again."""
    hinted: dict[str, Any] = message.get_json()
    with telemetry.continue_trace(hinted.get("traceparent"), "archive_poison"):
        log.error("poison", step="archive", study=telemetry.hashed_uid(str(hinted.get("study_uid", ""))))


def _archive(parts: Services, study_uid: str, syntax: ArchiveSyntax) -> float:
    """Return in how many seconds the step is due again, 0 where it is not."""
    until = time.monotonic() + _AT_ONCE_S
    while time.monotonic() < until:
        with unit_of_work(parts.pool) as connection:
            instance = ledger.claim(connection, study_uid)
        if instance is None:
            return 0.0
        try:
            _one(parts, instance, syntax)
        except Retryable as error:
            log.warning("postponed", step="archive", code=error.code, study=telemetry.hashed_uid(study_uid))
            with unit_of_work(parts.pool) as connection:
                ledger.postpone(connection, instance.sop_uid, _AWAY_S)
            return _AWAY_S + 1
        except ImagingError as error:
            log.error("no rendition", step="archive", code=error.code, study=telemetry.hashed_uid(study_uid))
            with unit_of_work(parts.pool) as connection:
                ledger.fail(connection, instance.sop_uid, error.code)
    return 1.0


def _one(parts: Services, instance: Due, syntax: ArchiveSyntax) -> None:
    data = parts.blobs.get("images", instance.blob)
    made = _compressor(parts.settings).archival_rendition(data, syntax)
    name = rendition_name(instance.blob, syntax)
    if made.state == "stored":
        parts.blobs.put(
            "images",
            name,
            made.data,
            metadata={"renditionof": instance.blob.rsplit("/", 1)[-1], "valuessha256": made.values_sha256},
            content_type="application/dicom",
        )
        if parts.blobs.info("images", name).size != len(made.data):
            raise Retryable("storage-unavailable", "the stored rendition has another size")
    with unit_of_work(parts.pool) as connection:
        ledger.record(connection, instance.sop_uid, made, name)
    log.info("archived", step="archive", state=made.state, reason=made.reason, bytes=len(data), kept=len(made.data))


@functools.cache
def _compressor(settings: Settings) -> DecodePool:
    """Return the one decode child for this step: intake's children are not kept waiting by it."""
    return DecodePool.from_settings(settings.model_copy(update={"decode_workers": 1}), nice=_NICE)

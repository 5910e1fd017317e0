"""Drift counts in Blob Storage: one blob per model and day, which every worker adds to under its ETag."""

from __future__ import annotations

import json
import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from ai_container.activation import CONTAINER
from ai_container.bundle import Bundle
from ai_container.drift import Comparison, Counts, compare
from ai_container.metrics import DRIFT, DRIFT_IMAGES
from ai_container.study_analysis import StudyAnalysis
from imaging_core import telemetry
from imaging_core.blobs import BlobMissing, BlobStore
from imaging_core.errors import Retryable

__all__ = ["WINDOW_DAYS", "DriftStore"]

WINDOW_DAYS = 30
_TRIES = 20
_FOLDER = "drift"
log = telemetry.get_logger(__name__)


@dataclass
class _Unsaved:
    """Counts that are not in Blob Storage yet; `number` tells a repeated save from a new one."""

    number: int = 0
    counts: Counts = field(default_factory=Counts)


@dataclass(frozen=True)
class _Blob:
    """What a day's blob holds: counts, and the number of each worker's last save."""

    counts: Counts
    saves: Mapping[str, int]

    def content(self) -> bytes:
        text = json.dumps({"format": 1, **self.counts.as_json(), "saves": self.saves}, sort_keys=True)
        return text.encode()


def _parsed(data: bytes) -> _Blob:
    try:
        content = json.loads(data)
        saves = {str(worker): int(number) for worker, number in content.get("saves", {}).items()}
        return _Blob(Counts.parsed(content), saves)
    except (ValueError, TypeError, AttributeError):
        log.error("drift-counts-unreadable")  # statistics, no truth: they begin anew rather than stop the service
        return _Blob(Counts(), {})


class DriftStore:
    """The running distributions of this worker's models.

    Parameters
    ----------
    blobs : BlobStore
        Where the counts of all workers meet.
    """

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._worker = uuid.uuid4().hex[:12]
        self._lock = threading.Lock()
        self._saving = threading.Lock()
        self._unsaved: dict[tuple[str, str], _Unsaved] = {}
        self._pending: deque[tuple[tuple[str, str], _Unsaved]] = deque()

    def add(self, analysis: StudyAnalysis) -> None:
        """Count the images of an analysis."""
        if analysis.bundle is None or not analysis.measures:
            return
        key = (analysis.bundle.reference, datetime.now(UTC).date().isoformat())
        with self._lock:
            entry = self._unsaved.setdefault(key, _Unsaved())
            for measure in analysis.measures:
                entry.counts.add(measure)

    def save(self) -> None:
        """Add what is new to the blobs; a save whose answer was lost is not counted twice.

        Raises
        ------
        Retryable
            The image store is away; nothing is lost, the next save has it.
        """
        with self._saving:
            with self._lock:
                for key, entry in self._unsaved.items():
                    if entry.counts.images:
                        self._pending.append((key, entry))
                        self._unsaved[key] = _Unsaved(entry.number + 1)
            # one that failed goes first and under its old number, which stands for exactly its counts
            while self._pending:
                self._add(*self._pending[0])
                with self._lock:
                    self._pending.popleft()

    def _add(self, key: tuple[str, str], entry: _Unsaved) -> None:
        name = _name(*key)
        for number in range(_TRIES):
            if number:  # others save too: not all at once again
                time.sleep(random.uniform(0, 0.01 * 2 ** min(number, 6)))  # noqa: S311 nothing secret
            try:
                data, etag = self._blobs.get_with_etag(CONTAINER, name)
                held = _parsed(data)
            except BlobMissing:
                held, etag = _Blob(Counts(), {}), ""
            if held.saves.get(self._worker, -1) >= entry.number:
                return
            held.counts.merge(entry.counts)
            changed = _Blob(held.counts, {**held.saves, self._worker: entry.number})
            if self._blobs.replace(CONTAINER, name, changed.content(), etag=etag, content_type="application/json"):
                return
        raise Retryable("precondition-failed", "the drift counts kept changing", 1)

    def window(self, reference: str, days: int = WINDOW_DAYS, today: date | None = None) -> Counts:
        """Return the counts of all workers over the last days, those of this one that are not saved included.

        Raises
        ------
        Retryable
            The image store is away.
        """
        last = today or datetime.now(UTC).date()
        first = (last - timedelta(days=days - 1)).isoformat()
        found = Counts()
        prefix = f"{_FOLDER}/{reference.replace(':', '/')}/"
        for blob in self._blobs.list(CONTAINER, prefix):
            day = blob.name.removeprefix(prefix).removesuffix(".json")
            if first <= day <= last.isoformat():
                found.merge(_parsed(self._blobs.get(CONTAINER, blob.name)).counts)
        with self._lock:
            for (name, day), entry in (*self._unsaved.items(), *self._pending):
                if name == reference and first <= day <= last.isoformat():
                    found.merge(entry.counts)
        return found

    def report(self, bundle: Bundle, days: int = WINDOW_DAYS) -> dict[str, Any]:
        """Return what ``GET /v1/models/<name>/drift`` answers, and set the metrics.

        Raises
        ------
        Retryable
            The image store is away.
        """
        counts = self.window(bundle.reference, days)
        known = Counts.parsed(bundle.training_reference) if bundle.training_reference else None
        compared = compare(counts, known) if known else []
        DRIFT_IMAGES.labels(model=bundle.reference).set(counts.images)
        for item in compared:
            DRIFT.labels(model=bundle.reference, what=item.quantity).set(item.psi)
        return {
            "model": bundle.reference,
            "task": bundle.task,
            "days": days,
            "images": counts.images,
            "reference_images": known.images if known else 0,
            "psi": {item.quantity: _shown(item) for item in compared},
            "counts": counts.bins,
            "reference": known.bins if known else {},
        }


def _shown(item: Comparison) -> dict[str, Any]:
    noise = round(item.noise, 4) if item.noise != float("inf") else None
    return {"value": round(item.psi, 4), "noise": noise, "state": item.state}


def _name(reference: str, day: str) -> str:
    return f"{_FOLDER}/{reference.replace(':', '/')}/{day}.json"

"""The journal: history of the ledger, shipped by the sweep to container ``journal``, append-only.

A blob holds the rows of one segment as JSON lines, ``{"kind": table, "row": {...}}``, in the order of their numbers.
Its name says which numbers and what content, so that the same segment written twice is one blob and another content
never takes the place of what is there, not even after PostgreSQL was set back to an older day and numbers come again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from imaging_core import telemetry
from imaging_core.blobs import BlobStore
from imaging_core.database import Pool, unit_of_work
from imaging_core.ledger import journal as ledger
from imaging_core.ledger.journal import Segment

__all__ = ["CONTAINER", "blobs_of", "read", "ship"]

CONTAINER = "journal"
_MOST_ROWS = 2000  # of each kind in a segment: a blob of a few megabytes
_MOST_SEGMENTS = 50
_SWEEP_S = 30.0
log = telemetry.get_logger(__name__)


def ship(pool: Pool, blobs: BlobStore, journal_after_s: float = 0.0) -> int:
    """Ship what is due; return how many rows.

    Parameters
    ----------
    journal_after_s : float
        Setting JOURNAL_AFTER_S, the longest time that history waits; 0: everything now.

    Raises
    ------
    Retryable
        A store is away; what was planned is carried out the next time.
    """
    shipped = _carry_out(pool, blobs)
    for _ in range(_MOST_SEGMENTS):
        with unit_of_work(pool) as connection:
            number = ledger.waiting(connection)
            since = ledger.last_shipped_s(connection)
            # the sweep comes again in half a minute: what would then be too late goes now
            young = since is not None and since + _SWEEP_S < journal_after_s
            if not number or (young and number < _MOST_ROWS) or ledger.plan(connection, _MOST_ROWS) is None:
                break
        shipped += _carry_out(pool, blobs)
    return shipped


def _carry_out(pool: Pool, blobs: BlobStore) -> int:
    """Write every planned segment."""
    rows = 0
    while True:
        with unit_of_work(pool) as connection:
            found = ledger.open_segments(connection)
            if not found:
                return rows
            for segment in found:
                lines = ledger.rows(connection, segment)
                name = _write(blobs, segment, lines) if lines else None
                ledger.shipped(connection, segment, name, len(lines))
                rows += len(lines)


def _write(blobs: BlobStore, segment: Segment, lines: list[tuple[str, dict[str, Any]]]) -> str:
    data = "".join(
        json.dumps({"kind": kind, "row": row}, ensure_ascii=False, sort_keys=True) + "\n" for kind, row in lines
    ).encode()
    digest = hashlib.sha256(data).hexdigest()[:16]
    name = f"{segment.first_sequence:019d}-{segment.last_sequence:019d}-{digest}.jsonl"
    blobs.put_new(CONTAINER, name, data, content_type="application/x-ndjson")
    return name


def blobs_of(blobs: BlobStore) -> Iterator[str]:
    """Yield the names of the journal's blobs in their order."""
    for info in blobs.list(CONTAINER):
        if info.name.endswith(".jsonl"):
            yield info.name


def read(blobs: BlobStore, name: str) -> list[tuple[str, dict[str, Any]]]:
    """Return kind and row of each line of a blob."""
    found = []
    for line in blobs.get(CONTAINER, name).splitlines():
        entry = json.loads(line)
        found.append((str(entry["kind"]), entry["row"]))
    return found

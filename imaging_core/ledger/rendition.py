"""Archival renditions in `ledger.instance`: which instance is due, what became of it, what was saved.

A worker takes one instance at a time by a lease, not by a lock: no connection is held while an image is compressed, and
a worker that is killed gives its instance back when the lease has run out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import class_row

from imaging_core.dicom.archival import Rendition

__all__ = ["Due", "Saved", "claim", "due_studies", "fail", "postpone", "record", "saved"]

LEASE_S = 300
MOST_TRIES = 5
Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class Due:
    """An instance that has no rendition yet, leased to the caller."""

    sop_uid: str
    blob: str
    bytes: int
    tries: int


@dataclass(frozen=True)
class Saved:
    """What the renditions of all instances come to.

    Parameters
    ----------
    stored, not_smaller, not_applicable, failed, waiting : int
        Instances by state.
    original_bytes, rendition_bytes : int
        Of those that have a rendition.
    """

    stored: int
    not_smaller: int
    not_applicable: int
    failed: int
    waiting: int
    original_bytes: int
    rendition_bytes: int

    @property
    def saved_bytes(self) -> int:
        """Bytes by which the renditions are smaller than their originals."""
        return self.original_bytes - self.rendition_bytes


def claim(connection: Connection, study_uid: str) -> Due | None:
    """Lease the next instance of a study; None where nothing is due, or others have what is.

    What was tried too often ends as ``failed``: it killed its worker each time.
    """
    connection.execute(
        """
        UPDATE ledger.instance SET rendition_state = 'failed', rendition_reason = 'internal', rendition_lease = NULL
        WHERE study_uid = %s AND rendition_state IS NULL AND rendition_tries >= %s
          AND coalesce(rendition_lease, '-infinity') < now()
        """,
        (study_uid, MOST_TRIES),
    )
    with connection.cursor(row_factory=class_row(Due)) as cursor:
        cursor.execute(
            """
            UPDATE ledger.instance SET rendition_tries = rendition_tries + 1,
                   rendition_lease = now() + make_interval(secs => %s)
            WHERE sop_uid = (
                SELECT sop_uid FROM ledger.instance
                WHERE study_uid = %s AND rendition_state IS NULL AND coalesce(rendition_lease, '-infinity') < now()
                ORDER BY sop_uid LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED)
            RETURNING sop_uid, blob, bytes, rendition_tries AS tries
            """,
            (LEASE_S, study_uid),
        )
        return cursor.fetchone()


def record(connection: Connection, sop_uid: str, rendition: Rendition, name: str | None) -> None:
    """Note what became of an instance; the first note stands."""
    stored = rendition.state == "stored"
    connection.execute(
        """
        UPDATE ledger.instance SET rendition_state = %s, rendition_reason = %s, rendition = %s, rendition_syntax = %s,
               rendition_bytes = %s, rendition_values_sha256 = %s, rendition_lease = NULL
        WHERE sop_uid = %s AND rendition_state IS NULL
        """,
        (
            rendition.state,
            rendition.reason,
            name if stored else None,
            rendition.transfer_syntax_uid or None,
            len(rendition.data) if stored else None,
            rendition.values_sha256 or None,
            sop_uid,
        ),
    )


def fail(connection: Connection, sop_uid: str, reason: str) -> None:
    """Note that no rendition can be made, by a code of `imaging_core.errors`; the original is not touched by it."""
    connection.execute(
        """
        UPDATE ledger.instance SET rendition_state = 'failed', rendition_reason = %s, rendition_lease = NULL
        WHERE sop_uid = %s AND rendition_state IS NULL
        """,
        (reason, sop_uid),
    )


def postpone(connection: Connection, sop_uid: str, seconds: float) -> None:
    """Give a leased instance back: a part was away, which is no fault of it and no try."""
    connection.execute(
        """
        UPDATE ledger.instance SET rendition_tries = greatest(rendition_tries - 1, 0),
               rendition_lease = now() + make_interval(secs => %s)
        WHERE sop_uid = %s AND rendition_state IS NULL
        """,
        (seconds, sop_uid),
    )


def due_studies(connection: Connection, older_than_s: float, limit: int = 100) -> list[str]:
    """Return studies that nothing else is to be done for and that have instances without a rendition.

    An instance of a study that waits for a person is due an hour after it came in.
    """
    rows = connection.execute(
        """
        SELECT study_uid, min(i.received_at) AS first FROM ledger.instance i JOIN ledger.study s USING (study_uid)
        WHERE i.rendition_state IS NULL AND coalesce(i.rendition_lease, '-infinity') < now()
          AND i.received_at < now() - make_interval(secs => %s)
          AND ((i.registered AND s.analysed_version >= s.version) OR i.received_at < now() - interval '1 hour')
        GROUP BY study_uid ORDER BY first LIMIT %s
        """,
        (older_than_s, limit),
    ).fetchall()
    return [row[0] for row in rows]


def saved(connection: Connection) -> Saved:
    """Count renditions by state and the bytes that they save."""
    with connection.cursor(row_factory=class_row(Saved)) as cursor:
        cursor.execute(
            """
            SELECT count(*) FILTER (WHERE rendition_state = 'stored') AS stored,
                   count(*) FILTER (WHERE rendition_state = 'not-smaller') AS not_smaller,
                   count(*) FILTER (WHERE rendition_state = 'not-applicable') AS not_applicable,
                   count(*) FILTER (WHERE rendition_state = 'failed') AS failed,
                   count(*) FILTER (WHERE rendition_state IS NULL) AS waiting,
                   coalesce(sum(bytes) FILTER (WHERE rendition_state = 'stored'), 0)::bigint AS original_bytes,
                   coalesce(sum(rendition_bytes), 0)::bigint AS rendition_bytes
            FROM ledger.instance
            """
        )
        found = cursor.fetchone()
    return found or Saved(0, 0, 0, 0, 0, 0, 0)

"""Quarantined files: what waits for a person, and what the person decided. The first decision stands."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg.rows import class_row, dict_row

from imaging_core.errors import Permanent

__all__ = ["RELEASABLE", "Decision", "Released", "became", "decide", "quarantined", "quarantined_file", "to_release"]

Decision = Literal["discard", "release"]
Connection = psycopg.Connection[Any]

RELEASABLE = frozenset({"decode-timeout", "decode-memory", "decode-crashed"})
"""Reasons that other limits may lift. Other content under a taken UID never gets in: the first one stays (D15)."""


@dataclass(frozen=True)
class Released:
    """A quarantined file that a person gave another try, and that has not had it yet."""

    intake_id: uuid.UUID
    source: Literal["stow", "image", "drop", "cstore"]
    client: str
    site: str
    blob: str
    upload_id: uuid.UUID | None


_LISTED = """
SELECT i.intake_id, i.received_at, i.source, i.client, i.site, i.reason, i.detail, i.sop_uid, i.study_uid, i.sha256,
       i.bytes, i.blob, d.action AS decision
FROM ledger.intake i LEFT JOIN ledger.quarantine_decision d USING (intake_id)
WHERE i.outcome = 'quarantined' AND i.superseded_by IS NULL
"""


def quarantined(connection: Connection, limit: int = 1000) -> list[Mapping[str, Any]]:
    """Return the files that nobody has decided about, the oldest first."""
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(f"{_LISTED} AND d.intake_id IS NULL ORDER BY i.received_at LIMIT %s", (limit,))
        return list(cursor.fetchall())


def quarantined_file(connection: Connection, intake_id: uuid.UUID) -> Mapping[str, Any]:
    """Return one quarantined file.

    Raises
    ------
    Permanent
        ``not-found``.
    """
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(f"{_LISTED} AND i.intake_id = %s", (intake_id,))
        row = cursor.fetchone()
    if row is None:
        raise Permanent("not-found", "no such file in quarantine")
    return row


def decide(connection: Connection, intake_id: uuid.UUID, action: Decision, *, who: str, reason: str) -> None:
    """Record a decision.

    Raises
    ------
    Permanent
        ``not-found``; ``bad-field`` where a reason is missing, or the file can't be released; ``precondition-failed``
        where somebody has decided already.
    """
    if not who or not reason.strip():
        raise Permanent("bad-field", "a decision needs a reason and the name of who took it")
    row = quarantined_file(connection, intake_id)
    if action == "release" and row["reason"] not in RELEASABLE:
        raise Permanent(
            "bad-field", f"{row['reason']}: what is stored under this UID stays; send the file under a UID of its own"
        )
    recorded = connection.execute(
        """
        INSERT INTO ledger.quarantine_decision (intake_id, action, reason, who) VALUES (%s, %s, %s, %s)
        ON CONFLICT DO NOTHING
        """,
        (intake_id, action, reason, who),
    ).rowcount
    if not recorded:
        raise Permanent("precondition-failed", "somebody else has decided about this file already")


def to_release(connection: Connection, limit: int = 50) -> list[Released]:
    """Return files that are to have another try."""
    with connection.cursor(row_factory=class_row(Released)) as cursor:
        cursor.execute(
            """
            SELECT i.intake_id, i.source, i.client, i.site, i.blob, i.upload_id
            FROM ledger.quarantine_decision d JOIN ledger.intake i USING (intake_id)
            WHERE d.action = 'release' AND i.superseded_by IS NULL AND i.outcome = 'quarantined' ORDER BY d.at LIMIT %s
            """,
            (limit,),
        )
        return list(cursor.fetchall())


def became(connection: Connection, intake_id: uuid.UUID, successor: uuid.UUID) -> None:
    """Note the delivery that a released file became; it counts once, as that."""
    connection.execute(
        """
        UPDATE ledger.intake SET superseded_by = %s, sequence = nextval('ledger.journal_sequence'), segment = NULL
        WHERE (intake_id = %s AND superseded_by IS NULL) OR superseded_by = %s
        """,
        (successor, intake_id, intake_id),
    )

"""Rows of direct drops: what was announced, what an archive holds, and what became of each file."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import class_row, dict_row
from psycopg.types.json import Jsonb

__all__ = [
    "Announced",
    "Archive",
    "Upload",
    "UploadFile",
    "announce",
    "announced",
    "claim",
    "delivered",
    "finish_archive",
    "open_archive",
    "outcome_of",
    "outcomes_of_members",
    "upload",
]

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class Announced:
    """What ``POST /api/uploads`` said of a blob."""

    upload_id: uuid.UUID
    client: str
    site: str
    fields: dict[str, dict[str, str] | None]


@dataclass(frozen=True)
class Archive:
    """An archive that was opened."""

    delivery_key: str
    members: int
    finished_at: datetime | None
    names: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class UploadFile:
    """One announced file, its archive where it is one, and its deliveries: one, or one per member."""

    name: str
    blob: str
    bytes: int
    archive: Archive | None
    deliveries: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Upload:
    """One direct drop."""

    upload_id: uuid.UUID
    client: str
    expires_at: datetime
    files: Sequence[UploadFile]


def claim(connection: Connection, key: str) -> bool:
    """Take a delivery for the length of the transaction; return whether nobody else has it in work."""
    row = connection.execute("SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))", (key,)).fetchone()
    return bool(row and row[0])


def announce(
    connection: Connection,
    announced: Announced,
    expires_at: datetime,
    files: Sequence[tuple[str, str, int, str]],
) -> None:
    """Write an upload and its files: blob, name, bytes, content type each."""
    connection.execute(
        "INSERT INTO ledger.upload (upload_id, client, site, expires_at, fields) VALUES (%s, %s, %s, %s, %s)",
        (announced.upload_id, announced.client, announced.site, expires_at, Jsonb(announced.fields)),
    )
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO ledger.upload_file (upload_id, blob, name, bytes, content_type) VALUES (%s, %s, %s, %s, %s)",
            [(announced.upload_id, blob, name.replace("\0", ""), size, kind) for blob, name, size, kind in files],
        )


def announced(connection: Connection, blob: str) -> Announced | None:
    """Return what was said of a blob; None where nobody announced it."""
    with connection.cursor(row_factory=class_row(Announced)) as cursor:
        cursor.execute(
            """
            SELECT u.upload_id, u.client, u.site, u.fields
            FROM ledger.upload_file f JOIN ledger.upload u USING (upload_id) WHERE f.blob = %s
            """,
            (blob,),
        )
        return cursor.fetchone()


def outcome_of(connection: Connection, key: str) -> str | None:
    """Return the outcome of a delivery; None where it has none yet."""
    row = connection.execute("SELECT outcome FROM ledger.intake WHERE delivery_key = %s", (key,)).fetchone()
    return row[0] if row else None


def delivered(connection: Connection, keys: Sequence[str]) -> set[str]:
    """Return those of `keys` that need no more work: they have an outcome, or are an archive that is finished."""
    rows = connection.execute(
        """
        SELECT delivery_key FROM ledger.intake WHERE delivery_key = ANY(%(keys)s)
        UNION
        SELECT delivery_key FROM ledger.drop_archive WHERE delivery_key = ANY(%(keys)s) AND finished_at IS NOT NULL
        """,
        {"keys": list(keys)},
    )
    return {row[0] for row in rows}


def open_archive(
    connection: Connection, key: str, blob: str, upload_id: uuid.UUID | None, members: Sequence[tuple[str, int, str]]
) -> None:
    """Write an archive and its members: delivery key, ordinal and name each; a second time changes nothing."""
    connection.execute(
        """
        INSERT INTO ledger.drop_archive (delivery_key, blob, upload_id, members) VALUES (%s, %s, %s, %s)
        ON CONFLICT DO NOTHING
        """,
        (key, blob, upload_id, len(members)),
    )
    with connection.cursor() as cursor:
        cursor.executemany(
            """
            INSERT INTO ledger.drop_member (delivery_key, archive, ordinal, name) VALUES (%s, %s, %s, %s)
            ON CONFLICT DO NOTHING
            """,
            [(member, key, ordinal, name.replace("\0", "")) for member, ordinal, name in members],
        )


def outcomes_of_members(connection: Connection, key: str) -> dict[str, str]:
    """Return the outcomes of an archive's members by delivery key: of those that were taken in already."""
    rows = connection.execute(
        """
        SELECT i.delivery_key, i.outcome FROM ledger.drop_member m JOIN ledger.intake i USING (delivery_key)
        WHERE m.archive = %s
        """,
        (key,),
    )
    return dict(rows.fetchall())


def finish_archive(connection: Connection, key: str) -> None:
    """Note that every member has its delivery."""
    connection.execute(
        "UPDATE ledger.drop_archive SET finished_at = coalesce(finished_at, now()) WHERE delivery_key = %s", (key,)
    )


_DELIVERIES = """
SELECT o.delivery_key, split_part(o.delivery_key, ':', 2) AS blob, d.intake_id, d.state AS outcome,
       coalesce(d.reason, d.hold_reason) AS reason, d.detail, d.study_uid, d.sop_uid
FROM ledger.intake o
JOIN ledger.delivery d ON d.intake_id = coalesce(o.superseded_by, o.intake_id)
WHERE o.upload_id = %s AND o.delivery_key LIKE 'drop:%%'
ORDER BY o.received_at
"""


_ARCHIVES = """
SELECT a.blob, a.delivery_key, a.members, a.finished_at,
       (SELECT coalesce(json_object_agg(m.ordinal, m.name), '{}') FROM ledger.drop_member m
         WHERE m.archive = a.delivery_key)
FROM ledger.drop_archive a WHERE a.upload_id = %s ORDER BY a.opened_at
"""


def upload(connection: Connection, upload_id: uuid.UUID) -> Upload | None:
    """Return a direct drop with each file's deliveries; None where there is none of this id."""
    row = connection.execute(
        "SELECT client, expires_at FROM ledger.upload WHERE upload_id = %s", (upload_id,)
    ).fetchone()
    if row is None:
        return None
    by_blob: dict[str, list[Mapping[str, Any]]] = {}
    with connection.cursor(row_factory=dict_row) as cursor:
        for delivery in cursor.execute(_DELIVERIES, (upload_id,)):
            by_blob.setdefault(delivery["blob"], []).append(delivery)
    archives = {
        blob: Archive(key, members, finished_at, {int(ordinal): name for ordinal, name in names.items()})
        for blob, key, members, finished_at, names in connection.execute(_ARCHIVES, (upload_id,))
    }
    files = connection.execute(
        "SELECT name, blob, bytes FROM ledger.upload_file WHERE upload_id = %s ORDER BY name, blob", (upload_id,)
    ).fetchall()
    found = [UploadFile(name, blob, size, archives.get(blob), by_blob.get(blob, [])) for name, blob, size in files]
    return Upload(upload_id, row[0], row[1], found)

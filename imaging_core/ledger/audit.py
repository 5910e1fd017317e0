"""The audit outbox: an event is queued in its act's transaction and delivered afterwards (A2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

__all__ = ["Queued", "delivered", "queue", "undelivered"]

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class Queued:
    """An AuditEvent that waits; number and time make it one of a kind."""

    id: int
    created_at: datetime
    event: dict[str, Any]


def queue(connection: Connection, event: Mapping[str, Any]) -> None:
    """Queue an AuditEvent within the act's own transaction."""
    connection.execute("INSERT INTO ledger.audit_outbox (event) VALUES (%s)", (Jsonb(dict(event)),))


def undelivered(connection: Connection, limit: int = 100) -> list[Queued]:
    """Lock and return the oldest events that wait; another worker's are passed over."""
    with connection.cursor(row_factory=class_row(Queued)) as cursor:
        cursor.execute(
            """
            SELECT id, created_at, event FROM ledger.audit_outbox
            WHERE delivered_at IS NULL ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED
            """,
            (limit,),
        )
        return list(cursor.fetchall())


def delivered(connection: Connection, ids: Sequence[int]) -> None:
    """Note that FHIR holds these events."""
    connection.execute("UPDATE ledger.audit_outbox SET delivered_at = now() WHERE id = ANY(%s)", (list(ids),))

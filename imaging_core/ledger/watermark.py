"""How far a periodic look has come."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import psycopg

__all__ = ["read", "write"]

Connection = psycopg.Connection[Any]


def read(connection: Connection, name: str) -> datetime | None:
    """Return the time up to which everything was looked at; None: never."""
    row = connection.execute("SELECT at FROM ledger.watermark WHERE name = %s", (name,)).fetchone()
    return row[0] if row else None


def write(connection: Connection, name: str, at: datetime) -> None:
    """Note the time up to which everything was looked at."""
    connection.execute(
        "INSERT INTO ledger.watermark (name, at) VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET at = excluded.at",
        (name, at),
    )

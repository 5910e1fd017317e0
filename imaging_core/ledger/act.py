"""What happens to a study beside deliveries, decisions and analyses, so that its history can be told and replayed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

__all__ = ["Kind", "acts_of", "note_act"]

Kind = Literal["held", "released", "failed", "redriven", "relinked"]
Connection = psycopg.Connection[Any]


def note_act(connection: Connection, kind: Kind, study_uid: str, *, who: str = "imaging", **detail: object) -> None:
    """Write down an act within its own transaction."""
    connection.execute(
        "INSERT INTO ledger.act (kind, study_uid, who, detail) VALUES (%s, %s, %s, %s)",
        (kind, study_uid, who, Jsonb(detail)),
    )


def acts_of(connection: Connection, study_uid: str) -> list[Mapping[str, Any]]:
    """Return a study's acts in their order: at, kind, who, detail."""
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            "SELECT at, kind, who, detail FROM ledger.act WHERE study_uid = %s ORDER BY sequence", (study_uid,)
        )
        return list(cursor.fetchall())

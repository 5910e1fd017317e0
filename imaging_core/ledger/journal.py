"""The journal's side of the ledger: which history is not in the journal yet, and how history comes back from it.

A segment is planned in one transaction and written to blob storage afterwards: whoever is killed in between leaves a
plan that the next one carries out, with the same rows under the same name. Rows are chosen by a mark of their own, not
by a number that has been reached: a transaction that took a low number and commits late is in a later segment, and a
number that was rolled back is missing and nothing else.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

__all__ = ["KINDS", "Segment", "last_shipped_s", "open_segments", "plan", "restore", "rows", "shipped", "waiting"]

Connection = psycopg.Connection[Any]
Row = Mapping[str, Any]

KINDS = ("intake", "upload", "upload_file", "quarantine_decision", "hold_resolution", "analysis", "act")
"""Tables that are history; a line of the journal names its own."""

_PLANNING = 0x6A6F75726E616C  # any number that all who plan share
# what makes a line of the journal the same as a row that is there already
_KEYS = {
    "intake": ("intake_id",),
    "upload": ("upload_id",),
    "upload_file": ("blob",),
    "quarantine_decision": ("intake_id",),
    "hold_resolution": ("study_uid", "at", "who", "action"),
    "analysis": ("study_uid", "task"),
    "act": ("act_id",),
}
# numbers that the database gives anew
_OWN_NUMBERS = {"hold_resolution": ("id",)}


@dataclass(frozen=True)
class Segment:
    """A part of history that goes into one blob."""

    segment: int
    first_sequence: int
    last_sequence: int


def waiting(connection: Connection) -> int:
    """Return how many rows are in no segment yet."""
    counts = sql.SQL(" + ").join(
        sql.SQL("(SELECT count(*) FROM ledger.{} WHERE segment IS NULL)").format(sql.Identifier(kind)) for kind in KINDS
    )
    row = connection.execute(sql.SQL("SELECT {}").format(counts)).fetchone()
    return int(row[0]) if row else 0


def last_shipped_s(connection: Connection) -> float | None:
    """Return the seconds since a segment was shipped; None where none ever was."""
    row = connection.execute(
        "SELECT extract(epoch FROM now() - max(shipped_at))::float8 FROM ledger.journal_segment"
    ).fetchone()
    return row[0] if row else None


def plan(connection: Connection, most: int) -> Segment | None:
    """Assign up to `most` rows of each kind, the oldest first, to a new segment; None where nothing waits.

    Only one plans at a time: another one finds the lock taken and leaves.
    """
    taken = connection.execute("SELECT pg_try_advisory_xact_lock(%s)", (_PLANNING,)).fetchone()
    if not taken or not taken[0]:
        return None
    made = connection.execute(
        "INSERT INTO ledger.journal_segment (first_sequence, last_sequence) VALUES (0, 0) RETURNING segment"
    ).fetchone()
    assert made is not None  # noqa: S101  # RETURNING gives a row
    lowest: list[int] = []
    highest: list[int] = []
    for kind in KINDS:
        row = connection.execute(
            sql.SQL(
                """
                WITH chosen AS (
                    UPDATE ledger.{table} SET segment = %s WHERE ctid = ANY(ARRAY(
                        SELECT ctid FROM ledger.{table} WHERE segment IS NULL ORDER BY sequence LIMIT %s
                        FOR UPDATE SKIP LOCKED))
                    RETURNING sequence)
                SELECT min(sequence), max(sequence) FROM chosen
                """
            ).format(table=sql.Identifier(kind)),
            (made[0], most),
        ).fetchone()
        if row and row[0] is not None:
            lowest.append(row[0])
            highest.append(row[1])
    if not lowest:
        connection.rollback()
        return None
    segment = Segment(made[0], min(lowest), max(highest))
    connection.execute(
        "UPDATE ledger.journal_segment SET first_sequence = %s, last_sequence = %s WHERE segment = %s",
        (segment.first_sequence, segment.last_sequence, segment.segment),
    )
    return segment


def open_segments(connection: Connection) -> list[Segment]:
    """Return and lock the segments that are planned and not shipped; another worker's are passed over."""
    found = connection.execute(
        """
        SELECT segment, first_sequence, last_sequence FROM ledger.journal_segment
        WHERE shipped_at IS NULL ORDER BY segment LIMIT 1 FOR UPDATE SKIP LOCKED
        """
    ).fetchall()
    return [Segment(*row) for row in found]


def rows(connection: Connection, segment: Segment) -> list[tuple[str, dict[str, Any]]]:
    """Return kind and row of a segment's history, in its order.

    A row that was changed since it was planned is no longer part of it: the change is in a later segment.
    """
    one = sql.SQL(
        "SELECT sequence, {kind} AS kind, to_jsonb(t) - 'segment' AS row FROM ledger.{table} t"
        " WHERE segment = %(segment)s"
    )
    union = sql.SQL(" UNION ALL ").join(
        one.format(kind=sql.Literal(kind), table=sql.Identifier(kind)) for kind in KINDS
    )
    found = connection.execute(
        sql.SQL("SELECT kind, row FROM ({}) history ORDER BY sequence").format(union), {"segment": segment.segment}
    ).fetchall()
    return [(kind, row) for kind, row in found]


def shipped(connection: Connection, segment: Segment, blob: str | None, number: int) -> None:
    """Note where a segment lies; None: nothing of it was left to ship."""
    connection.execute(
        "UPDATE ledger.journal_segment SET blob = %s, rows = %s, shipped_at = now() WHERE segment = %s",
        (blob, number, segment.segment),
    )


def restore(connection: Connection, history: Iterable[tuple[str, Row]], segment: int) -> int:
    """Write rows of the journal into the ledger's tables; return how many were new or newer than what was there.

    Written twice they are there once. Of two states of one row the one with the higher number stands. A row of an older
    version may lack columns, which take their defaults; of a newer one, columns that are not there are left out.
    """
    by_shape: dict[tuple[str, tuple[str, ...]], list[Row]] = defaultdict(list)
    for kind, row in history:
        own = _OWN_NUMBERS.get(kind, ())
        by_shape[kind, tuple(sorted(name for name in row if name not in own))].append(row)
    written = 0
    for (kind, names), group in by_shape.items():
        columns = [name for name in names if name in _columns(connection, kind)]
        written += _write(connection, kind, columns, group, segment)
    return written


def _write(connection: Connection, kind: str, columns: Sequence[str], group: Sequence[Row], segment: int) -> int:
    table, keys = sql.Identifier(kind), _KEYS[kind]
    listed = sql.SQL(", ").join(map(sql.Identifier, columns))
    same = sql.SQL(" AND ").join(sql.SQL("t.{0} = j.{0}").format(sql.Identifier(key)) for key in keys)
    values = {"rows": json.dumps(group), "segment": segment}
    changed = sql.SQL(", ").join(sql.SQL("{0} = j.{0}").format(sql.Identifier(name)) for name in columns)
    newest = sql.SQL(
        "(SELECT DISTINCT ON ({keys}) {listed} FROM jsonb_populate_recordset(NULL::ledger.{table}, %(rows)s::jsonb)"
        " ORDER BY {keys}, sequence DESC)"
    ).format(keys=sql.SQL(", ").join(map(sql.Identifier, keys)), listed=listed, table=table)
    updated = connection.execute(
        sql.SQL(
            "UPDATE ledger.{table} t SET {changed}, segment = %(segment)s FROM {newest} j"
            " WHERE {same} AND t.sequence < j.sequence"
        ).format(table=table, changed=changed, newest=newest, same=same),
        values,
    ).rowcount
    inserted = connection.execute(
        sql.SQL(
            "INSERT INTO ledger.{table} ({listed}, segment) SELECT {listed}, %(segment)s FROM {newest} j"
            " WHERE NOT EXISTS (SELECT 1 FROM ledger.{table} t WHERE {same}) ORDER BY sequence ON CONFLICT DO NOTHING"
        ).format(table=table, listed=listed, newest=newest, same=same),
        values,
    ).rowcount
    return updated + inserted


def _columns(connection: Connection, kind: str) -> frozenset[str]:
    found = connection.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = 'ledger' AND table_name = %s", (kind,)
    ).fetchall()
    return frozenset(name for (name,) in found) - {"segment"}

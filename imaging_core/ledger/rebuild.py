"""The ledger's side of `imaging rebuild`: empty it, close it to everybody else, fill it from what is left, open it.

These functions need the owner's rights: no worker may delete history. Between `close` and `reopen` a worker's
statements fail, which intake answers with 503, so that nothing comes in beside the rebuild; that outlives a killed
rebuild, which the next call goes on with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from imaging_core.errors import Permanent

__all__ = [
    "Progress",
    "close",
    "continue_numbers",
    "empty",
    "fhir_says",
    "move_to",
    "origins",
    "reopen",
    "require_owner",
    "restore_states",
    "segment_of",
    "stub_studies",
    "studies_after",
    "under_way",
]

Connection = psycopg.Connection[Any]

_TABLES = (
    "study",
    "instance",
    "intake",
    "hold_resolution",
    "quarantine_decision",
    "analysis",
    "upload",
    "upload_file",
    "act",
    "journal_segment",
    "watermark",
)


@dataclass(frozen=True)
class Progress:
    """Where a rebuild is: its phase, and how far within it."""

    rebuild_id: int
    phase: str
    position: str


def require_owner(connection: Connection) -> None:
    """Stop unless the connection may empty the ledger.

    Raises
    ------
    Permanent
        ``bad-setting``, also where there is no ledger to fill.
    """
    row = connection.execute(
        """
        SELECT pg_has_role(current_user, c.relowner, 'USAGE')
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'ledger' AND c.relname = 'rebuild'
        """
    ).fetchone()
    if row is None:
        raise Permanent("bad-setting", "there is no ledger of this version: run `imaging migrate` first")
    if not row[0]:
        raise Permanent("bad-setting", "DATABASE_OWNER_URL must be that of imaging_owner: only it may empty the ledger")


def under_way(connection: Connection) -> Progress | None:
    """Return the rebuild that has begun and not ended."""
    row = connection.execute(
        """
        SELECT rebuild_id, phase, position FROM ledger.rebuild
        WHERE finished_at IS NULL ORDER BY rebuild_id DESC LIMIT 1
        """
    ).fetchone()
    return Progress(*row) if row else None


def close(connection: Connection) -> None:
    """Shut the ledger to workers, and note that a rebuild has begun."""
    connection.execute("REVOKE USAGE ON SCHEMA ledger FROM imaging_worker")
    connection.execute("INSERT INTO ledger.rebuild (phase) VALUES ('ship')")


def empty(connection: Connection) -> None:
    """Delete everything that can be had again; audit that waits can't, and stays."""
    tables = sql.SQL(", ").join(sql.Identifier("ledger", name) for name in _TABLES)
    connection.execute(sql.SQL("TRUNCATE {}").format(tables))
    # notes of what signatures left stay, too: nothing else tells of an SR that nobody has made yet
    connection.execute("UPDATE ledger.signed_object SET taken_at = NULL, fault = '' WHERE taken_at IS NOT NULL")


def segment_of(connection: Connection, blob: str, first_sequence: int, last_sequence: int, rows: int) -> int:
    """Return the segment of a blob of the journal; made at the first look, `rows` are counted on."""
    known = (
        connection.execute(
            "UPDATE ledger.journal_segment SET rows = rows + %s WHERE blob = %s RETURNING segment", (rows, blob)
        ).fetchone()
        or connection.execute(
            """
        INSERT INTO ledger.journal_segment (first_sequence, last_sequence, blob, rows, shipped_at)
        VALUES (%s, %s, %s, %s, now()) RETURNING segment
        """,
            (first_sequence, last_sequence, blob, rows),
        ).fetchone()
    )
    assert known is not None  # noqa: S101  # RETURNING gives a row
    return int(known[0])


def stub_studies(connection: Connection, studies: Sequence[str]) -> None:
    """Make studies whose images are gone, so that what was decided about them is not lost too."""
    connection.execute(
        """
        INSERT INTO ledger.study (study_uid, site)
        SELECT u, coalesce((SELECT min(site) FROM ledger.intake i WHERE i.study_uid = u), '') FROM unnest(%s::text[]) u
        ON CONFLICT DO NOTHING
        """,
        (list(studies),),
    )


def move_to(connection: Connection, phase: str, position: str = "") -> None:
    """Note how far the rebuild has come."""
    connection.execute(
        "UPDATE ledger.rebuild SET phase = %s, position = %s WHERE finished_at IS NULL", (phase, position)
    )


def continue_numbers(connection: Connection) -> None:
    """Let numbers go on where history ends: what comes now is later than what was."""
    connection.execute(
        """
        SELECT setval('ledger.journal_sequence', greatest(nextval('ledger.journal_sequence'), (
            SELECT max(highest) + 1 FROM (
                SELECT max(sequence) AS highest FROM ledger.intake
                UNION ALL SELECT max(last_sequence) FROM ledger.journal_segment) numbers)))
        """
    )


def reopen(connection: Connection) -> None:
    """Open the ledger, and note that the rebuild is done."""
    connection.execute("UPDATE ledger.rebuild SET finished_at = now(), phase = 'done' WHERE finished_at IS NULL")
    connection.execute("GRANT USAGE ON SCHEMA ledger TO imaging_worker")


def origins(connection: Connection, sop_uids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Return the accepted delivery of each of these UIDs: client, site, received_at."""
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            """
            SELECT DISTINCT ON (sop_uid) sop_uid, client, site, received_at FROM ledger.intake
            WHERE outcome = 'accepted' AND sop_uid = ANY(%s) ORDER BY sop_uid, sequence
            """,
            (list(sop_uids),),
        )
        return {row["sop_uid"]: row for row in cursor.fetchall()}


def restore_states(connection: Connection) -> None:
    """Bring studies into the state that their history ends with: held, rejected, failed; drop what was superseded."""
    connection.execute(
        """
        UPDATE ledger.study s SET hold_reason = a.detail ->> 'reason', hold_detail = a.detail ->> 'detail',
               hold_revision = (a.detail ->> 'revision')::integer, held_at = a.at
        FROM (SELECT DISTINCT ON (study_uid) study_uid, kind, at, detail FROM ledger.act
              WHERE kind IN ('held', 'released') ORDER BY study_uid, sequence DESC) a
        WHERE a.study_uid = s.study_uid AND a.kind = 'held'
        """
    )
    connection.execute(
        """
        UPDATE ledger.study s SET hold_revision = a.revision
        FROM (SELECT study_uid, max((detail ->> 'revision')::integer) AS revision FROM ledger.act
              WHERE kind = 'held' GROUP BY study_uid) a
        WHERE a.study_uid = s.study_uid AND s.hold_revision < a.revision
        """
    )
    connection.execute(
        """
        UPDATE ledger.study s SET rejected_at = r.at
        FROM (SELECT DISTINCT ON (study_uid) study_uid, action, at FROM ledger.hold_resolution
              ORDER BY study_uid, sequence DESC) r
        WHERE r.study_uid = s.study_uid AND r.action = 'reject' AND s.hold_reason IS NOT NULL
        """
    )
    connection.execute(
        """
        UPDATE ledger.study s SET failed_at = a.at, last_error = a.detail ->> 'error'
        FROM (SELECT DISTINCT ON (study_uid) study_uid, kind, at, detail FROM ledger.act
              WHERE kind IN ('failed', 'redriven') ORDER BY study_uid, sequence DESC) a
        WHERE a.study_uid = s.study_uid AND a.kind = 'failed'
        """
    )
    # "no model" gave way when a later look found one
    connection.execute(
        """
        DELETE FROM ledger.analysis a WHERE state = 'no_model' AND EXISTS (
            SELECT 1 FROM ledger.analysis b WHERE b.study_uid = a.study_uid AND b.sequence > a.sequence)
        """
    )


def studies_after(connection: Connection, position: str, limit: int) -> list[tuple[str, list[str]]]:
    """Return the next studies in the order of their UIDs, each with the reports of its analyses."""
    found = connection.execute(
        """
        SELECT s.study_uid, coalesce(array_agg(a.report) FILTER (WHERE a.report <> ''), '{}')
        FROM ledger.study s LEFT JOIN ledger.analysis a USING (study_uid)
        WHERE s.study_uid > %s GROUP BY s.study_uid ORDER BY s.study_uid LIMIT %s
        """,
        (position, limit),
    ).fetchall()
    return [(uid, list(reports)) for uid, reports in found]


def fhir_says(
    connection: Connection,
    study_uid: str,
    *,
    subject: str,
    sop_uids: Sequence[str],
    registered_at: datetime | None,
    missing_reports: Sequence[str],
) -> None:
    """Note what the ImagingStudy covers, and which analyses have a report to show for it.

    A study whose ImagingStudy covers every instance is on no hold list, whatever the journal's last line says: the step
    that registered it was too late for it. An analysis whose report is gone from the FHIR service is due again.
    """
    connection.execute(
        "UPDATE ledger.instance SET registered = true WHERE study_uid = %s AND sop_uid = ANY(%s)",
        (study_uid, list(sop_uids)),
    )
    connection.execute(
        "DELETE FROM ledger.analysis WHERE study_uid = %s AND report = ANY(%s)", (study_uid, list(missing_reports))
    )
    connection.execute(
        """
        UPDATE ledger.study s
        SET subject = %(subject)s, registered_at = coalesce(%(registered_at)s, now()), version = n.covered,
            -- after a merge, reports that have not followed yet are due
            analysed_version = CASE WHEN m.moved THEN greatest(n.covered - 1, 0) ELSE least(n.covered, m.analysed) END,
            analysed_at = (SELECT max(finished_at) FROM ledger.analysis a WHERE a.study_uid = s.study_uid),
            hold_reason = CASE WHEN n.complete AND s.rejected_at IS NULL THEN NULL ELSE hold_reason END,
            hold_detail = CASE WHEN n.complete AND s.rejected_at IS NULL THEN NULL ELSE hold_detail END,
            held_at = CASE WHEN n.complete AND s.rejected_at IS NULL THEN NULL ELSE held_at END
        FROM (SELECT count(*) FILTER (WHERE registered AND NOT own) AS covered, bool_and(registered) AS complete
              FROM ledger.instance WHERE study_uid = %(uid)s) n,
             (SELECT coalesce(max(version), 0) AS analysed, max(sequence) < (
                         SELECT max(sequence) FROM ledger.act WHERE study_uid = %(uid)s AND kind = 'relinked') AS moved
              FROM ledger.analysis WHERE study_uid = %(uid)s) m
        WHERE s.study_uid = %(uid)s
        """,
        {"uid": study_uid, "subject": subject, "registered_at": registered_at},
    )

"""Steps of a study, level-triggered: a step compares what is wanted with what is done and closes the difference.

Per study one worker at a time: `claim` takes the row's lock or finds it taken and leaves (``SKIP LOCKED``); the holder
looks again after it has committed, so that what came in meanwhile is not left lying.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import class_row, dict_row

__all__ = [
    "StudyRow",
    "claim",
    "hold",
    "instances",
    "mark_analysed",
    "mark_failed",
    "mark_registered",
    "postpone",
    "redrive",
    "unfinished",
    "unregistered_count",
]

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class StudyRow:
    """The ledger's view of one study."""

    study_uid: str
    site: str
    version: int
    analysed_version: int
    subject: str | None
    hold_reason: str | None
    tries: int
    failed: bool
    rejected: bool
    traceparent: str


def claim(connection: Connection, study_uid: str) -> StudyRow | None:
    """Lock the study until the transaction ends; None where it is unknown or another worker has it.

    ``NO KEY UPDATE`` lets instances of the same study be added meanwhile (their foreign key takes ``KEY SHARE``).
    """
    with connection.cursor(row_factory=class_row(StudyRow)) as cursor:
        cursor.execute(
            """
            SELECT study_uid, site, version, analysed_version, subject, hold_reason, tries,
                   failed_at IS NOT NULL AS failed, rejected_at IS NOT NULL AS rejected, traceparent
            FROM ledger.study WHERE study_uid = %s FOR NO KEY UPDATE SKIP LOCKED
            """,
            (study_uid,),
        )
        return cursor.fetchone()


def instances(connection: Connection, study_uid: str) -> list[Mapping[str, Any]]:
    """Return a study's instances by UID: sop_uid, series_uid, blob, dataset_sha256, header, own, client, registered."""
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            """
            SELECT sop_uid, series_uid, blob, dataset_sha256, header, own, client, registered
            FROM ledger.instance WHERE study_uid = %s ORDER BY sop_uid
            """,
            (study_uid,),
        )
        return list(cursor.fetchall())


def unregistered_count(connection: Connection, study_uid: str) -> int:
    """Return how many instances the ImagingStudy does not cover yet."""
    row = connection.execute(
        "SELECT count(*) FROM ledger.instance WHERE study_uid = %s AND NOT registered", (study_uid,)
    ).fetchone()
    return int(row[0]) if row else 0


def mark_registered(connection: Connection, study_uid: str, sop_uids: Sequence[str], subject: str) -> int:
    """Note that FHIR covers these instances; return the study's version, the number of instances covered."""
    connection.execute(
        "UPDATE ledger.instance SET registered = true WHERE study_uid = %s AND NOT registered AND sop_uid = ANY(%s)",
        (study_uid, list(sop_uids)),
    )
    row = connection.execute(
        """
        UPDATE ledger.study SET version = %s, subject = %s, registered_at = now(), hold_reason = NULL, hold_detail =
        NULL,
               held_at = NULL, tries = 0, next_try_at = NULL, last_error = NULL
        WHERE study_uid = %s RETURNING version
        """,
        (len(sop_uids), subject, study_uid),
    ).fetchone()
    return int(row[0]) if row else 0


def hold(connection: Connection, study_uid: str, reason: str, detail: str) -> None:
    """Put the study on the hold list; its images stay stored, nothing is linked."""
    connection.execute(
        """
        UPDATE ledger.study SET hold_reason = %s, hold_detail = %s, held_at = coalesce(held_at, now()), tries = 0,
               next_try_at = NULL, last_error = NULL
        WHERE study_uid = %s
        """,
        (reason, detail, study_uid),
    )


def mark_analysed(connection: Connection, study_uid: str, version: int, analyses: Sequence[Mapping[str, Any]]) -> None:
    """Write one row per task and note the version that the analyses cover.

    Parameters
    ----------
    analyses : sequence of mapping
        Keys task, state, model, report, reason, answer.
    """
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM ledger.analysis WHERE study_uid = %s AND state = 'no_model'", (study_uid,))
        cursor.executemany(
            """
            INSERT INTO ledger.analysis (study_uid, task, version, state, model, report, reason, answer)
            VALUES (%(study_uid)s, %(task)s, %(version)s, %(state)s, %(model)s, %(report)s, %(reason)s, %(answer)s)
            ON CONFLICT (study_uid, task) DO UPDATE SET version = excluded.version, state = excluded.state,
                model = excluded.model, report = excluded.report, reason = excluded.reason, answer = excluded.answer,
                finished_at = now()
            """,
            [
                {**row, "study_uid": study_uid, "version": version, "answer": json.dumps(row["answer"])}
                for row in analyses
            ],
        )
        cursor.execute(
            """
            UPDATE ledger.study SET analysed_version = %s, tries = 0, next_try_at = NULL, last_error = NULL
            WHERE study_uid = %s
            """,
            (version, study_uid),
        )


def postpone(connection: Connection, study_uid: str, seconds: float, error: str) -> None:
    """Note a retryable failure; the step is due again after `seconds`."""
    connection.execute(
        """
        UPDATE ledger.study SET tries = tries + 1, last_error = %s, next_try_at = now() + make_interval(secs => %s)
        WHERE study_uid = %s
        """,
        (error, seconds, study_uid),
    )


def mark_failed(connection: Connection, study_uid: str, error: str) -> None:
    """Note that the study needs a person; `redrive` sends it back."""
    connection.execute(
        "UPDATE ledger.study SET failed_at = now(), last_error = %s WHERE study_uid = %s", (error, study_uid)
    )


def redrive(connection: Connection, study_uid: str | None = None) -> list[str]:
    """Clear the failure of one study, or of all; return their UIDs, whose steps are due again."""
    return [
        row[0]
        for row in connection.execute(
            """
            UPDATE ledger.study SET failed_at = NULL, tries = 0, next_try_at = NULL
            WHERE failed_at IS NOT NULL AND (%(uid)s::text IS NULL OR study_uid = %(uid)s) RETURNING study_uid
            """,
            {"uid": study_uid},
        ).fetchall()
    ]


def unfinished(connection: Connection, older_than_s: float, limit: int = 500) -> tuple[list[str], list[str]]:
    """Return studies whose hint may have been lost: those to register, and those to analyse.

    Parameters
    ----------
    older_than_s : float
        Seconds that work may lie before the sweep looks after it.
    """
    to_register = connection.execute(
        """
        SELECT DISTINCT i.study_uid FROM ledger.instance i JOIN ledger.study s USING (study_uid) WHERE NOT
        i.registered AND s.rejected_at IS NULL AND i.received_at < now() - make_interval(secs => %s) AND s.hold_reason
        IS NULL
          AND s.failed_at IS NULL AND coalesce(s.next_try_at, '-infinity') <= now()
        LIMIT %s
        """,
        (older_than_s, limit),
    ).fetchall()
    to_analyse = connection.execute(
        """
        SELECT study_uid FROM ledger.study
        WHERE analysed_version < version AND hold_reason IS NULL AND failed_at IS NULL
          AND coalesce(next_try_at, registered_at + make_interval(secs => %s)) <= now()
        ORDER BY next_try_at NULLS FIRST LIMIT %s
        """,
        (older_than_s, limit),
    ).fetchall()
    return [row[0] for row in to_register], [row[0] for row in to_analyse]

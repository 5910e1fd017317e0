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

from imaging_core.ledger.act import note_act

__all__ = [
    "MADE_HERE",
    "Arrivals",
    "StudyRow",
    "arrivals",
    "claim",
    "coerced",
    "expect_hint",
    "held_again",
    "hold",
    "instances",
    "mark_analysed",
    "mark_failed",
    "mark_registered",
    "postpone",
    "redrive",
    "relinked",
    "studies_of",
    "subjects_after",
    "unfinished",
    "unregistered_count",
]

Connection = psycopg.Connection[Any]
MADE_HERE = "imaging"
"""Client of the instances that the system itself adds to a study (R8): they have no delivery."""


@dataclass(frozen=True)
class StudyRow:
    """The ledger's view of one study.

    Parameters
    ----------
    burst : int
        Registrations since instances began to come in without a pause.
    register_in, hinted_in : float
        Seconds until the next registration may be while instances keep coming, and until a delayed hint is due; not
        above 0 where there is nothing to wait for.
    analysed_ago : float or None
        Seconds since the last analysis.
    """

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
    burst: int = 0
    register_in: float = 0.0
    hinted_in: float = 0.0
    analysed_ago: float | None = None


@dataclass(frozen=True)
class Arrivals:
    """How a study grows.

    Parameters
    ----------
    unregistered : int
        Instances of others that the ImagingStudy does not cover yet.
    own : int
        Instances made here that it does not cover yet.
    quiet_s : float
        Seconds since the last one of others came in.
    """

    unregistered: int
    own: int
    quiet_s: float


def claim(connection: Connection, study_uid: str) -> StudyRow | None:
    """Lock the study until the transaction ends; None where it is unknown or another worker has it.

    ``NO KEY UPDATE`` lets instances of the same study be added meanwhile (their foreign key takes ``KEY SHARE``).
    """
    with connection.cursor(row_factory=class_row(StudyRow)) as cursor:
        cursor.execute(
            """
            SELECT study_uid, site, version, analysed_version, subject, hold_reason, tries,
                   failed_at IS NOT NULL AS failed, rejected_at IS NOT NULL AS rejected, traceparent,
                   -- a burst that ended half a minute ago is over: the next instance finds a quiet study
                   CASE WHEN register_after > now() - interval '30 s' THEN burst ELSE 0 END AS burst,
                   coalesce(extract(epoch FROM register_after - now()), 0)::float8 AS register_in,
                   coalesce(extract(epoch FROM hinted_until - now()), 0)::float8 AS hinted_in,
                   extract(epoch FROM now() - analysed_at)::float8 AS analysed_ago
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


def arrivals(connection: Connection, study_uid: str) -> Arrivals:
    """Return how a study grows."""
    row = connection.execute(
        """
        SELECT count(*) FILTER (WHERE NOT registered AND NOT own), count(*) FILTER (WHERE NOT registered AND own),
               coalesce(extract(epoch FROM now() - max(received_at) FILTER (WHERE NOT own)), 1e9)::float8
        FROM ledger.instance WHERE study_uid = %s
        """,
        (study_uid,),
    ).fetchone()
    return Arrivals(*row) if row else Arrivals(0, 0, 1e9)


def expect_hint(connection: Connection, study_uid: str, seconds: float) -> None:
    """Note that a delayed hint is under way, so that nobody sends a second one."""
    connection.execute(
        "UPDATE ledger.study SET hinted_until = now() + make_interval(secs => %s) WHERE study_uid = %s",
        (seconds, study_uid),
    )


def coerced(connection: Connection, study_uid: str) -> bool:
    """Return whether a person linked the study to a Patient other than its headers name: what is served is coerced."""
    row = connection.execute(
        "SELECT action = 'link' FROM ledger.hold_resolution WHERE study_uid = %s ORDER BY sequence DESC LIMIT 1",
        (study_uid,),
    ).fetchone()
    return bool(row and row[0])


def mark_registered(
    connection: Connection,
    study_uid: str,
    sop_uids: Sequence[str],
    subject: str,
    *,
    burst: int = 0,
    next_s: float = 0.0,
) -> int:
    """Note that FHIR covers these instances; return the study's version, the number of instances of others covered.

    What was made here is covered too, and counts for nothing: it is no new input (R8).

    Parameters
    ----------
    burst, next_s : int, float
        The registration's number while instances keep coming, and in how many seconds the next one may be.
    """
    connection.execute(
        "UPDATE ledger.instance SET registered = true WHERE study_uid = %s AND NOT registered AND sop_uid = ANY(%s)",
        (study_uid, list(sop_uids)),
    )
    row = connection.execute(
        """
        WITH before AS (SELECT hold_reason FROM ledger.study WHERE study_uid = %(uid)s)
        UPDATE ledger.study s
        SET version = (SELECT count(*) FROM ledger.instance WHERE study_uid = %(uid)s AND registered AND NOT own),
            subject = %(subject)s, registered_at = now(), hold_reason = NULL, hold_detail = NULL, held_at = NULL,
            tries = 0, next_try_at = NULL, last_error = NULL, burst = %(burst)s,
            register_after = now() + make_interval(secs => %(next_s)s), hinted_until = NULL
        FROM before WHERE s.study_uid = %(uid)s RETURNING s.version, before.hold_reason
        """,
        {"uid": study_uid, "subject": subject, "burst": burst, "next_s": next_s},
    ).fetchone()
    if row and row[1] is not None:
        note_act(connection, "released", study_uid, reason=row[1], subject=subject)
    return int(row[0]) if row else 0


def hold(connection: Connection, study_uid: str, reason: str, detail: str) -> None:
    """Put the study on the hold list; its images stay stored, nothing is linked.

    A hold that is there already stays the one that it was, unless its reason changed or a person has decided since:
    then it needs a decision of its own.
    """
    changed = connection.execute(
        """
        UPDATE ledger.study s
        SET hold_reason = %(reason)s, hold_detail = %(detail)s, held_at = coalesce(held_at, now()), tries = 0,
            next_try_at = NULL, last_error = NULL, hinted_until = NULL, hold_revision = hold_revision + 1
        WHERE study_uid = %(uid)s AND (hold_reason IS DISTINCT FROM %(reason)s OR hold_revision = 0 OR EXISTS (
            SELECT 1 FROM ledger.hold_resolution r
            WHERE r.study_uid = s.study_uid AND r.hold_revision = s.hold_revision))
        RETURNING hold_revision
        """,
        {"uid": study_uid, "reason": reason, "detail": detail},
    ).fetchone()
    if changed:
        note_act(connection, "held", study_uid, reason=reason, detail=detail, revision=changed[0])


def held_again(connection: Connection, limit: int = 20) -> list[str]:
    """Return held studies that are worth another look, for their patient may be on file by now, and note the look.

    The longer a study has been held, the rarer: after ten minutes, then each time a tenth of its age has passed.
    """
    return [
        row[0]
        for row in connection.execute(
            """
            UPDATE ledger.study s
            SET hinted_until = now() + greatest(interval '10 min', (now() - coalesce(held_at, now())) / 10)
            FROM (SELECT study_uid FROM ledger.study
                  WHERE hold_reason IS NOT NULL AND rejected_at IS NULL AND failed_at IS NULL
                    AND coalesce(hinted_until, held_at + interval '10 min') < now()
                  ORDER BY hinted_until NULLS FIRST LIMIT %s FOR UPDATE SKIP LOCKED) due
            WHERE s.study_uid = due.study_uid RETURNING s.study_uid
            """,
            (limit,),
        ).fetchall()
    ]


def studies_of(connection: Connection, subject: str, limit: int = 50) -> list[str]:
    """Return registered studies of a Patient, oldest first."""
    return [
        row[0]
        for row in connection.execute(
            """
            SELECT study_uid FROM ledger.study
            WHERE subject = %s AND registered_at IS NOT NULL AND rejected_at IS NULL ORDER BY created_at LIMIT %s
            """,
            (subject, limit),
        ).fetchall()
    ]


def subjects_after(connection: Connection, position: str, limit: int) -> list[str]:
    """Return the next Patients that have registered studies, in the order of their references."""
    return [
        row[0]
        for row in connection.execute(
            """
            SELECT DISTINCT subject FROM ledger.study
            WHERE subject > %s AND registered_at IS NOT NULL ORDER BY subject LIMIT %s
            """,
            (position, limit),
        ).fetchall()
    ]


def relinked(connection: Connection, study_uid: str, before: str | None, subject: str) -> None:
    """Note that a merge moved the study to the surviving Patient; its reports are due to follow (P6)."""
    connection.execute(
        """
        UPDATE ledger.study SET subject = %s, analysed_version = least(analysed_version, version - 1)
        WHERE study_uid = %s AND version > 0
        """,
        (subject, study_uid),
    )
    note_act(connection, "relinked", study_uid, before=before, subject=subject)


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
                finished_at = now(), sequence = excluded.sequence, segment = NULL
            """,
            [
                {**row, "study_uid": study_uid, "version": version, "answer": json.dumps(row["answer"])}
                for row in analyses
            ],
        )
        cursor.execute(
            """
            UPDATE ledger.study SET analysed_version = %s, analysed_at = now(), tries = 0, next_try_at = NULL,
                   last_error = NULL
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
    changed = connection.execute(
        "UPDATE ledger.study SET failed_at = now(), last_error = %s WHERE study_uid = %s", (error, study_uid)
    ).rowcount
    if changed:
        note_act(connection, "failed", study_uid, error=error)


def redrive(connection: Connection, study_uid: str | None = None, *, who: str = "imaging") -> list[str]:
    """Clear the failure of one study, or of all; return their UIDs, whose steps are due again."""
    studies = [
        row[0]
        for row in connection.execute(
            """
            UPDATE ledger.study SET failed_at = NULL, tries = 0, next_try_at = NULL
            WHERE failed_at IS NOT NULL AND (%(uid)s::text IS NULL OR study_uid = %(uid)s) RETURNING study_uid
            """,
            {"uid": study_uid},
        ).fetchall()
    ]
    for uid in studies:
        note_act(connection, "redriven", uid, who=who)
    return studies


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

"""The hold list: studies that wait for a person, and what was decided about them (P4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import psycopg
from psycopg.rows import class_row, dict_row

from imaging_core.errors import Permanent

__all__ = ["Action", "Resolution", "held", "held_study", "latest", "resolve"]

Action = Literal["link", "create", "reject"]
Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class Resolution:
    """One decision.

    Parameters
    ----------
    action : {'link', 'create', 'reject'}
        Link to `subject`, make a Patient from the header, or never link.
    subject : str or None
        ``Patient/<id>``, for ``link``.
    who : str
        The person.
    """

    action: Action
    subject: str | None
    reason: str
    who: str
    at: datetime


def held(connection: Connection) -> list[Mapping[str, Any]]:
    """Return study_uid, site, hold_reason, held_at, revision and images of each held study, the oldest first."""
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            """
            SELECT s.study_uid, s.site, s.hold_reason, s.held_at, s.hold_revision AS revision,
                   count(i.sop_uid) AS images
            FROM ledger.study s LEFT JOIN ledger.instance i USING (study_uid)
            WHERE s.hold_reason IS NOT NULL AND s.rejected_at IS NULL
            GROUP BY s.study_uid ORDER BY s.held_at
            """
        )
        return list(cursor.fetchall())


def held_study(connection: Connection, study_uid: str) -> tuple[Mapping[str, Any], list[dict[str, Any]]]:
    """Return the row of one held study and its instances' headers.

    Raises
    ------
    Permanent
        ``not-found`` where it is not held.
    """
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            """
            SELECT study_uid, site, hold_reason, hold_detail, held_at, hold_revision AS revision FROM ledger.study
            WHERE study_uid = %s AND hold_reason IS NOT NULL AND rejected_at IS NULL
            """,
            (study_uid,),
        )
        row = cursor.fetchone()
        if row is None:
            raise Permanent("not-found", "this study is not on the hold list")
        cursor.execute("SELECT header FROM ledger.instance WHERE study_uid = %s ORDER BY sop_uid", (study_uid,))
        return row, [item["header"] for item in cursor.fetchall()]


def latest(connection: Connection, study_uid: str) -> Resolution | None:
    """Return the decision that counts."""
    with connection.cursor(row_factory=class_row(Resolution)) as cursor:
        cursor.execute(
            """
            SELECT action, subject, reason, who, at FROM ledger.hold_resolution
            WHERE study_uid = %s ORDER BY sequence DESC LIMIT 1
            """,
            (study_uid,),
        )
        return cursor.fetchone()


def resolve(
    connection: Connection,
    study_uid: str,
    action: Action,
    *,
    who: str,
    subject: str | None = None,
    reason: str = "",
    revision: int | None = None,
) -> None:
    """Record a decision; the register step carries it out.

    Of two persons who decide at once one does, and the other is told.

    Parameters
    ----------
    revision : int or None
        The hold that the person saw; None: the one that is there.

    Raises
    ------
    Permanent
        ``not-found`` where the study is not held; ``precondition-failed`` where somebody has decided already, or the
        hold is another one by now; ``bad-field`` where `subject` does not fit the action, or nobody is named.
    """
    if (action == "link") != (subject is not None):
        raise Permanent("bad-field", "link needs a Patient, and only link does")
    if not who:
        raise Permanent("bad-field", "a decision needs the name of who took it")
    # waits for a register step that has the study, and then sees what became of it
    row = connection.execute(
        """
        SELECT hold_revision FROM ledger.study
        WHERE study_uid = %s AND hold_reason IS NOT NULL AND rejected_at IS NULL FOR NO KEY UPDATE
        """,
        (study_uid,),
    ).fetchone()
    if row is None:
        raise Permanent("not-found", "this study is not on the hold list")
    if revision is not None and revision != row[0]:
        raise Permanent("precondition-failed", "the hold has changed since it was looked at")
    recorded = connection.execute(
        """
        INSERT INTO ledger.hold_resolution (study_uid, action, subject, reason, who, hold_revision)
        VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
        """,
        (study_uid, action, subject, reason, who, row[0]),
    ).rowcount
    if not recorded:
        raise Permanent("precondition-failed", "somebody else has decided about this hold already")
    if action == "reject":
        connection.execute("UPDATE ledger.study SET rejected_at = now() WHERE study_uid = %s", (study_uid,))

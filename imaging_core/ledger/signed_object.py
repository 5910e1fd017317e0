"""DICOM SRs of signed reports that are to join their study: noted with the signature, taken in by the sweep (R8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import class_row

__all__ = ["SignedObject", "Waiting", "note", "settle", "waiting"]

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class SignedObject:
    """An SR that a signature leaves, or will have left.

    Parameters
    ----------
    study_uid : str
        The study that it joins.
    blob : str
        Name in container ``results``.
    copy : str
        The signed copy, in container ``signoffs``, of which it can be made; '' where it is there already.
    version_id : str
        The report's version that the signature made.
    """

    study_uid: str
    blob: str
    copy: str = ""
    version_id: str = ""


@dataclass(frozen=True)
class Waiting(SignedObject):
    """One that is not taken in yet, and for how many seconds it has been waiting."""

    age_s: float = 0.0


def note(connection: Connection, signed: SignedObject) -> None:
    """Note an SR in the transaction of its signature; one that is noted stays as it is."""
    # no conflict target: the role that serves pages may not read the table, and must not need to
    connection.execute(
        "INSERT INTO ledger.signed_object (study_uid, blob, copy, version_id) VALUES (%s, %s, %s, %s)"
        " ON CONFLICT DO NOTHING",
        (signed.study_uid, signed.blob, signed.copy, signed.version_id),
    )


def waiting(connection: Connection, limit: int = 200) -> list[Waiting]:
    """Return what is to be taken in, the oldest first: an amendment's SR is made of the one before."""
    with connection.cursor(row_factory=class_row(Waiting)) as cursor:
        cursor.execute(
            """
            SELECT o.study_uid, o.blob, o.copy, o.version_id, extract(epoch FROM now() - o.noted_at)::float8 AS age_s
            FROM ledger.signed_object o JOIN ledger.study s USING (study_uid)
            WHERE o.taken_at IS NULL ORDER BY o.noted_at, o.blob LIMIT %s
            """,
            (limit,),
        )
        return list(cursor.fetchall())


def settle(connection: Connection, blob: str, fault: str = "") -> None:
    """Note that nothing is left to be done, because it is taken in or, with a `fault`, because it can't be."""
    connection.execute("UPDATE ledger.signed_object SET taken_at = now(), fault = %s WHERE blob = %s", (fault, blob))

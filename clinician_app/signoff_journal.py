"""Sign-offs under way, in PostgreSQL: drafts that a form may confirm once, and acts whose audit must follow (A2).

An act's row is committed before anything is written to FHIR. Its audit event is queued in the transaction that notes
the act as done, and that transaction is open, with the event in it, before the act is tried: where no event can be
queued, nothing is signed. A process that dies between FHIR's answer and the commit leaves a row that `unsettled` finds.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import psycopg
from psycopg.types.json import Jsonb

from clinician_app.signoff_draft import Draft
from imaging_core.database import Pool, unit_of_work
from imaging_core.errors import Retryable
from imaging_core.ledger import signed_object
from imaging_core.ledger.signed_object import SignedObject

__all__ = ["Begun", "Outcome", "SignoffJournal", "StoredDraft", "Unsettled"]

Outcome = Literal["done", "conflict", "failed"]
_FORGET_AFTER = timedelta(days=1)


@dataclass(frozen=True)
class StoredDraft:
    """A draft and how far it has come.

    Parameters
    ----------
    draft : Draft or None
        None once the act has ended.
    begun : bool
        It has been confirmed.
    outcome : str
        '' while it has not ended.
    """

    draft: Draft | None
    begun: bool
    outcome: Outcome | Literal[""]


@dataclass(frozen=True)
class Unsettled:
    """An act that was begun and of which it is not noted how it ended."""

    form_hash: bytes
    event: dict[str, Any]
    copy_name: str
    act_id: str
    recorded: str


class Begun:
    """An act under way; its audit event is queued in the transaction that is open."""

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]], form_hash: bytes) -> None:
        self._connection = connection
        self._form_hash = form_hash

    def done(self, leaves: SignedObject | None) -> None:
        """Note that FHIR holds the act, and the SR that it leaves; both are committed with the event."""
        if leaves is not None:
            signed_object.note(self._connection, leaves)
        self._connection.execute(
            "UPDATE app.signoff_draft SET ended_at = now(), outcome = 'done', draft = NULL WHERE form_hash = %s",
            (self._form_hash,),
        )


class SignoffJournal:
    """The drafts and acts of this installation.

    Parameters
    ----------
    pool : Pool
        Connections of role ``imaging_page``.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def issue(self, launch_id: str, report_id: str, draft: Draft) -> str:
        """Store what a preview shows; return the one-time value of its form."""
        form = secrets.token_urlsafe(24)
        with unit_of_work(self._pool) as connection:
            connection.execute(
                "DELETE FROM app.signoff_draft"
                " WHERE created_at < now() - %s AND (begun_at IS NULL OR ended_at IS NOT NULL)",
                (_FORGET_AFTER,),
            )
            connection.execute(
                "INSERT INTO app.signoff_draft (form_hash, launch_id, report_id, draft) VALUES (%s, %s, %s, %s)",
                (_hash(form), launch_id, report_id, Jsonb(draft.as_json())),
            )
        return form

    def draft(self, form: str, launch_id: str, report_id: str) -> StoredDraft | None:
        """Return the draft of a form; None where this launch was never shown it for this report."""
        with unit_of_work(self._pool) as connection:
            row = connection.execute(
                "SELECT draft, begun_at IS NOT NULL, outcome FROM app.signoff_draft"
                " WHERE form_hash = %s AND launch_id = %s AND report_id = %s",
                (_hash(form), launch_id, report_id),
            ).fetchone()
        return StoredDraft(Draft.from_json(row[0]) if row[0] else None, row[1], row[2] or "") if row else None

    def begin(self, form: str, launch_id: str, report_id: str, event: dict[str, Any]) -> bool:
        """Use the form up; return whether it was this call that did so."""
        with unit_of_work(self._pool) as connection:
            row = connection.execute(
                "UPDATE app.signoff_draft SET begun_at = now(), event = %s"
                " WHERE form_hash = %s AND launch_id = %s AND report_id = %s AND begun_at IS NULL"
                " AND created_at > now() - interval '12 hours' RETURNING true",
                (Jsonb(event), _hash(form), launch_id, report_id),
            ).fetchone()
        return row is not None

    def kept(self, form: str, copy_name: str, act_id: str, recorded: str) -> None:
        """Note, before FHIR is written, where the signed copy lies and which Provenance will tell that it was done."""
        with unit_of_work(self._pool) as connection:
            connection.execute(
                "UPDATE app.signoff_draft SET copy_name = %s, act_id = %s, recorded = %s WHERE form_hash = %s",
                (copy_name, act_id, recorded, _hash(form)),
            )

    @contextmanager
    def audited(self, form: str, event: dict[str, Any]) -> Iterator[Begun]:
        """Queue the act's event, then let the act be tried; both are committed, or neither.

        Raises
        ------
        Retryable
            ``audit-unavailable``: no event can be queued, so the act must not be tried.
        """
        with unit_of_work(self._pool) as connection:
            try:
                connection.execute("INSERT INTO ledger.audit_outbox (event) VALUES (%s)", (Jsonb(event),))
            except psycopg.Error as error:
                raise Retryable("audit-unavailable", type(error).__name__) from error
            yield Begun(connection, _hash(form))

    def ended(
        self, form_hash: bytes, outcome: Outcome, event: dict[str, Any], leaves: SignedObject | None = None
    ) -> None:
        """Note how an act ended that was not noted as done, with its event and the SR that it leaves.

        Raises
        ------
        Retryable
            ``audit-unavailable``: nothing is noted, and the act is found by `unsettled` later.
        """
        try:
            with unit_of_work(self._pool) as connection:
                row = connection.execute(
                    "UPDATE app.signoff_draft SET ended_at = now(), outcome = %s, draft = NULL"
                    " WHERE form_hash = %s AND ended_at IS NULL RETURNING true",
                    (outcome, form_hash),
                ).fetchone()
                if row is not None:
                    connection.execute("INSERT INTO ledger.audit_outbox (event) VALUES (%s)", (Jsonb(event),))
                    if leaves is not None:
                        signed_object.note(connection, leaves)
        except psycopg.Error as error:
            raise Retryable("audit-unavailable", type(error).__name__) from error

    def end_of(self, form: str, outcome: Outcome, event: dict[str, Any]) -> None:
        """Note how the act of a form ended; see `ended`."""
        self.ended(_hash(form), outcome, event)

    def unsettled(self, older_than: timedelta = timedelta(seconds=90), limit: int = 20) -> list[Unsettled]:
        """Return acts that were begun and never noted as ended."""
        with unit_of_work(self._pool) as connection:
            rows = connection.execute(
                "SELECT form_hash, event, coalesce(copy_name, ''), coalesce(act_id, ''), coalesce(recorded, '')"
                " FROM app.signoff_draft WHERE begun_at < now() - %s AND ended_at IS NULL ORDER BY begun_at LIMIT %s",
                (older_than, limit),
            ).fetchall()
        return [Unsettled(bytes(row[0]), *row[1:]) for row in rows]


def _hash(form: str) -> bytes:
    return hashlib.sha256(form.encode("utf-8", "replace")).digest()

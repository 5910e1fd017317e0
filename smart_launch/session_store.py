"""Launches and their tokens in PostgreSQL, schema `app`.

Nothing that works as a credential is stored: session ids, states and nonces are kept as SHA-256, the rest is sealed.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import structlog
from psycopg.rows import class_row, dict_row
from psycopg.types.json import Jsonb
from psycopg_pool import ConnectionPool, PoolTimeout

from smart_launch.errors import LaunchError
from smart_launch.keyring import Keyring, SealBroken
from smart_launch.pending_requests import PendingRequests, digest, unsealed

__all__ = ["OpenLaunch", "SessionStore", "StoredLaunch", "StoredTokens", "TokenRow"]

_log = structlog.get_logger("smart_launch")
_TOUCH_EVERY = timedelta(seconds=30)
_KEEP_ENDED = timedelta(days=1)

_PURGE_LAUNCHES = "DELETE FROM app.launch WHERE ends_at < now() - %s OR ended_at < now() - %s"
_INSERT_LAUNCH = (
    "INSERT INTO app.launch (launch_id, session_hash, ehr, iss, issuer, subject, fhir_user, patient, encounter, scopes,"
    " context, ends_at) VALUES (%(launch_id)s, %(session_hash)s, %(ehr)s, %(iss)s, %(issuer)s, %(subject)s,"
    " %(fhir_user)s, %(patient)s, %(encounter)s, %(scopes)s, %(context)s, now() + %(life)s)"
)
_INSERT_TOKENS = (
    "INSERT INTO app.launch_token (launch_id, access_token, refresh_token, expires_at, key_id)"
    " VALUES (%s, %s, %s, now() + %s, %s)"
)
_FIND_LAUNCH = (
    "SELECT launch_id, session_hash, ehr, issuer, subject, fhir_user, scopes, context, created_at, ends_at,"
    " ended_at IS NOT NULL AS ended, ends_at <= now() OR last_seen_at <= now() - %(idle)s AS expired,"
    " last_seen_at < now() - %(touch)s AS stale"
    " FROM app.launch WHERE launch_id = ANY(%(ids)s)"
)
_TOUCH = "UPDATE app.launch SET last_seen_at = now() WHERE launch_id = %s AND ended_at IS NULL"
_END = "UPDATE app.launch SET ended_at = now(), end_reason = %s WHERE launch_id = ANY(%s) AND ended_at IS NULL"
_DROP_TOKENS = "DELETE FROM app.launch_token WHERE launch_id = ANY(%s)"
_TOKENS = "SELECT access_token, refresh_token, expires_at FROM app.launch_token WHERE launch_id = %s"
_UPDATE_TOKENS = (
    "UPDATE app.launch_token SET access_token = %s, refresh_token = %s, expires_at = now() + %s, key_id = %s,"
    " refreshed_at = now() WHERE launch_id = %s"
)
_RESCOPE = "UPDATE app.launch SET scopes = %s WHERE launch_id = %s"
_COUNT_LAUNCH = (
    "INSERT INTO app.launch_rate (address_hash, minute, launches) VALUES (%s, date_trunc('minute', now()), 1)"
    " ON CONFLICT (address_hash, minute) DO UPDATE SET launches = app.launch_rate.launches + 1"
    " RETURNING launches, 60 - extract(second FROM now())::integer"
)
_PURGE_RATE = "DELETE FROM app.launch_rate WHERE minute < now() - interval '5 minutes'"
_RUNNING = "ended_at IS NULL AND ends_at > now() AND last_seen_at > now() - %(idle)s"
_OPEN = (
    "SELECT launch_id, ehr, issuer, subject, fhir_user, created_at, last_seen_at, ends_at, key_id FROM app.launch"  # noqa: S608 - fixed words
    f" LEFT JOIN app.launch_token USING (launch_id) WHERE {_RUNNING}"
    " AND (%(ehr)s::text IS NULL OR ehr = %(ehr)s) AND (%(subject)s::text IS NULL OR subject = %(subject)s)"
    " AND (%(before)s::timestamptz IS NULL OR created_at < %(before)s)"
    " ORDER BY created_at DESC"
)
_EHR_OF_RUNNING = f"SELECT launch_id, ehr FROM app.launch WHERE {_RUNNING} AND launch_id = ANY(%(ids)s)"  # noqa: S608 - fixed words
_OLD_SEALS = (
    "SELECT launch_id, access_token, refresh_token FROM app.launch_token WHERE key_id <> %s"
    " ORDER BY launch_id LIMIT 200 FOR UPDATE SKIP LOCKED"
)
_RESEAL = "UPDATE app.launch_token SET access_token = %s, refresh_token = %s, key_id = %s WHERE launch_id = %s"


@dataclass(frozen=True)
class StoredLaunch:
    """A launch as it is stored."""

    launch_id: str
    ehr: str
    issuer: str | None
    subject: str | None
    fhir_user: str | None
    scopes: str
    context: dict[str, Any]
    created_at: datetime
    ends_at: datetime


@dataclass(frozen=True)
class OpenLaunch:
    """A running launch in an administrator's overview.

    Parameters
    ----------
    launch_id : str
        Names the launch; it opens nothing without the browser's cookie.
    ehr : str
        Name of the registration.
    issuer, subject, fhir_user : str or None
        The user.
    created_at, last_seen_at, ends_at : datetime
        When it was opened, last used, and when it ends at the latest.
    key_id : str or None
        Key that its tokens are sealed with.
    """

    launch_id: str
    ehr: str
    issuer: str | None
    subject: str | None
    fhir_user: str | None
    created_at: datetime
    last_seen_at: datetime
    ends_at: datetime
    key_id: str | None


@dataclass(frozen=True)
class StoredTokens:
    """The tokens of a launch."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    expires_at: datetime


@dataclass
class TokenRow:
    """The tokens of a launch while this process alone may change them."""

    tokens: StoredTokens
    _store: SessionStore
    _connection: psycopg.Connection[Any]
    _launch_id: str

    def replace(self, access_token: str, refresh_token: str | None, expires_in: int, scopes: str) -> None:
        """Store what a refresh has brought."""
        seal = self._store.keys.seal
        sealed = seal(refresh_token, f"refresh:{self._launch_id}") if refresh_token else None
        self._connection.execute(
            _UPDATE_TOKENS,
            (
                seal(access_token, f"access:{self._launch_id}"),
                sealed,
                timedelta(seconds=expires_in),
                self._store.keys.current,
                self._launch_id,
            ),
        )
        self._connection.execute(_RESCOPE, (scopes, self._launch_id))


class SessionStore:
    """Server-side sessions.

    Parameters
    ----------
    pool : psycopg_pool.ConnectionPool
        Connections of role `imaging_page`, or another that has the rights on schema `app`.
    keys : Keyring
        Keys for what is sealed.
    idle_timeout : timedelta
        A launch ends when no page of it has been asked for that long.
    absolute_timeout : timedelta
        A launch ends after that in any case.

    Attributes
    ----------
    requests : PendingRequests
        Authorization requests that are not launches yet.
    """

    def __init__(
        self,
        pool: ConnectionPool[Any],
        keys: Keyring,
        *,
        idle_timeout: timedelta = timedelta(minutes=30),
        absolute_timeout: timedelta = timedelta(hours=10),
    ) -> None:
        self._pool = pool
        self.keys = keys
        self._idle = idle_timeout
        self._absolute = absolute_timeout
        self.requests = PendingRequests(self._connection, keys)

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection[Any]]:
        """Give a connection in one transaction; without the database nothing is served."""
        try:
            with self._pool.connection() as connection:
                yield connection
        except (psycopg.OperationalError, PoolTimeout) as error:
            raise LaunchError("sessions-unavailable", type(error).__name__) from error

    @contextmanager
    def _reading(self) -> Iterator[psycopg.Connection[Any]]:
        """Give a connection on which each statement stands for itself: one round trip each, which a warm page feels."""
        with self._connection() as connection:
            connection.autocommit = True
            try:
                yield connection
            finally:
                if not connection.closed:
                    connection.autocommit = False

    # launches

    def open(
        self,
        *,
        ehr: str,
        iss: str,
        issuer: str | None,
        subject: str | None,
        fhir_user: str | None,
        patient: str | None,
        encounter: str | None,
        scopes: str,
        context: dict[str, Any],
        access_token: str,
        refresh_token: str | None,
        expires_in: int,
    ) -> tuple[str, str]:
        """Store a new launch; return its id and the session id, which exists nowhere but in the browser's cookie."""
        launch_id, session_id = secrets.token_urlsafe(16), secrets.token_urlsafe(32)
        sealed = self.keys.seal(refresh_token, f"refresh:{launch_id}") if refresh_token else None
        with self._connection() as connection:
            connection.execute(_PURGE_LAUNCHES, (_KEEP_ENDED, _KEEP_ENDED))
            connection.execute(
                _INSERT_LAUNCH,
                {
                    "launch_id": launch_id,
                    "session_hash": digest(session_id),
                    "ehr": ehr,
                    "iss": iss,
                    "issuer": issuer,
                    "subject": subject,
                    "fhir_user": fhir_user,
                    "patient": patient,
                    "encounter": encounter,
                    "scopes": scopes,
                    "context": Jsonb(context),
                    "life": self._absolute,
                },
            )
            connection.execute(
                _INSERT_TOKENS,
                (
                    launch_id,
                    self.keys.seal(access_token, f"access:{launch_id}"),
                    sealed,
                    timedelta(seconds=expires_in),
                    self.keys.current,
                ),
            )
        return launch_id, session_id

    def load(self, session_ids: dict[str, str], *, use: bool) -> list[StoredLaunch]:
        """Return the running launches among those whose session id the browser has shown.

        Parameters
        ----------
        session_ids : dict of str to str
            Session id by launch id, from the cookies. One that does not match is as if it were not there.
        use : bool
            Whether this counts as use of the launches, which puts off their idle time-out.
        """
        if not session_ids:
            return []
        running, over = [], []
        with self._reading() as connection, connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(_FIND_LAUNCH, {"ids": list(session_ids), "idle": self._idle, "touch": _TOUCH_EVERY})
            for row in cursor.fetchall():
                if not hmac.compare_digest(bytes(row["session_hash"]), digest(session_ids[row["launch_id"]])):
                    _log.warning("smart.session.mismatch")
                elif row["expired"] and not row["ended"]:
                    over.append(row["launch_id"])
                elif not row["ended"]:
                    running.append(_stored(row))
                    if use and row["stale"]:
                        cursor.execute(_TOUCH, (row["launch_id"],))
            if over:
                cursor.execute(_END, ("expired", over))
                cursor.execute(_DROP_TOKENS, (over,))
        return running

    def ehr_of(self, launch_id: str) -> str | None:
        """Return the EHR's name of any launch, running or not: so that an error page may show in that EHR's frame."""
        with self._connection() as connection:
            row = connection.execute("SELECT ehr FROM app.launch WHERE launch_id = %s", (launch_id,)).fetchone()
        return str(row[0]) if row else None

    def end(self, launch_ids: Sequence[str], reason: str) -> int:
        """End launches and delete their tokens; return how many were running."""
        with self._connection() as connection:
            ended = connection.execute(_END, (reason, list(launch_ids))).rowcount
            connection.execute(_DROP_TOKENS, (list(launch_ids),))
        return ended

    def open_launches(
        self, *, ehr: str | None = None, subject: str | None = None, before: datetime | None = None
    ) -> list[OpenLaunch]:
        """Return the running launches, the latest first, for an administrator's overview: no patients, no secrets.

        Parameters
        ----------
        ehr, subject : str, optional
            Only those of an EHR, or of one of its users (`sub` of the id_token).
        before : datetime, optional
            Only those opened before this time.
        """
        wanted = {"idle": self._idle, "ehr": ehr, "subject": subject, "before": before}
        with self._connection() as connection, connection.cursor(row_factory=class_row(OpenLaunch)) as cursor:
            return cursor.execute(_OPEN, wanted).fetchall()

    def running(self, launch_ids: Sequence[str]) -> dict[str, str]:
        """Return the EHR of each of these launches that is running."""
        with self._connection() as connection:
            rows = connection.execute(_EHR_OF_RUNNING, {"ids": list(launch_ids), "idle": self._idle}).fetchall()
        return {str(row[0]): str(row[1]) for row in rows}

    def reseal(self) -> int:
        """Seal all tokens anew with the current key, so that older ones may leave the ring; return how many there were.

        What can't be opened any more is deleted: its launch has to be opened again in any case.
        """
        resealed = 0
        while True:
            with self._connection() as connection:
                rows = connection.execute(_OLD_SEALS, (self.keys.current,)).fetchall()
                for launch_id, access, refresh in rows:
                    try:
                        tokens = [
                            self.keys.seal(self.keys.unseal(bytes(sealed), place), place) if sealed else None
                            for sealed, place in ((access, f"access:{launch_id}"), (refresh, f"refresh:{launch_id}"))
                        ]
                    except SealBroken:
                        connection.execute(_END, ("key is gone", [launch_id]))
                        connection.execute(_DROP_TOKENS, ([launch_id],))
                        continue
                    connection.execute(_RESEAL, (*tokens, self.keys.current, launch_id))
                    resealed += 1
            if not rows:
                return resealed

    # tokens

    def tokens(self, launch_id: str) -> StoredTokens | None:
        """Return the tokens of a launch; None where it has ended."""
        with self._reading() as connection:
            row = connection.execute(_TOKENS, (launch_id,)).fetchone()
        return self._tokens(launch_id, row) if row else None

    @contextmanager
    def locked_tokens(self, launch_id: str) -> Iterator[TokenRow | None]:
        """Give the tokens of a launch to one process at a time; the others wait, then see what it has made of them."""
        with self._connection() as connection:
            connection.execute("SET LOCAL lock_timeout = '25s'")
            row = connection.execute(f"{_TOKENS} FOR UPDATE", (launch_id,)).fetchone()
            yield TokenRow(self._tokens(launch_id, row), self, connection, launch_id) if row else None

    def _tokens(self, launch_id: str, row: Sequence[Any]) -> StoredTokens:
        return StoredTokens(
            access_token=unsealed(self.keys, bytes(row[0]), f"access:{launch_id}"),
            refresh_token=unsealed(self.keys, bytes(row[1]), f"refresh:{launch_id}") if row[1] else None,
            expires_at=row[2].astimezone(UTC),
        )

    # launch rate

    def count_launch(self, address: str) -> tuple[int, int]:
        """Count a launch from an address; return how many there were in this minute, and its seconds left."""
        with self._connection() as connection:
            row = connection.execute(_COUNT_LAUNCH, (digest(address),)).fetchone()
            if row is None:
                raise LaunchError("sessions-unavailable", "no count")
            if row[0] == 1:
                connection.execute(_PURGE_RATE)
        return int(row[0]), max(1, int(row[1]))


def _stored(row: dict[str, Any]) -> StoredLaunch:
    return StoredLaunch(
        launch_id=row["launch_id"],
        ehr=row["ehr"],
        issuer=row["issuer"],
        subject=row["subject"],
        fhir_user=row["fhir_user"],
        scopes=row["scopes"],
        context=row["context"],
        created_at=row["created_at"],
        ends_at=row["ends_at"],
    )

"""Authorization requests on their way: from the redirect to the EHR until its answer, which uses each up."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import psycopg
from psycopg.rows import dict_row

from smart_launch.errors import LaunchError
from smart_launch.keyring import Keyring, SealBroken

__all__ = ["AuthorizationRequest", "PendingRequests", "digest", "unsealed"]

_REQUEST_LIFE = timedelta(minutes=10)
_PURGE_REQUESTS = "DELETE FROM app.authorization_request WHERE expires_at < now() - interval '10 minutes'"
_INSERT_REQUEST = (
    "INSERT INTO app.authorization_request"
    " (state_hash, binding_hash, restart_hash, ehr, nonce_hash, sealed, expires_at)"
    " VALUES (%s, %s, %s, %s, %s, %s, now() + %s)"
)
_FIND_REQUEST = (
    "SELECT binding_hash, ehr, nonce_hash, sealed, used_at IS NOT NULL AS used, expires_at <= now() AS expired"
    " FROM app.authorization_request WHERE state_hash = %s FOR UPDATE"
)
_USE_REQUEST = "UPDATE app.authorization_request SET used_at = now() WHERE state_hash = %s"
_RESTART = (
    "UPDATE app.authorization_request SET restarted_at = now(), used_at = coalesce(used_at, now())"
    " WHERE restart_hash = %s AND restarted_at IS NULL AND used_at IS NULL AND expires_at > now()"
    " RETURNING state_hash, ehr, sealed"
)


def digest(secret: str) -> bytes:
    """Return the form in which a secret of 122 bits or more is stored and compared."""
    return hashlib.sha256(secret.encode()).digest()


def unsealed(keys: Keyring, sealed: bytes, place: str) -> str:
    """Open a sealed value; one that can't be opened any more ends the launch that needs it."""
    try:
        return keys.unseal(sealed, place)
    except SealBroken as error:
        raise LaunchError("launch-ended", "sealed value can't be opened") from error


@dataclass(frozen=True)
class AuthorizationRequest:
    """An authorization request on its way.

    Parameters
    ----------
    ehr : str
        Name of the registration.
    verifier : str
        PKCE code verifier.
    nonce_hash : bytes
        Of the OpenID nonce.
    asked : str
        Scopes asked for.
    launch : str
        The EHR's launch value; empty in a standalone launch.
    """

    ehr: str
    verifier: str = field(repr=False)
    nonce_hash: bytes = field(repr=False)
    asked: str
    launch: str = field(repr=False)

    def nonce_matches(self, nonce: str) -> bool:
        """Say whether a nonce is this request's."""
        return hmac.compare_digest(digest(nonce), self.nonce_hash)


class PendingRequests:
    """Authorization requests in the database.

    Parameters
    ----------
    connect : callable
        Gives a connection in one transaction.
    keys : Keyring
        Keys for what is sealed.
    """

    def __init__(self, connect: Callable[[], AbstractContextManager[psycopg.Connection[Any]]], keys: Keyring) -> None:
        self._connect = connect
        self._keys = keys

    def begin(self, state: str, binding: str, restart: str, nonce: str, request: AuthorizationRequest) -> None:
        """Store an authorization request before the browser is sent to the EHR."""
        content = json.dumps({"verifier": request.verifier, "launch": request.launch, "asked": request.asked})
        state_hash = digest(state)
        sealed = self._keys.seal(content, f"request:{state_hash.hex()}")
        with self._connect() as connection:
            connection.execute(_PURGE_REQUESTS)
            connection.execute(
                _INSERT_REQUEST,
                (state_hash, digest(binding), digest(restart), request.ehr, digest(nonce), sealed, _REQUEST_LIFE),
            )

    def take(self, state: str, binding: str | None, ehr: str) -> AuthorizationRequest:
        """Use up the request that a state stands for.

        Parameters
        ----------
        state : str
            As it came back.
        binding : str or None
            Value of the cookie that was set with this state; None where none came back.
        ehr : str
            EHR to whose redirect URI it came back.

        Raises
        ------
        LaunchError
            `launch-unknown`, `launch-used`, `launch-expired`, `no-cookie`. Only what comes from the right browser uses
            the state up, so that nobody else can spoil a running launch.
        """
        state_hash = digest(state)
        with self._connect() as connection, connection.cursor(row_factory=dict_row) as cursor:
            row = cursor.execute(_FIND_REQUEST, (state_hash,)).fetchone()
            if row is None or row["ehr"] != ehr:
                raise LaunchError("launch-unknown", "state is unknown, or of another EHR")
            if binding is None:
                raise LaunchError("launch-used" if row["used"] else "no-cookie", "no cookie of this launch came back")
            if not hmac.compare_digest(bytes(row["binding_hash"]), digest(binding)):
                raise LaunchError("launch-unknown", "state belongs to another browser")
            if row["used"]:
                raise LaunchError("launch-used", "state was used before")
            if row["expired"]:
                raise LaunchError("launch-expired", "state is too old")
            cursor.execute(_USE_REQUEST, (state_hash,))
        return self._request(state_hash, row)

    def restart(self, ticket: str) -> AuthorizationRequest:
        """Take back a request whose browser kept no cookie, to begin it anew in another window; once only."""
        with self._connect() as connection, connection.cursor(row_factory=dict_row) as cursor:
            row = cursor.execute(_RESTART, (digest(ticket),)).fetchone()
        if row is None:
            raise LaunchError("launch-expired", "restart ticket is unknown, used or too old")
        return self._request(bytes(row["state_hash"]), {**row, "nonce_hash": b""})

    def _request(self, state_hash: bytes, row: dict[str, Any]) -> AuthorizationRequest:
        content = json.loads(unsealed(self._keys, bytes(row["sealed"]), f"request:{state_hash.hex()}"))
        return AuthorizationRequest(
            ehr=row["ehr"],
            verifier=content["verifier"],
            nonce_hash=bytes(row["nonce_hash"]),
            asked=content["asked"],
            launch=content["launch"],
        )

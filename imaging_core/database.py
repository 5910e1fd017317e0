"""PostgreSQL: one pool per process, passwords or Entra tokens, one ``with pool.connection()`` per unit of work."""

from __future__ import annotations

import select
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg.waiting import Ready
from psycopg_pool import ConnectionPool, PoolTimeout

from imaging_core.azure_login import azure_credential
from imaging_core.errors import Retryable
from imaging_core.settings import Settings

__all__ = ["BoundedConnection", "Pool", "one_statement", "open_pool", "unit_of_work"]

Pool = ConnectionPool[psycopg.Connection[tuple[Any, ...]]]
T = TypeVar("T")

_ENTRA_SCOPE = "https://ossrdbms-aad.database.windows.net/.default"


class BoundedConnection(psycopg.Connection[tuple[Any, ...]]):
    """A connection on which no wait for the server is longer than `bound_s`.

    A server that is stopped, or behind a network that drops packets, keeps its sockets open and says nothing: without a
    bound on this side a sender would wait for as long as that lasts. What times out is closed, for nobody knows what
    the server has done; the pool opens another.
    """

    bound_s = 0.0

    def wait(self, gen: Any, *arguments: Any, **options: Any) -> Any:
        """Run one exchange with the server.

        Raises
        ------
        psycopg.OperationalError
            The server said nothing for `bound_s` seconds.
        """
        return super().wait(self._bounded(gen) if self.bound_s else gen, *arguments, **options)

    def _bounded(self, gen: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        until = time.monotonic() + self.bound_s
        try:
            state = next(gen)
            while True:
                ready = yield state
                if ready == Ready.NONE and time.monotonic() > until:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(f"PostgreSQL said nothing for {self.bound_s:g} s")
                state = gen.send(ready)
        except StopIteration as done:
            result: T = done.value
            return result


def _check(connection: psycopg.Connection[Any]) -> None:
    """Find a connection that the server has closed, without asking the server: that would cost each unit of work."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if poll.poll(0):
        connection.pgconn.consume_input()  # raises where it reads the end


def open_pool(settings: Settings, *, url: str = "", size: int = 0, bound_s: float = 0.0) -> Pool:
    """Open the pool of this process.

    Parameters
    ----------
    settings : Settings
        ``database_url``, ``database_auth`` and ``database_pool_size`` are read.
    url : str
        Another URL than DATABASE_URL (the app's second role).
    size : int
        Most connections; 0: the setting.
    bound_s : float
        Seconds after which an exchange with the server fails; 0: never (commands that read the whole ledger).

    Notes
    -----
    With ``database_auth=entra`` each new connection asks for a token, which azure-identity caches and renews.
    """
    if not url:
        settings.require("database_url")
    conninfo = url or settings.database_url.get_secret_value()

    def arguments() -> dict[str, Any]:
        options: dict[str, Any] = {
            "connect_timeout": 5,
            "application_name": "imaging",
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
        }
        if settings.database_auth == "entra":
            options["password"] = azure_credential().get_token(_ENTRA_SCOPE).token
        return options

    connection_class = type("BoundedConnection", (BoundedConnection,), {"bound_s": bound_s})
    return ConnectionPool(
        conninfo,
        connection_class=connection_class,
        kwargs=arguments if settings.database_auth == "entra" else arguments(),
        min_size=1,
        max_size=size or settings.database_pool_size,
        timeout=10,
        check=_check,
        open=True,
        name="imaging",
    )


@contextmanager
def unit_of_work(pool: Pool) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """Open one transaction; committed at the end of the block, rolled back where the block fails.

    Raises
    ------
    Retryable
        With code ``ledger-unavailable`` where PostgreSQL is away, or the ledger is closed while it is rebuilt.
    """
    try:
        with pool.connection() as connection:
            yield connection
    except (
        psycopg.OperationalError,
        psycopg.InterfaceError,
        psycopg.errors.InsufficientPrivilege,
        PoolTimeout,
    ) as error:
        raise Retryable("ledger-unavailable", type(error).__name__) from error


@contextmanager
def one_statement(pool: Pool) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """Open a connection on which each statement is a transaction of its own: one round trip where a block needs one.

    Raises
    ------
    Retryable
        With code ``ledger-unavailable`` where PostgreSQL is away.
    """
    with unit_of_work(pool) as connection:
        connection.autocommit = True
        try:
            yield connection
        finally:
            if not connection.closed:
                connection.autocommit = False

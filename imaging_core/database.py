"""PostgreSQL: one pool per process, passwords or Entra tokens, one ``with pool.connection()`` per unit of work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from imaging_core.azure_login import azure_credential
from imaging_core.errors import Retryable
from imaging_core.settings import Settings

__all__ = ["Pool", "open_pool", "unit_of_work"]

Pool = ConnectionPool[psycopg.Connection[tuple[Any, ...]]]

_ENTRA_SCOPE = "https://ossrdbms-aad.database.windows.net/.default"


def open_pool(settings: Settings, *, url: str = "", size: int = 0) -> Pool:
    """Open the pool of this process.

    Parameters
    ----------
    settings : Settings
        ``database_url``, ``database_auth`` and ``database_pool_size`` are read.
    url : str
        Another URL than DATABASE_URL (the app's second role).
    size : int
        Most connections; 0: the setting.

    Notes
    -----
    With ``database_auth=entra`` each new connection asks for a token, which azure-identity caches and renews.
    """
    if not url:
        settings.require("database_url")
    conninfo = url or settings.database_url.get_secret_value()

    def arguments() -> dict[str, Any]:
        options: dict[str, Any] = {"connect_timeout": 5, "application_name": "imaging"}
        if settings.database_auth == "entra":
            options["password"] = azure_credential().get_token(_ENTRA_SCOPE).token
        return options

    return ConnectionPool(
        conninfo,
        kwargs=arguments if settings.database_auth == "entra" else arguments(),
        min_size=1,
        max_size=size or settings.database_pool_size,
        timeout=10,
        check=ConnectionPool.check_connection,
        open=True,
        name="imaging",
    )


@contextmanager
def unit_of_work(pool: Pool) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """Open one transaction; committed at the end of the block, rolled back where the block fails.

    Raises
    ------
    Retryable
        With code ``ledger-unavailable`` where PostgreSQL is away.
    """
    try:
        with pool.connection() as connection:
            yield connection
    except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout) as error:
        raise Retryable("ledger-unavailable", type(error).__name__) from error

"""What the host remembers across restarts: blob events delivered, tries of those that failed, last runs of timers."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

__all__ = ["HostState"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS blob_event (
    container TEXT NOT NULL, name TEXT NOT NULL, etag TEXT NOT NULL, tries INTEGER NOT NULL, done INTEGER NOT NULL,
    PRIMARY KEY (container, name)
);
CREATE TABLE IF NOT EXISTS timer (function TEXT PRIMARY KEY, last_run TEXT NOT NULL);
"""


class HostState:
    """A small SQLite file; used from the event loop's thread only.

    Parameters
    ----------
    path : Path
        The file; its folder is made where it is missing.

    Notes
    -----
    Losing the file repeats events, which functions must bear anyway: Event Grid delivers at least once.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(_SCHEMA)

    def tries(self, container: str, name: str, etag: str) -> int | None:
        """Return how often this version of a blob was tried in vain; None once it is done with."""
        row = self._db.execute(
            "SELECT etag, tries, done FROM blob_event WHERE container = ? AND name = ?", (container, name)
        ).fetchone()
        if row is None or row[0] != etag:
            return 0
        return None if row[2] else int(row[1])

    def failed(self, container: str, name: str, etag: str, tries: int) -> None:
        """Remember a failed try."""
        self._put(container, name, etag, tries, done=False)

    def delivered(self, container: str, name: str, etag: str) -> None:
        """Remember that this version of the blob needs no further event."""
        self._put(container, name, etag, 0, done=True)

    def forget_absent(self, container: str, present: Collection[str]) -> None:
        """Drop what is known of blobs that are gone."""
        known = self._db.execute("SELECT name FROM blob_event WHERE container = ?", (container,)).fetchall()
        gone = [(container, name) for (name,) in known if name not in present]
        if gone:
            self._db.execute("BEGIN")
            self._db.executemany("DELETE FROM blob_event WHERE container = ? AND name = ?", gone)
            self._db.execute("COMMIT")

    def last_run(self, function: str) -> datetime | None:
        """Return when the timer last ran."""
        row = self._db.execute("SELECT last_run FROM timer WHERE function = ?", (function,)).fetchone()
        return datetime.fromisoformat(row[0]) if row else None

    def ran(self, function: str, moment: datetime) -> None:
        """Remember a timer's run."""
        self._db.execute("INSERT OR REPLACE INTO timer VALUES (?, ?)", (function, moment.astimezone(UTC).isoformat()))

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _put(self, container: str, name: str, etag: str, tries: int, *, done: bool) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO blob_event VALUES (?, ?, ?, ?, ?)", (container, name, etag, tries, int(done))
        )

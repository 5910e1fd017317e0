"""Numbered plain-SQL migrations, each applied once, in order, in a transaction of its own.

A part that owns a schema ships ``migrations/NNNN_name.sql`` and names its package under the entry-point group
``imaging.migrations``; so this module imports no part. Applied files are remembered with their SHA-256: one that was
changed afterwards stops the run, for the database no longer is what the file says.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg

from imaging_core.errors import Permanent

__all__ = ["Migration", "migrate", "migrations"]

_FIRST = "imaging_core"
_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_LOCK = 0x696D6167696E67  # any number that all migrating processes share


@dataclass(frozen=True)
class Migration:
    """One file: its part, number, name and SQL."""

    component: str
    number: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """SHA-256 of the SQL, hexadecimal."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations() -> list[Migration]:
    """Return every part's migrations, imaging_core's first."""
    found = []
    for entry in metadata.entry_points(group="imaging.migrations"):
        for file in _folder(entry.value).iterdir():
            match = _NAME.fullmatch(file.name)
            if match:
                found.append(Migration(entry.name, int(match[1]), match[2], file.read_text("utf-8")))
    return sorted(found, key=lambda item: (item.component != _FIRST, item.component, item.number))


def _folder(package: str) -> Path:
    """Return the folder of a package, without importing the part that it belongs to."""
    top, *below = package.split(".")
    spec = find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        raise Permanent("bad-setting", f"the package {top} of imaging.migrations is not installed")
    return Path(next(iter(spec.submodule_search_locations))).joinpath(*below)


def migrate(connection: psycopg.Connection[Any]) -> list[Migration]:
    """Apply what is missing, as the owner; return what was applied.

    Raises
    ------
    Permanent
        An applied migration's file has changed since.
    """
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        try:
            cursor.execute(
                "CREATE TABLE IF NOT EXISTS public.schema_migration ("
                " component text, number integer, name text NOT NULL, sha256 text NOT NULL,"
                " applied_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (component, number))"
            )
            cursor.execute("SELECT component, number, sha256 FROM public.schema_migration")
            done = {(component, number): sha256 for component, number, sha256 in cursor.fetchall()}
            applied = []
            for item in migrations():
                known = done.get((item.component, item.number))
                if known is None:
                    with connection.transaction():
                        cursor.execute(item.sql.encode())
                        cursor.execute(
                            "INSERT INTO public.schema_migration (component, number, name, sha256)"
                            " VALUES (%s, %s, %s, %s)",
                            (item.component, item.number, item.name, item.sha256),
                        )
                    applied.append(item)
                elif known != item.sha256:
                    raise Permanent(
                        "bad-setting",
                        f"migration {item.component}/{item.number:04}_{item.name} was applied with other content",
                    )
            return applied
        finally:
            cursor.execute("SELECT pg_advisory_unlock(%s)", (_LOCK,))

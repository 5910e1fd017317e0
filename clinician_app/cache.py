"""The cache in PostgreSQL: what one right saw of one patient, behind row-level security.

Each transaction says whose launch it is for (`SET LOCAL`, by ``set_config``) before it says anything else; the policies
of schema `cache` then show and take rows of that key alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from clinician_app.fhir_values import Resource, identifiers, text
from imaging_core.database import Pool, unit_of_work

__all__ = ["CacheKey", "CachedPart", "ChartCache", "launch_access"]

# Older than this is not shown, FHIR away or not: a night's outage is bridged, a forgotten session's reading is not.
KEEP = timedelta(hours=24)


@dataclass(frozen=True)
class CacheKey:
    """Whose rows: the FHIR service, the right by which it was read, the Patient's id there."""

    server: str
    access: str
    patient: str


@dataclass(frozen=True)
class CachedPart:
    """The answer to one question, and when the FHIR service gave it."""

    resources: tuple[Resource, ...]
    read_at: datetime


def launch_access(iss: str, subject: str, scopes: Iterable[str]) -> str:
    """Return the right of a launch: who asked which EHR with which granted scopes.

    Two users, or one user with other scopes, may be shown different things by one server: they share nothing (XE8).
    """
    told = "\x00".join((iss, subject, *sorted(set(scopes))))
    return "launch:" + hashlib.sha256(told.encode()).hexdigest()


class ChartCache:
    """The cached parts of charts.

    Parameters
    ----------
    pool : Pool
        Connections of role ``imaging_page``.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @contextmanager
    def transaction(self, key: CacheKey) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """Open a transaction that sees the rows of `key` only."""
        with unit_of_work(self._pool) as connection:
            connection.execute(
                "SELECT set_config('imaging.server', %s, true), set_config('imaging.access', %s, true),"
                " set_config('imaging.patient', %s, true)",
                (key.server, key.access, key.patient),
            )
            yield connection

    def load(self, key: CacheKey) -> dict[str, CachedPart]:
        """Return what is cached under `key`, by part."""
        oldest = datetime.now(UTC) - KEEP
        with self.transaction(key) as connection:
            readings: dict[str, datetime] = dict(
                connection.execute(
                    "SELECT part, read_at FROM cache.reading"
                    " WHERE server = %s AND access = %s AND patient = %s AND read_at > %s",
                    (key.server, key.access, key.patient, oldest),
                ).fetchall()
            )
            rows = connection.execute(
                "SELECT part, body FROM cache.resource WHERE server = %s AND access = %s AND patient = %s"
                " ORDER BY part, resource_type, resource_id",
                (key.server, key.access, key.patient),
            ).fetchall()
        found: dict[str, list[Resource]] = {part: [] for part in readings}
        for part, body in rows:
            if part in found:
                found[part].append(body)
        return {part: CachedPart(tuple(found[part]), read_at) for part, read_at in readings.items()}

    def store(self, key: CacheKey, part: str, resources: Iterable[Resource], read_at: datetime) -> None:
        """Replace one part by what FHIR answered at `read_at`; an answer older than the stored one is dropped."""
        values = [
            (key.server, key.access, key.patient, part, *_names(body), _study_uid(body), Jsonb(body, dumps=_storable))
            for body in resources
        ]
        with self.transaction(key) as connection:
            newer = connection.execute(
                "INSERT INTO cache.reading (server, access, patient, part, read_at) VALUES (%s, %s, %s, %s, %s)"
                " ON CONFLICT (server, access, patient, part) DO UPDATE SET read_at = excluded.read_at"
                " WHERE cache.reading.read_at < excluded.read_at RETURNING true",
                (key.server, key.access, key.patient, part, read_at),
            ).fetchone()
            if newer is None:
                return
            connection.execute(
                "DELETE FROM cache.resource WHERE server = %s AND access = %s AND patient = %s AND part = %s",
                (key.server, key.access, key.patient, part),
            )
            with connection.cursor() as cursor:
                cursor.executemany(
                    "INSERT INTO cache.resource"
                    " (server, access, patient, part, resource_type, resource_id, study_uid, body)"
                    " VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                    values,
                )

    def forget(self, key: CacheKey, part: str) -> None:
        """Drop one part: the right to read it is gone."""
        with self.transaction(key) as connection:
            for table in ("reading", "resource"):
                connection.execute(
                    f"DELETE FROM cache.{table}"  # noqa: S608 - a name of the tuple above
                    " WHERE server = %s AND access = %s AND patient = %s AND part = %s",
                    (key.server, key.access, key.patient, part),
                )


def _storable(body: Resource) -> str:
    """Write JSON without NUL characters, which PostgreSQL's jsonb refuses and no text of a chart needs."""
    return re.sub(r"(?<!\\)((?:\\\\)*)\\u0000", r"\1", json.dumps(body))


def _names(body: Resource) -> tuple[str, str]:
    return text(body.get("resourceType"), 64), text(body.get("id"), 64)


def _study_uid(body: Mapping[str, Any]) -> str | None:
    if body.get("resourceType") != "ImagingStudy":
        return None
    uids = (item.value for item in identifiers(body.get("identifier")) if item.system == "urn:dicom:uid")
    return next(uids, "").removeprefix("urn:oid:") or None

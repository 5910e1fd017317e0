"""Rows of `ledger.intake` and `ledger.instance`: what came in, from whom, and what became of it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg.rows import class_row, dict_row

from imaging_core.dicom.header import DicomHeader

__all__ = [
    "Delivery",
    "Outcome",
    "StoredInstance",
    "add_instance",
    "delivery_progress",
    "find_instance",
    "intake_id_by_key",
    "record",
]

Outcome = Literal["accepted", "duplicate", "rejected", "quarantined"]
Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class Delivery:
    """One delivery and its outcome; the fields are the columns of `ledger.intake`."""

    intake_id: uuid.UUID
    source: str
    client: str
    site: str
    outcome: Outcome
    reason: str | None = None
    detail: str | None = None
    sop_uid: str | None = None
    study_uid: str | None = None
    sha256: str | None = None
    bytes: int = 0
    blob: str | None = None
    upload_id: uuid.UUID | None = None
    trace_id: str = ""
    delivery_key: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class StoredInstance:
    """An instance that is stored already."""

    sop_uid: str
    study_uid: str
    dataset_sha256: str
    pixel_sha256: str | None
    blob: str


def record(connection: Connection, delivery: Delivery) -> bool:
    """Write the row; return False where the delivery key has one already (a repeated event)."""
    cursor = connection.execute(
        """
        INSERT INTO ledger.intake (intake_id, delivery_key, source, client, site, outcome, reason, detail, sop_uid,
                                   study_uid, sha256, bytes, blob, upload_id, trace_id, warnings)
        VALUES (%(intake_id)s, %(delivery_key)s, %(source)s, %(client)s, %(site)s, %(outcome)s, %(reason)s, %(detail)s,
                %(sop_uid)s, %(study_uid)s, %(sha256)s, %(bytes)s, %(blob)s, %(upload_id)s, %(trace_id)s,
                %(warnings)s)
        ON CONFLICT (delivery_key) DO NOTHING
        """,
        {name: _text(value) for name, value in vars(delivery).items()} | {"warnings": list(delivery.warnings)},
    )
    return cursor.rowcount == 1


def _text(value: Any) -> Any:
    """PostgreSQL's text holds no NUL (D47)."""
    return value.replace("\0", "") if isinstance(value, str) else value


def _without_nul(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nul(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nul(item) for item in value]
    return _text(value)


def add_instance(
    connection: Connection,
    header: DicomHeader,
    *,
    blob: str,
    size: int,
    site: str,
    client: str,
    traceparent: str,
) -> bool:
    """Add the study (once) and the instance; return False where another delivery of the same UID came first."""
    connection.execute(
        "INSERT INTO ledger.study (study_uid, site, traceparent) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
        (header.study_uid, site, traceparent),
    )
    cursor = connection.execute(
        """
        INSERT INTO ledger.instance (sop_uid, study_uid, series_uid, sop_class_uid, transfer_syntax_uid, dataset_sha256,
                                     pixel_sha256, bytes, blob, header, own, client, flags)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        ON CONFLICT (sop_uid) DO NOTHING
        """,
        (
            header.sop_uid,
            header.study_uid,
            header.series_uid,
            header.sop_class_uid,
            header.transfer_syntax_uid,
            header.dataset_sha256,
            header.pixel_sha256,
            size,
            blob,
            json.dumps(_without_nul(header.attributes)),
            header.own,
            client,
            list(header.flags),
        ),
    )
    return cursor.rowcount == 1


def find_instance(connection: Connection, sop_uid: str) -> StoredInstance | None:
    """Return the stored instance of a UID."""
    with connection.cursor(row_factory=class_row(StoredInstance)) as cursor:
        cursor.execute(
            "SELECT sop_uid, study_uid, dataset_sha256, pixel_sha256, blob FROM ledger.instance WHERE sop_uid = %s",
            (sop_uid,),
        )
        return cursor.fetchone()


def intake_id_by_key(connection: Connection, key: str) -> uuid.UUID | None:
    """Return the delivery that has this key; None where there is none."""
    row = connection.execute("SELECT intake_id FROM ledger.intake WHERE delivery_key = %s", (key,)).fetchone()
    return row[0] if row else None


_PROGRESS = """
SELECT d.intake_id, d.state AS outcome, coalesce(d.reason, d.hold_reason) AS reason, d.detail, d.sop_uid, d.study_uid,
d.client,
       d.received_at, d.trace_id, s.version, s.analysed_version, s.failed_at, s.last_error, s.subject,
       coalesce(i.registered, false) AS registered,
       (SELECT coalesce(json_agg(json_build_object('task', a.task, 'state', a.state, 'model', a.model, 'report',
       a.report,
                                                   'reason', a.reason)), '[]')
          FROM ledger.analysis a WHERE a.study_uid = d.study_uid AND a.version >= s.version) AS analyses
FROM ledger.delivery d
LEFT JOIN ledger.study s USING (study_uid)
LEFT JOIN ledger.instance i USING (sop_uid)
-- a released file is answered for by what it became
WHERE d.intake_id = (SELECT coalesce(superseded_by, intake_id) FROM ledger.intake WHERE intake_id = %s)
"""


def delivery_progress(connection: Connection, intake_id: uuid.UUID) -> Mapping[str, Any] | None:
    """Return a delivery's outcome and how far its study has come; None where there is no such delivery."""
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(_PROGRESS, (intake_id,))
        return cursor.fetchone()

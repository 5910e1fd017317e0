"""What one request brings, written in one statement: studies, instances and the row of each delivery.

A statement of its own is a transaction of its own: a request costs one round trip and one commit, however many
instances it has, and all that it writes stands or falls together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg

from imaging_core.dicom.header import DicomHeader
from imaging_core.ledger.intake import Delivery

__all__ = ["Entry", "Known", "enter", "look"]

Connection = psycopg.Connection[Any]
_NUL = "\\u0000"


@dataclass(frozen=True)
class Entry:
    """A delivery and, where it is accepted, what its file says.

    Parameters
    ----------
    delivery : Delivery
        With its outcome; ``images/<name>`` is the blob of what is accepted.
    header : DicomHeader or None
        None unless the outcome is ``accepted``.
    traceparent : str
        W3C ``traceparent`` of the request.
    """

    delivery: Delivery
    header: DicomHeader | None = None
    traceparent: str = ""


@dataclass(frozen=True)
class Known:
    """What the ledger holds of the instances and studies of a request.

    Parameters
    ----------
    instances : mapping
        SOP Instance UID to ``dataset_sha256`` and blob name.
    coerced : frozenset of str
        Study Instance UIDs that a person linked to another Patient than the header names: what is served of them is
        coerced.
    """

    instances: Mapping[str, tuple[str, str]]
    coerced: frozenset[str]


def look(connection: Connection, sop_uids: Sequence[str], study_uids: Sequence[str]) -> Known:
    """Return what is known of these instances and studies, in one round trip."""
    instances: dict[str, tuple[str, str]] = {}
    coerced = set()
    rows = connection.execute(
        """
        SELECT sop_uid, dataset_sha256, blob FROM ledger.instance WHERE sop_uid = ANY(%s)
        UNION ALL
        SELECT study_uid, NULL, NULL FROM (
            SELECT DISTINCT ON (study_uid) study_uid, action FROM ledger.hold_resolution
            WHERE study_uid = ANY(%s) ORDER BY study_uid, id DESC
        ) AS latest WHERE action = 'link'
        """,
        (list(sop_uids), list(study_uids)),
    )
    for uid, dataset_sha256, blob in rows:
        if blob is None:
            coerced.add(uid)
        else:
            instances[uid] = (dataset_sha256, blob)
    return Known(instances, frozenset(coerced))


_ENTER = """
WITH entry AS (
    SELECT * FROM jsonb_to_recordset(%s::jsonb) AS e(
        intake_id uuid, delivery_key text, source text, client text, site text, outcome text, reason text, detail text,
        sop_uid text, study_uid text, sha256 text, bytes bigint, blob text, upload_id uuid, trace_id text,
        warnings text[], series_uid text, sop_class_uid text, transfer_syntax_uid text, dataset_sha256 text,
        pixel_sha256 text, name text, header jsonb, own boolean, flags text[], traceparent text)
), study AS (
    INSERT INTO ledger.study (study_uid, site, traceparent)
    SELECT DISTINCT ON (study_uid) study_uid, site, traceparent FROM entry WHERE outcome = 'accepted' ORDER BY study_uid
    ON CONFLICT DO NOTHING
), added AS (
    INSERT INTO ledger.instance (sop_uid, study_uid, series_uid, sop_class_uid, transfer_syntax_uid, dataset_sha256,
                                 pixel_sha256, bytes, blob, header, own, client, flags)
    SELECT sop_uid, study_uid, series_uid, sop_class_uid, transfer_syntax_uid, dataset_sha256, pixel_sha256, bytes,
           name, header, own, client, flags
    FROM entry WHERE outcome = 'accepted' ORDER BY sop_uid
    ON CONFLICT (sop_uid) DO NOTHING RETURNING sop_uid
), written AS (
    INSERT INTO ledger.intake (intake_id, delivery_key, source, client, site, outcome, reason, detail, sop_uid,
                               study_uid, sha256, bytes, blob, upload_id, trace_id, warnings)
    SELECT intake_id, delivery_key, source, client, site, outcome, reason, detail, sop_uid, study_uid, sha256, bytes,
           blob, upload_id, trace_id, warnings
    FROM entry WHERE outcome <> 'accepted' OR sop_uid IN (SELECT sop_uid FROM added)
    ON CONFLICT (delivery_key) DO NOTHING
)
SELECT intake_id FROM entry WHERE outcome <> 'accepted' OR sop_uid IN (SELECT sop_uid FROM added)
"""


def enter(connection: Connection, entries: Sequence[Entry]) -> set[UUID]:
    """Write the entries; no two accepted ones may have the same SOP Instance UID.

    Returns
    -------
    set of UUID
        Intake ids of what stands; an accepted one is missing where another delivery of its UID came first.
    """
    if not entries:
        return set()
    text = json.dumps([_row(entry) for entry in entries])
    if _NUL in text:  # PostgreSQL's text holds no NUL (D47)
        text = json.dumps(_without_nul(json.loads(text)))
    return {row[0] for row in connection.execute(_ENTER, (text,))}


def _row(entry: Entry) -> dict[str, Any]:
    delivery, header = entry.delivery, entry.header
    row: dict[str, Any] = {**vars(delivery), "intake_id": str(delivery.intake_id), "traceparent": entry.traceparent}
    row["upload_id"] = str(delivery.upload_id) if delivery.upload_id else None
    row["warnings"] = list(delivery.warnings)
    if header is not None:
        row |= {
            "series_uid": header.series_uid,
            "sop_class_uid": header.sop_class_uid,
            "transfer_syntax_uid": header.transfer_syntax_uid,
            "dataset_sha256": header.dataset_sha256,
            "pixel_sha256": header.pixel_sha256,
            "name": (delivery.blob or "").removeprefix("images/"),
            "header": header.attributes,
            "own": header.own,
            "flags": list(header.flags),
        }
    return row


def _without_nul(value: Any) -> Any:
    if isinstance(value, dict):
        return {_without_nul(key): _without_nul(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nul(item) for item in value]
    return value.replace("\0", "") if isinstance(value, str) else value

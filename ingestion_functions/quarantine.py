"""What a person can do with a quarantined file: discard it, or have it tried again under other limits.

A file whose UID is taken by other content never gets in, for the first one stays (D15): it is discarded, and kept in
container ``quarantine`` with the decision. A file that exhausted a decode child may be tried again once a limit was
raised; it then counts once, as what it became.
"""

from __future__ import annotations

import uuid

from imaging_core import telemetry
from imaging_core.blobs import BlobMissing
from imaging_core.database import Pool, unit_of_work
from imaging_core.errors import Retryable
from imaging_core.ledger import intake as deliveries
from imaging_core.ledger import quarantine as ledger
from imaging_core.ledger.quarantine import Decision, Released
from ingestion_functions import audit
from ingestion_functions.intake import Source, take_in
from ingestion_functions.services import Services

__all__ = ["decide", "record_decision", "release_due"]

log = telemetry.get_logger(__name__)


def decide(parts: Services, intake_id: uuid.UUID, action: Decision, *, who: str, reason: str, client: str) -> None:
    """Record a decision with its audit, and carry a release out.

    Raises
    ------
    Permanent
        See `imaging_core.ledger.quarantine.decide`.
    """
    record_decision(parts.pool, intake_id, action, who=who, reason=reason, client=client)
    if action == "release":
        try:
            release_due(parts)
        except Retryable as error:
            log.warning("postponed", step="release", code=error.code)


def record_decision(pool: Pool, intake_id: uuid.UUID, action: Decision, *, who: str, reason: str, client: str) -> None:
    """Record a decision with its audit; the sweep carries a release out."""
    with unit_of_work(pool) as connection:
        ledger.decide(connection, intake_id, action, who=who, reason=reason)
        what = f"urn:uuid:{intake_id}"
        audit.note(connection, "quarantine-decided", client=client, what=what, patient=None, user=who)


def release_due(parts: Services) -> int:
    """Try the released files again; return how many. The sweep calls it for those whose first try was cut short."""
    with unit_of_work(parts.pool) as connection:
        due = ledger.to_release(connection)
    for item in due:
        _again(parts, item)
    return len(due)


def _again(parts: Services, item: Released) -> None:
    key = f"release:{item.intake_id}"
    with unit_of_work(parts.pool) as connection:
        successor = deliveries.intake_id_by_key(connection, key)
    if successor is None:
        container, _, name = item.blob.partition("/")
        try:
            data = parts.blobs.get(container, name)
        except BlobMissing:
            log.error("released file is missing", code="blob-missing")
            return
        source = Source(
            item.source,
            item.client,
            parts.sites.named(item.site),
            delivery_key=key,
            upload_id=item.upload_id,
        )
        successor = take_in(parts, data, source).delivery.intake_id
    with unit_of_work(parts.pool) as connection:
        ledger.became(connection, item.intake_id, successor)

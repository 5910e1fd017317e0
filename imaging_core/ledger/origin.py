"""Where a stored file came from, in its blob's metadata, so that `imaging rebuild` finds what the journal lacks.

The journal is written a minute or so behind. What a lost database had taken in since is told by the files themselves:
which door, which client, which site, and why a file is in quarantine. Nothing of the patient is in it.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from urllib.parse import quote, unquote

from imaging_core.ledger.intake import Delivery

__all__ = ["MADE_HERE_MARK", "delivery_of", "metadata_of"]

MADE_HERE_MARK = {"origin": "imaging"}
"""Metadata of an instance that the system made itself (R8): it is nobody's delivery."""

_TEXTS = ("source", "client", "site", "reason", "study_uid", "sop_uid", "sha256")


def metadata_of(delivery: Delivery) -> dict[str, str]:
    """Return the metadata: names are identifiers, values ASCII, as Blob Storage wants them."""
    found = {"intakeid": str(delivery.intake_id)}
    for name in _TEXTS:
        value = getattr(delivery, name)
        if value:
            found[name.replace("_", "")] = quote(str(value), safe="")
    if delivery.upload_id is not None:
        found["uploadid"] = str(delivery.upload_id)
    if delivery.delivery_key:
        found["deliverykey"] = quote(delivery.delivery_key, safe="")
    return found


def delivery_of(metadata: Mapping[str, str], *, blob: str, size: int) -> Delivery | None:
    """Return the delivery that stored a blob; None where its metadata does not say, or it was made here.

    Parameters
    ----------
    blob : str
        ``container/name``.
    """
    known = {name.lower(): unquote(value or "") for name, value in metadata.items()}
    try:
        intake_id = uuid.UUID(known.get("intakeid", ""))
        upload_id = uuid.UUID(known["uploadid"]) if known.get("uploadid") else None
    except ValueError:
        return None
    return Delivery(
        intake_id=intake_id,
        source=known.get("source", "stow"),
        client=known.get("client", ""),
        site=known.get("site", ""),
        outcome="quarantined" if known.get("reason") else "accepted",
        reason=known.get("reason") or None,
        sop_uid=known.get("sopuid") or None,
        study_uid=known.get("studyuid") or None,
        sha256=known.get("sha256") or None,
        bytes=size,
        blob=blob,
        upload_id=upload_id,
        delivery_key=known.get("deliverykey") or None,
    )

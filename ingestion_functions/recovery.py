"""Instances and quarantined files come back into an emptied ledger from their blobs.

Each file is read once and described as at its intake. Who sent it and when says the journal; what the journal does not
know yet, the blob's own metadata. Files are read a few at a time, so that memory does not grow with their number.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import psycopg

from fhir_adapter.identity import NAMESPACE
from imaging_core.blobs import BlobInfo, BlobStore
from imaging_core.database import Pool, unit_of_work
from imaging_core.dicom.archival import EXTENSIONS, SYNTAXES
from imaging_core.dicom.child import DecodePool
from imaging_core.dicom.header import DicomHeader, valid_uid
from imaging_core.errors import Rejected
from imaging_core.ledger import intake as ledger
from imaging_core.ledger import rebuild as steps
from imaging_core.ledger.intake import Delivery
from imaging_core.ledger.origin import MADE_HERE_MARK, delivery_of
from imaging_core.ledger.study import MADE_HERE
from imaging_core.sites import Sites

__all__ = ["Recovered", "images", "instance_uids", "quarantine", "renditions"]

_CHUNK = 200
_UNKNOWN = "unknown"
_SYNTAXES = {extension: str(SYNTAXES[syntax]) for syntax, extension in EXTENSIONS.items()}
Connection = psycopg.Connection[Any]
Tell = Callable[[int], None]


@dataclass
class Recovered:
    """What a pass over a container brought.

    Parameters
    ----------
    instances, deliveries : int
        Instances added; deliveries that the journal did not know.
    faults : list of (str, str)
        Code and name of what could not be taken back.
    """

    instances: int = 0
    deliveries: int = 0
    faults: list[tuple[str, str]] = field(default_factory=list)


def instance_uids(name: str) -> tuple[str, str, str] | None:
    """Return study, series and SOP UID of an original's blob name; None for a rendition or anything else."""
    parts = name.removesuffix(".dcm").split("/")
    if not name.endswith(".dcm") or len(parts) != 3 or not all(valid_uid(part) for part in parts):
        return None
    return parts[0], parts[1], parts[2]


def images(pool: Pool, blobs: BlobStore, decoder: DecodePool, sites: Sites, *, threads: int, tell: Tell) -> Recovered:
    """Add the instances of container ``images`` that the ledger lacks."""
    result = Recovered()
    with ThreadPoolExecutor(threads) as readers:
        for chunk in _chunks(blobs.list("images")):
            named = {uids[2]: info for info in chunk if (uids := instance_uids(info.name)) is not None}
            with unit_of_work(pool) as connection:
                known = _known(connection, list(named))
                origins = steps.origins(connection, [uid for uid in named if uid not in known])
            missing = [info for uid, info in named.items() if uid not in known]
            for info, header in zip(missing, readers.map(lambda i: _header(blobs, decoder, i), missing), strict=True):
                if isinstance(header, str):
                    result.faults.append((header, f"images/{info.name}"))
                    continue
                with unit_of_work(pool) as connection:
                    fresh = _add(connection, info, header, origins.get(header.sop_uid), sites)
                result.instances += 1
                result.deliveries += fresh
            tell(len(chunk))
    return result


def _chunks(found: Iterable[BlobInfo]) -> Iterator[list[BlobInfo]]:
    running = iter(found)
    while chunk := list(islice(running, _CHUNK)):
        yield chunk


def _known(connection: Connection, sop_uids: list[str]) -> set[str]:
    found = connection.execute("SELECT sop_uid FROM ledger.instance WHERE sop_uid = ANY(%s)", (sop_uids,)).fetchall()
    return {uid for (uid,) in found}


def _header(blobs: BlobStore, decoder: DecodePool, info: BlobInfo) -> DicomHeader | str:
    """Read a file; return the code where it can't be, or is not what its name says."""
    try:
        header = decoder.header(blobs.get("images", info.name))
    except Rejected as error:
        return error.code
    if (header.study_uid, header.series_uid, header.sop_uid) != instance_uids(info.name):
        return "uid-mismatch"
    return header


def _add(
    connection: Connection, info: BlobInfo, header: DicomHeader, origin: Mapping[str, Any] | None, sites: Sites
) -> int:
    """Write one instance; return 1 where its delivery had to be written too."""
    made_here = all(info.metadata.get(name) == value for name, value in MADE_HERE_MARK.items())
    delivery = None
    if origin is None and not made_here:
        delivery = delivery_of(info.metadata, blob=f"images/{info.name}", size=info.size) or _unsigned(info, sites)
        delivery = replace(
            delivery, sop_uid=header.sop_uid, study_uid=header.study_uid, warnings=header.warnings, outcome="accepted"
        )
    told = delivery.site if delivery is not None else ""
    ledger.add_instance(
        connection,
        header,
        blob=info.name,
        size=info.size,
        site=str(origin["site"]) if origin is not None else told,
        client=MADE_HERE if made_here else str(origin["client"]) if origin else delivery.client if delivery else "",
        traceparent=info.metadata.get("traceparent") or "",
    )
    at = origin["received_at"] if origin is not None else info.modified
    connection.execute("UPDATE ledger.instance SET received_at = %s WHERE sop_uid = %s", (at, header.sop_uid))
    connection.execute(
        """
        UPDATE ledger.study SET created_at = least(created_at, %s), site = CASE WHEN site = '' THEN %s ELSE site END
        WHERE study_uid = %s
        """,
        (at, str(origin["site"]) if origin is not None else told, header.study_uid),
    )
    return _record(connection, delivery, info) if delivery is not None else 0


def _record(connection: Connection, delivery: Delivery, info: BlobInfo) -> int:
    fresh = ledger.record(connection, delivery)
    connection.execute(
        "UPDATE ledger.intake SET received_at = %s WHERE intake_id = %s", (info.modified, delivery.intake_id)
    )
    return int(fresh)


def _unsigned(info: BlobInfo, sites: Sites) -> Delivery:
    """Return the delivery of a file that neither journal nor metadata tell of."""
    return Delivery(
        intake_id=uuid.uuid5(NAMESPACE, f"recovered:{info.name}:{info.etag}"),
        source="stow",
        client=_UNKNOWN,
        site=sites.default_name(),
        outcome="accepted",
        bytes=info.size,
        blob=f"images/{info.name}",
    )


def renditions(pool: Pool, blobs: BlobStore, *, tell: Tell) -> None:
    """Note the lossless renditions that lie beside their originals: nobody has to compress and prove them again.

    What had been found not to be worth one, or not to be possible, is found again by the archive step.
    """
    for chunk in _chunks(blobs.list("images")):
        found = []
        for info in chunk:
            stem, _, extension = info.name.removesuffix(".dcm").rpartition(".")
            syntax = _SYNTAXES.get(extension)
            values = info.metadata.get("valuessha256")
            if syntax and values and info.metadata.get("renditionof") == f"{stem.rpartition('/')[2]}.dcm":
                found.append((f"{stem}.dcm", info.name, syntax, info.size, values))
        with unit_of_work(pool) as connection, connection.cursor() as cursor:
            cursor.executemany(
                """
                UPDATE ledger.instance SET rendition_state = 'stored', rendition = %(name)s, rendition_bytes = %(size)s,
                       rendition_syntax = %(syntax)s, rendition_values_sha256 = %(values)s
                WHERE blob = %(blob)s AND sop_uid = %(sop_uid)s AND rendition_state IS NULL
                """,
                [
                    {
                        "blob": blob,
                        "sop_uid": blob.rpartition("/")[2].removesuffix(".dcm"),
                        "name": name,
                        "syntax": syntax,
                        "size": size,
                        "values": values,
                    }
                    for blob, name, syntax, size, values in found
                ],
            )
        tell(len(found))


def quarantine(pool: Pool, blobs: BlobStore, decoder: DecodePool, sites: Sites, *, tell: Tell) -> Recovered:
    """Write the deliveries of container ``quarantine`` that the journal does not know."""
    result = Recovered()
    for chunk in _chunks(blobs.list("quarantine")):
        names = {f"quarantine/{info.name}": info for info in chunk}
        with unit_of_work(pool) as connection:
            found = connection.execute(
                "SELECT DISTINCT blob FROM ledger.intake WHERE blob = ANY(%s)", (list(names),)
            ).fetchall()
        for blob in names.keys() - {name for (name,) in found}:
            info = names[blob]
            delivery = delivery_of(info.metadata, blob=blob, size=info.size)
            if delivery is None or delivery.reason is None:
                unsigned = replace(_unsigned(info, sites), blob=blob, outcome="quarantined")
                delivery = replace(unsigned, reason=_why(blobs, decoder, info), sha256=info.name.removesuffix(".dcm"))
            with unit_of_work(pool) as connection:
                result.deliveries += _record(connection, delivery, info)
        tell(len(chunk))
    return result


def _why(blobs: BlobStore, decoder: DecodePool, info: BlobInfo) -> str:
    try:
        decoder.header(blobs.get("quarantine", info.name))
    except Rejected as error:
        return error.code
    return "conflicting-content"

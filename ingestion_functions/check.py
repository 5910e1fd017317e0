"""``imaging intake check``: every delivery accounted for, in the ledger, in blob storage and on the FHIR service.

Two sorted lists are walked side by side, the ledger's and the store's, so that a million images need no more memory
than ten. What is on its way while the check runs is no difference: a blob comes a moment before its row.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from psycopg.rows import dict_row

from fhir_adapter.client import FhirClient
from fhir_adapter.identity import IMAGING_STUDY, resource_id
from imaging_core.blobs import BlobInfo, BlobMissing, BlobStore
from imaging_core.database import Pool, unit_of_work
from imaging_core.dicom.child import DecodePool
from imaging_core.errors import Rejected
from imaging_core.ledger import drop as drops
from imaging_core.ledger import journal
from imaging_core.ledger.counts import counts
from imaging_core.ledger.study import MADE_HERE
from ingestion_functions.recovery import instance_uids

__all__ = ["Account", "Difference", "check"]

_OUTCOMES = ("accepted", "duplicate", "rejected", "quarantined", "held")
_MOST_NAMED = 1000
_CHUNK = 200
_READERS = 4
_STUDIES = 20
_GRACE = timedelta(minutes=5)
_LEFT_OVER = timedelta(hours=1)
T = TypeVar("T")
Row = Mapping[str, Any]
Tell = Callable[[str, int], None]


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it should be.

    Parameters
    ----------
    code : str
        Kebab-case kind.
    name : str
        Study, instance, delivery or blob.
    detail : str
        What was found.
    """

    code: str
    name: str
    detail: str = ""


@dataclass
class Account:
    """What was counted, and every difference; of each kind the first thousand are named, the rest counted.

    Parameters
    ----------
    numbers : dict
        What was counted, by name.
    differences : list of Difference
        In the order in which they were found.
    """

    numbers: dict[str, int] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    by_code: Counter[str] = field(default_factory=Counter)

    def add(self, code: str, name: str, detail: str = "") -> None:
        """Note a difference."""
        self.by_code[code] += 1
        if self.by_code[code] <= _MOST_NAMED:
            self.differences.append(Difference(code, name, detail))

    def count(self, name: str, number: int = 1) -> None:
        """Count something."""
        self.numbers[name] = self.numbers.get(name, 0) + number

    @property
    def good(self) -> bool:
        """Whether everything adds up."""
        return not self.by_code


def check(
    pool: Pool, blobs: BlobStore, fhir: FhirClient, *, deep: DecodePool | None = None, tell: Tell | None = None
) -> Account:
    """Prove that deliveries = accepted + duplicate + rejected + quarantined + held, and that each is where it belongs.

    Parameters
    ----------
    deep : DecodePool or None
        Read every image, some at a time, and compare its hash with that of its delivery; None: the size and the hash
        that the store keeps beside it are compared, from the listing alone.

    Raises
    ------
    Retryable
        A store is away.
    """
    account = Account()
    told = tell or (lambda _what, _number: None)
    _deliveries(pool, account)
    _studies(pool, account)
    _images(pool, blobs, account, deep, told)
    _quarantine(pool, blobs, account, told)
    _incoming(pool, blobs, account)
    _journal(pool, blobs, account)
    _fhir(pool, fhir, account, told)
    return account


def _deliveries(pool: Pool, account: Account) -> None:
    with unit_of_work(pool) as connection:
        account.numbers.update(counts(connection))
        total = sum(account.numbers[name] for name in _OUTCOMES)
        if total != account.numbers["deliveries"]:
            account.add("counts", "deliveries", f"{account.numbers['deliveries']}, but {total} outcomes")
        for code, statement in _LEDGER.items():
            for name, detail in connection.execute(statement, {"here": MADE_HERE}).fetchall():
                account.add(code, str(name), str(detail or ""))


_LEDGER = {
    "accepted-without-instance": """
        SELECT i.intake_id, i.sop_uid FROM ledger.intake i
        WHERE i.outcome = 'accepted' AND NOT EXISTS (SELECT 1 FROM ledger.instance n WHERE n.sop_uid = i.sop_uid)
        """,
    "duplicate-without-instance": """
        SELECT i.intake_id, i.sop_uid FROM ledger.intake i
        WHERE i.outcome = 'duplicate' AND NOT EXISTS (SELECT 1 FROM ledger.instance n WHERE n.sop_uid = i.sop_uid)
        """,
    "accepted-twice": """
        SELECT sop_uid, count(*)::text || ' deliveries' FROM ledger.intake
        WHERE outcome = 'accepted' AND superseded_by IS NULL GROUP BY sop_uid HAVING count(*) > 1
        """,
    "instance-without-delivery": """
        SELECT n.sop_uid, n.study_uid FROM ledger.instance n
        WHERE NOT (n.own AND n.client = %(here)s) AND NOT EXISTS (
            SELECT 1 FROM ledger.intake i WHERE i.study_uid = n.study_uid AND i.sop_uid = n.sop_uid
                                            AND i.outcome = 'accepted')
        """,
}


def _studies(pool: Pool, account: Account) -> None:
    """Name the studies that have not come to their end: on their way, failed, or analysed without a word."""
    with unit_of_work(pool) as connection:
        found = connection.execute(
            """
            SELECT s.study_uid, s.last_error,
                   CASE WHEN s.failed_at IS NOT NULL THEN 'failed'
                        WHEN s.analysed_version < s.version
                             OR EXISTS (SELECT 1 FROM ledger.instance i
                                        WHERE i.study_uid = s.study_uid AND NOT i.registered) THEN 'pending'
                        ELSE 'no-analysis' END AS state
            FROM ledger.study s
            WHERE s.rejected_at IS NULL AND (s.hold_reason IS NULL OR s.failed_at IS NOT NULL) AND (
                s.failed_at IS NOT NULL OR s.analysed_version < s.version
                OR EXISTS (SELECT 1 FROM ledger.instance i WHERE i.study_uid = s.study_uid AND NOT i.registered)
                OR (s.version > 0 AND NOT EXISTS (SELECT 1 FROM ledger.analysis a WHERE a.study_uid = s.study_uid)))
            """
        ).fetchall()
    for study_uid, error, state in found:
        account.add(state, study_uid, error or "")


def _images(pool: Pool, blobs: BlobStore, account: Account, deep: DecodePool | None, tell: Tell) -> None:
    renditions: list[str] = []

    def originals() -> Iterator[BlobInfo]:
        for info in blobs.list("images"):
            if instance_uids(info.name) is not None:
                yield info
            elif original := _original(info.name):
                renditions.append(original)
                account.count("renditions")
                if len(renditions) >= _CHUNK:
                    _renditions(pool, renditions, account)
            else:
                account.add("orphan-blob", f"images/{info.name}", "not an instance's name")

    rows = _rows(
        pool,
        """
        SELECT n.blob, n.sop_uid, n.bytes, n.dataset_sha256, n.own,
               (SELECT i.sha256 FROM ledger.intake i
                WHERE i.study_uid = n.study_uid AND i.sop_uid = n.sop_uid AND i.outcome = 'accepted' LIMIT 1) AS sha256
        FROM ledger.instance n ORDER BY n.blob COLLATE "C"
        """,
    )
    with ThreadPoolExecutor(_READERS) as readers:
        for chunk in _chunks(_side_by_side(originals(), rows)):
            pairs = [(info, row) for info, row in chunk if info is not None and row is not None]
            for stored, taken in pairs:
                account.count("images")
                _same(stored, taken, account)
            if deep is not None:
                faults = readers.map(partial(_bytes, blobs, deep), pairs)
                for (stored, _), fault in zip(pairs, faults, strict=True):
                    if fault:
                        account.add("wrong-content", f"images/{stored.name}", fault)
            for info, row in chunk:
                if row is None and info is not None and not _young(info):
                    account.add("orphan-blob", f"images/{info.name}", f"{info.size} bytes, in no delivery")
                elif info is None and row is not None and not blobs.exists("images", row["blob"]):
                    account.add("missing-blob", f"images/{row['blob']}", f"{row['bytes']} bytes")
            tell("images", len(chunk))
    _renditions(pool, renditions, account)


def _original(name: str) -> str | None:
    """Return the original's name of a lossless rendition (``<sop>.jls.dcm``); None where the name is no such."""
    stem, _, suffix = name.removesuffix(".dcm").rpartition(".")
    original = f"{stem}.dcm"
    return original if name.endswith(".dcm") and not suffix.isdigit() and instance_uids(original) else None


def _renditions(pool: Pool, originals: list[str], account: Account) -> None:
    with unit_of_work(pool) as connection:
        found = connection.execute("SELECT blob FROM ledger.instance WHERE blob = ANY(%s)", (originals,)).fetchall()
    for name in sorted(set(originals) - {blob for (blob,) in found}):
        account.add("orphan-blob", f"images/{name}", "a rendition without its original")
    originals.clear()


def _same(info: BlobInfo, row: Row, account: Account) -> None:
    if info.size != row["bytes"]:
        account.add("wrong-size", f"images/{info.name}", f"{info.size} bytes, {row['bytes']} taken in")
    noted = info.metadata.get("datasetsha256")
    if noted and noted != row["dataset_sha256"]:
        account.add("wrong-content", f"images/{info.name}", "the hash beside the blob is another")


def _bytes(blobs: BlobStore, decoder: DecodePool, pair: tuple[BlobInfo, Row]) -> str:
    """Read an image; return what is wrong with its bytes."""
    info, row = pair
    try:
        data = blobs.get("images", info.name)
        if row["sha256"]:
            same = hashlib.sha256(data).hexdigest() == row["sha256"]
        else:  # made here: there is no delivery that knows the whole file's hash
            same = decoder.header(data).dataset_sha256 == row["dataset_sha256"]
    except BlobMissing:
        return "gone while it was read"
    except Rejected as error:
        return error.code
    return "" if same else "the bytes have another hash"


def _young(info: BlobInfo) -> bool:
    return info.modified is not None and datetime.now(UTC) - info.modified < _GRACE


def _quarantine(pool: Pool, blobs: BlobStore, account: Account, tell: Tell) -> None:
    rows = _rows(
        pool,
        """
        SELECT substr(blob, 12) AS blob, min(bytes) AS bytes FROM ledger.intake
        WHERE blob LIKE 'quarantine/%%' GROUP BY 1 ORDER BY substr(blob, 12) COLLATE "C"
        """,
    )
    for info, row in _side_by_side(blobs.list("quarantine"), rows):
        if row is None and info is not None and not _young(info):
            account.add("orphan-blob", f"quarantine/{info.name}", f"{info.size} bytes, in no delivery")
        elif info is None and row is not None:
            account.add("missing-blob", f"quarantine/{row['blob']}", f"{row['bytes']} bytes")
        elif info is not None and row is not None and info.size != row["bytes"]:
            account.add("wrong-size", f"quarantine/{info.name}", f"{info.size} bytes, {row['bytes']} taken in")
        account.count("quarantine blobs", int(info is not None))
        tell("quarantine", 1)


def _incoming(pool: Pool, blobs: BlobStore, account: Account) -> None:
    """Tell what lies in container ``incoming``: refused and kept, on its way, or left over."""
    for chunk in _chunks(blobs.list("incoming")):
        keys = {f"drop:{info.name}:{info.etag}": info for info in chunk}
        with unit_of_work(pool) as connection:
            known = set(drops.delivered(connection, list(keys)))
        account.count("incoming, refused and kept", len(known))
        for key in keys.keys() - known:
            info = keys[key]
            account.count("incoming, waiting")
            if info.modified is not None and datetime.now(UTC) - info.modified > _LEFT_OVER:
                account.add("not-taken-in", f"incoming/{info.name}", f"since {info.modified:%Y-%m-%d %H:%M}")


def _journal(pool: Pool, blobs: BlobStore, account: Account) -> None:
    with unit_of_work(pool) as connection:
        account.count("history not in the journal yet", journal.waiting(connection))
    rows = _rows(
        pool,
        """
        SELECT blob, rows AS bytes FROM ledger.journal_segment WHERE blob IS NOT NULL ORDER BY blob COLLATE "C"
        """,
    )
    for info, row in _side_by_side(blobs.list("journal"), rows):
        if info is None and row is not None:
            account.add("missing-blob", f"journal/{row['blob']}", f"{row['bytes']} rows of history")
        account.count("journal blobs", int(info is not None))


def _fhir(pool: Pool, fhir: FhirClient, account: Account, tell: Tell) -> None:
    """Prove that each registered image is in its ImagingStudy, and that each report that was answered exists."""
    rows = _rows(
        pool,
        """
        SELECT s.study_uid, s.subject,
               (SELECT array_agg(i.sop_uid) FROM ledger.instance i WHERE i.study_uid = s.study_uid AND i.registered)
                   AS instances,
               (SELECT array_agg(a.report) FROM ledger.analysis a WHERE a.study_uid = s.study_uid AND a.report <> '')
                   AS reports
        FROM ledger.study s WHERE s.registered_at IS NOT NULL AND s.rejected_at IS NULL ORDER BY s.study_uid
        """,
    )
    for chunk in _chunks(rows, _STUDIES):
        reports = [report for row in chunk for report in row["reports"] or ()]
        studies = [f"ImagingStudy/{resource_id(row['study_uid'], IMAGING_STUDY)}" for row in chunk]
        found = fhir.read_many(studies + reports)
        held = {f"{item['resourceType']}/{item['id']}" for item in found if item is not None}
        for row, stored in zip(chunk, found, strict=False):
            account.count("studies")
            _covered(row, stored, account)
            for report in row["reports"] or ():
                account.count("reports")
                if report not in held:
                    account.add("report-missing", report, f"study {row['study_uid']}")
        tell("studies", len(chunk))


def _covered(row: Row, stored: Mapping[str, Any] | None, account: Account) -> None:
    if stored is None:
        account.add("not-registered", row["study_uid"], "no ImagingStudy on the FHIR service")
        return
    covered = {str(item["uid"]) for series in stored.get("series") or [] for item in series.get("instance") or []}
    for sop_uid in sorted(set(row["instances"] or ()) - covered):
        account.add("not-registered", sop_uid, f"not in the ImagingStudy of {row['study_uid']}")
    if (stored.get("subject") or {}).get("reference") != row["subject"]:
        account.add("other-subject", row["study_uid"], "the ImagingStudy names another Patient than the ledger")


def _rows(pool: Pool, statement: str) -> Iterator[Row]:
    """Yield a statement's rows, a few hundred in memory at a time."""
    with unit_of_work(pool) as connection, connection.cursor("account", row_factory=dict_row) as cursor:
        cursor.itersize = 500
        cursor.execute(statement)
        yield from cursor


def _side_by_side(infos: Iterable[BlobInfo], rows: Iterator[Row]) -> Iterator[tuple[BlobInfo | None, Row | None]]:
    """Yield blobs and rows of the same name together, and each that has no partner alone; both are sorted by name."""
    row = next(rows, None)
    for info in infos:
        while row is not None and row["blob"] < info.name:
            yield None, row
            row = next(rows, None)
        if row is not None and row["blob"] == info.name:
            yield info, row
            row = next(rows, None)
        else:
            yield info, None
    while row is not None:
        yield None, row
        row = next(rows, None)


def _chunks(found: Iterable[T], size: int = _CHUNK) -> Iterator[Sequence[T]]:
    running = iter(found)
    while chunk := list(islice(running, size)):
        yield chunk

"""The journal: every row of history once, in order, whatever is killed and whichever transaction commits late."""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from imaging_core.blobs import BlobStore
from imaging_core.database import unit_of_work
from imaging_core.errors import Retryable
from imaging_core.ledger import act, intake, quarantine
from imaging_core.ledger import journal as ledger
from imaging_core.ledger.intake import Delivery
from ingestion_functions import journal, sweep
from ingestion_functions.services import Services
from tests.ingestion_functions.conftest import Door
from tests.ingestion_functions.test_steps import send


def delivery(**changes: Any) -> Delivery:
    made = Delivery(uuid.uuid4(), "stow", "client", "site", "rejected", reason="not-dicom")
    return replace(made, **changes)


def record(parts: Services, *deliveries: Delivery) -> None:
    for item in deliveries:
        with unit_of_work(parts.pool) as connection:
            intake.record(connection, item)


def lines(parts: Services, kind: str = "intake") -> list[dict[str, Any]]:
    """Return the rows of a kind that the journal holds, in the order of its blobs."""
    return [
        row for name in journal.blobs_of(parts.blobs) for found, row in journal.read(parts.blobs, name) if found == kind
    ]


def times_of(parts: Services, *deliveries: Delivery) -> list[int]:
    """Return how often the journal holds each delivery."""
    held = [row["intake_id"] for row in lines(parts)]
    return [held.count(str(item.intake_id)) for item in deliveries]


@pytest.fixture
def shipped(parts: Services) -> Services:
    """The app's connections, with all earlier history shipped."""
    journal.ship(parts.pool, parts.blobs)
    return parts


@pytest.mark.requirement("D14")
def test_each_row_is_shipped_once_in_order(shipped: Services) -> None:
    made = [delivery(detail=f"no. {number}", warnings=("B000",)) for number in range(5)]
    record(shipped, *made)
    assert journal.ship(shipped.pool, shipped.blobs) == 5
    assert journal.ship(shipped.pool, shipped.blobs) == 0
    assert times_of(shipped, *made) == [1] * 5
    held = [row for row in lines(shipped) if row["intake_id"] in {str(item.intake_id) for item in made}]
    assert [row["detail"] for row in held] == [item.detail for item in made]
    assert held[0]["warnings"] == ["B000"]
    assert [row["sequence"] for row in held] == sorted(row["sequence"] for row in held)


def test_a_transaction_that_commits_late_is_shipped_all_the_same(shipped: Services) -> None:
    slow, quick = delivery(), delivery()
    with unit_of_work(shipped.pool) as connection:
        intake.record(connection, slow)  # takes the lower number
        record(shipped, quick)
        assert journal.ship(shipped.pool, shipped.blobs) == 1
        assert times_of(shipped, slow, quick) == [0, 1]
    assert journal.ship(shipped.pool, shipped.blobs) == 1
    assert times_of(shipped, slow, quick) == [1, 1]


def test_a_number_that_was_rolled_back_is_missing_and_nothing_else(shipped: Services) -> None:
    first, lost, last = delivery(), delivery(), delivery()
    record(shipped, first)

    with unit_of_work(shipped.pool) as connection:
        intake.record(connection, lost)
        connection.rollback()
    record(shipped, last)
    assert journal.ship(shipped.pool, shipped.blobs) == 2
    assert times_of(shipped, first, lost, last) == [1, 0, 1]


class Dying(BlobStore):
    """A store that dies before or after it has written to the journal."""

    def __init__(self, store: BlobStore, *, after: bool) -> None:
        self._store, self._after = store, after

    def put_new(self, container: str, name: str, data: bytes, **options: Any) -> bool:
        if self._after:
            self._store.put_new(container, name, data, **options)
        raise Retryable("storage-unavailable", "killed")


@pytest.mark.parametrize("after", [False, True])
def test_a_shipment_that_was_killed_is_carried_out_once(shipped: Services, after: bool) -> None:
    made = [delivery() for _ in range(3)]
    record(shipped, *made)
    with pytest.raises(Retryable):
        journal.ship(shipped.pool, Dying(shipped.blobs, after=after))
    later = delivery()
    record(shipped, later)  # more comes before the next one
    assert journal.ship(shipped.pool, shipped.blobs) == 4
    assert times_of(shipped, *made, later) == [1, 1, 1, 1]


def test_several_ship_at_once(shipped: Services) -> None:
    made = [delivery() for _ in range(40)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda item: record(shipped, item), made))
        list(threads.map(lambda _: journal.ship(shipped.pool, shipped.blobs), range(8)))
    journal.ship(shipped.pool, shipped.blobs)
    assert times_of(shipped, *made) == [1] * 40


def test_numbers_that_come_again_take_nobodys_place(shipped: Services) -> None:
    """PostgreSQL was set back to an older day: the same numbers, another history."""
    first = delivery(detail="before")
    record(shipped, first)
    journal.ship(shipped.pool, shipped.blobs)
    with unit_of_work(shipped.pool) as connection:
        number = connection.execute(
            "SELECT sequence FROM ledger.intake WHERE intake_id = %s", (first.intake_id,)
        ).fetchone()
        assert number is not None
    second = delivery(detail="after")
    record(shipped, second)
    with unit_of_work(shipped.pool) as connection:
        connection.execute("UPDATE ledger.intake SET sequence = %s WHERE intake_id = %s", (number[0], second.intake_id))
    journal.ship(shipped.pool, shipped.blobs)
    assert times_of(shipped, first, second) == [1, 1]


def test_what_changes_is_shipped_again_and_the_later_state_stands(shipped: Services) -> None:
    made = delivery(outcome="quarantined", reason="decode-timeout", blob="quarantine/x")
    record(shipped, made)
    journal.ship(shipped.pool, shipped.blobs)
    successor = uuid.uuid4()
    with unit_of_work(shipped.pool) as connection:
        quarantine.became(connection, made.intake_id, successor)
    journal.ship(shipped.pool, shipped.blobs)
    states = [row["superseded_by"] for row in lines(shipped) if row["intake_id"] == str(made.intake_id)]
    assert states == [None, str(successor)]
    # read in any order, the later state is what is restored
    rows = [("intake", row) for row in lines(shipped) if row["intake_id"] == str(made.intake_id)]
    with unit_of_work(shipped.pool) as connection:
        for order in (rows, rows[::-1]):
            ledger.restore(connection, order, 1)
            found = connection.execute(
                "SELECT superseded_by FROM ledger.intake WHERE intake_id = %s", (made.intake_id,)
            ).fetchone()
            assert found == (successor,)
        connection.rollback()


def test_a_line_of_another_version_is_read(shipped: Services) -> None:
    """An older line lacks a column, a newer one has one that is not there."""
    number = uuid.uuid4()
    row = {
        "intake_id": str(number),
        "received_at": "2024-01-02T03:04:05+00:00",
        "source": "stow",
        "client": "c",
        "site": "s",
        "outcome": "rejected",
        "reason": "not-dicom",
        "sequence": 1,
        "of_tomorrow": True,
    }
    with unit_of_work(shipped.pool) as connection:
        assert ledger.restore(connection, [("intake", row)], 1) == 1
        assert ledger.restore(connection, [("intake", row)], 1) == 0
        found = connection.execute(
            "SELECT warnings, bytes, trace_id FROM ledger.intake WHERE intake_id = %s", (number,)
        ).fetchone()
    assert found == ([], 0, "")


@pytest.mark.requirement("P4")
def test_decisions_uploads_and_acts_are_history_too(shipped: Services, door: Door) -> None:
    study_uid = send(door, PatientID="")
    with unit_of_work(shipped.pool) as connection:
        act.note_act(connection, "failed", study_uid, error="x")
    upload_id = uuid.uuid4()
    with unit_of_work(shipped.pool) as connection:
        connection.execute(
            "INSERT INTO ledger.upload (upload_id, client, site, expires_at) VALUES (%s, 'c', 's', now())", (upload_id,)
        )
    journal.ship(shipped.pool, shipped.blobs)
    assert [row["kind"] for row in lines(shipped, "act") if row["study_uid"] == study_uid] == ["failed"]
    assert str(upload_id) in {row["upload_id"] for row in lines(shipped, "upload")}


def test_the_sweep_ships_within_the_setting(shipped: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "services", lambda: shipped)
    made = delivery()
    record(shipped, made)
    # shipped a moment ago: it may wait, for the next sweep comes before JOURNAL_AFTER_S
    sweep.sweep()
    assert times_of(shipped, made) == [0]
    with unit_of_work(shipped.pool) as connection:
        connection.execute("UPDATE ledger.journal_segment SET shipped_at = shipped_at - interval '31 s'")
    sweep.sweep()
    assert times_of(shipped, made) == [1]


def test_a_blob_is_lines_of_json(shipped: Services) -> None:
    record(shipped, delivery(detail="ligne\nà part"))
    journal.ship(shipped.pool, shipped.blobs)
    name = list(journal.blobs_of(shipped.blobs))[-1]
    text = shipped.blobs.get("journal", name).decode()
    assert all(set(json.loads(line)) == {"kind", "row"} for line in text.splitlines())
    lowest, highest, _ = name.split("-")
    assert int(lowest) <= int(highest)

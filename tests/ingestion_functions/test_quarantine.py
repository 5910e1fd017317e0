"""Quarantine: what a person sees of a file, and what a decision does."""

from __future__ import annotations

import hashlib
import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from imaging_core.database import unit_of_work
from imaging_core.dicom.child import DecodePool
from imaging_core.dicom.header import DicomHeader
from imaging_core.errors import Rejected, Retryable
from imaging_core.ledger.counts import counts
from imaging_core.ledger.intake import delivery_progress
from ingestion_functions import admin_api, http_api, quarantine, stow
from ingestion_functions.register import register
from ingestion_functions.services import Services
from tests.dicom_samples import instance, multipart, part10
from tests.ingestion_functions.conftest import Door
from tests.ingestion_functions.test_holds import admin, ask, told
from tests.ingestion_functions.test_rebuild import Slow
from tests.ingestion_functions.test_steps import study_row

__all__ = ["admin"]

OUTCOMES = ("accepted", "duplicate", "rejected", "quarantined", "held")


def waiting(sop_uid: str = "", sha256: str = "") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = told(ask(admin_api.list_quarantine))["quarantine"]
    return [row for row in rows if row["sop_uid"] == sop_uid or row["sha256"] == sha256]


def states(parts: Services) -> dict[str, int]:
    with unit_of_work(parts.pool) as connection:
        found = counts(connection)
    assert found["deliveries"] == sum(found[name] for name in OUTCOMES)
    return found


def poison(parts: Services, door: Door, monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict[str, Any]]:
    """Send a file that takes too long to read; return its study and its row."""
    sent = instance()
    data = part10(sent)
    monkeypatch.setattr(http_api, "services", lambda: replace(parts, decoder=Slow()))
    door(stow.store, *multipart(data))
    monkeypatch.setattr(http_api, "services", lambda: parts)
    (row,) = waiting(sha256=hashlib.sha256(data).hexdigest())
    return str(sent.StudyInstanceUID), row


@pytest.fixture
def conflict(door: Door, admin: Services) -> dict[str, Any]:
    """A file whose UID is taken by other content."""
    sent = instance()
    assert door(stow.store, *multipart(part10(sent))).status_code == 200
    sent.PatientName = "Another^Name"
    assert door(stow.store, *multipart(part10(sent))).status_code == 409
    (row,) = waiting(sop_uid=str(sent.SOPInstanceUID))
    return row


@pytest.mark.requirement("D15")
def test_a_conflict_is_shown_with_what_differs(admin: Services, conflict: dict[str, Any]) -> None:
    assert conflict["reason"] == "conflicting-content"
    assert conflict["can"] == ["discard"]
    shown = told(ask(admin_api.show_quarantined, intake_id=conflict["intake_id"]))
    assert shown["differs"]["pixels"] is False
    assert shown["differs"]["attributes"].keys() == {"00100010"}
    assert shown["differs"]["attributes"]["00100010"]["stored"]["Value"] == [{"Alphabetic": "Doe^Jane"}]


@pytest.mark.requirement("D15", "A1")
def test_the_first_one_is_kept_and_the_second_discarded_with_a_reason(
    admin: Services, conflict: dict[str, Any]
) -> None:
    before = states(admin)
    id_ = conflict["intake_id"]
    assert ask(admin_api.decide_quarantined, body={"action": "discard"}, intake_id=id_).status_code == 400
    release = {"action": "release", "reason": "let it in"}
    assert ask(admin_api.decide_quarantined, body=release, intake_id=id_).status_code == 400
    discard = {"action": "discard", "reason": "edited by mistake", "who": "Dr Admin"}
    with ThreadPoolExecutor(3) as threads:
        answers = sorted(
            threads.map(lambda _: ask(admin_api.decide_quarantined, body=discard, intake_id=id_).status_code, range(3))
        )
    assert answers == [200, 412, 412]
    assert waiting(sop_uid=conflict["sop_uid"]) == []
    after = states(admin)
    assert (after["quarantined"], after["rejected"]) == (before["quarantined"] - 1, before["rejected"] + 1)
    # the file and the decision stay
    assert admin.blobs.exists(*conflict["blob"].split("/", 1))
    with unit_of_work(admin.pool) as connection:
        decided = connection.execute(
            "SELECT action, reason, who FROM ledger.quarantine_decision WHERE intake_id = %s", (id_,)
        ).fetchone()
        audited = connection.execute(
            "SELECT count(*) FROM ledger.audit_outbox WHERE event::text LIKE %s AND event::text LIKE '%%Dr Admin%%'",
            (f"%urn:uuid:{id_}%",),
        ).fetchone()
    assert decided == ("discard", "edited by mistake", "Dr Admin")
    assert audited == (1,)


@pytest.mark.requirement("D45")
def test_a_released_file_goes_its_way_and_counts_once(
    admin: Services, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_uid, row = poison(admin, door, monkeypatch)
    before = states(admin)
    assert row["can"] == ["discard", "release"]
    released = {"action": "release", "reason": "DECODE_SECONDS raised"}
    assert ask(admin_api.decide_quarantined, body=released, intake_id=row["intake_id"]).status_code == 200
    after = states(admin)
    assert after["deliveries"] == before["deliveries"]
    assert (after["quarantined"], after["accepted"]) == (before["quarantined"] - 1, before["accepted"] + 1)
    register(admin, study_uid)
    assert study_row(admin, study_uid)["version"] == 1
    # its sender asks by the number that it was given, and learns what became of it
    with unit_of_work(admin.pool) as connection:
        progress = delivery_progress(connection, uuid.UUID(row["intake_id"]))
    assert progress is not None
    assert (progress["outcome"], progress["study_uid"]) == ("accepted", study_uid)


@pytest.mark.requirement("D45")
def test_a_released_file_that_is_still_too_much_waits_again(
    admin: Services, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, row = poison(admin, door, monkeypatch)
    before = states(admin)
    monkeypatch.setattr(http_api, "services", lambda: replace(admin, decoder=Slow()))
    released = {"action": "release", "reason": "again"}
    ask(admin_api.decide_quarantined, body=released, intake_id=row["intake_id"])
    monkeypatch.setattr(http_api, "services", lambda: admin)
    assert states(admin) == before
    (again,) = waiting(sha256=row["sha256"])
    assert again["intake_id"] != row["intake_id"]
    assert ask(admin_api.decide_quarantined, body=released, intake_id=again["intake_id"]).status_code == 200
    assert waiting(sha256=row["sha256"]) == []
    for number in (row["intake_id"], again["intake_id"]):
        with unit_of_work(admin.pool) as connection:
            progress = delivery_progress(connection, uuid.UUID(number))
        assert progress is not None
        assert progress["outcome"] == "accepted"


class Away(DecodePool):
    """Children that can't be started just now."""

    def __init__(self) -> None:
        return

    def header(self, data: bytes) -> DicomHeader:
        raise Retryable("service-unavailable", "no children")

    def run(self, *_: Any) -> Any:
        raise Rejected("decode-crashed", "no children")


def test_a_release_that_was_cut_short_is_done_by_the_sweep(
    admin: Services, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_uid, row = poison(admin, door, monkeypatch)
    away = replace(admin, decoder=Away())
    quarantine.decide(away, uuid.UUID(row["intake_id"]), "release", who="admin", reason="again", client="c")
    assert quarantine.release_due(admin) == 1
    assert quarantine.release_due(admin) == 0
    register(admin, study_uid)
    assert study_row(admin, study_uid)["version"] == 1
    json.dumps(states(admin))


def test_there_is_no_such_file(admin: Services) -> None:
    discard = {"action": "discard", "reason": "x"}
    assert ask(admin_api.show_quarantined, intake_id=str(uuid.uuid4())).status_code == 404
    assert ask(admin_api.decide_quarantined, body=discard, intake_id=str(uuid.uuid4())).status_code == 404
    assert ask(admin_api.show_quarantined, intake_id="no-uuid").status_code == 404

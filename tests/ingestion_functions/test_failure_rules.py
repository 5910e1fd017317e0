"""The failure rules of the architecture, as far as they are the ledger's and the steps'."""

from __future__ import annotations

import json
from typing import Any

import azure.functions as func
import psycopg
import pytest
from click.testing import CliRunner

from imaging_core.database import unit_of_work
from imaging_core.errors import Retryable
from imaging_core.ledger import act
from imaging_core.ledger.counts import counts
from ingestion_functions import audit, commands, steps, stow, sweep
from ingestion_functions.analyse import analyse
from ingestion_functions.register import register
from ingestion_functions.services import Services
from tests.conftest import Stores
from tests.dicom_samples import instance, multipart, part10
from tests.ingestion_functions.conftest import Ai, Door
from tests.ingestion_functions.test_steps import send, study_row

OUTCOMES = ("accepted", "duplicate", "rejected", "quarantined", "held")


@pytest.fixture(scope="module", autouse=True)
def _empty_ledger(stores: Stores) -> None:
    """Whole counts are judged here: rows that tests of the pages wrote by hand, of no delivery, would not add up."""
    with psycopg.connect(stores.url("imaging_owner")) as connection:
        connection.execute("TRUNCATE ledger.study, ledger.intake CASCADE")


def message(study_uid: str) -> func.QueueMessage:
    class Message(func.QueueMessage):
        def get_json(self) -> Any:
            return {"study_uid": study_uid, "traceparent": ""}

    return Message()


def balanced(parts: Services) -> dict[str, int]:
    """Return the counts of `imaging status`, which add up at any moment."""
    with unit_of_work(parts.pool) as connection:
        found = counts(connection)
        (images,) = connection.execute(
            "SELECT count(*) FROM ledger.instance WHERE NOT (own AND client = 'imaging')"
        ).fetchone() or (0,)
        (waiting,) = connection.execute(
            """
            SELECT count(*) FROM ledger.instance i JOIN ledger.study s USING (study_uid)
            WHERE s.hold_reason IS NOT NULL AND s.failed_at IS NULL AND NOT (i.own AND i.client = 'imaging')
            """
        ).fetchone() or (0,)
    assert found["deliveries"] == sum(found[name] for name in OUTCOMES)
    ends = ("analysed", "not_analysed", "no_model", "failed", "pending")
    covered = sum(found[name] for name in ends)
    # every image is at one end, on its way, or held; a held study's earlier images may have been analysed before
    assert images - waiting <= covered <= images
    return found


@pytest.mark.requirement("I4")
def test_a_poison_message_marks_its_study_failed_until_a_person_sends_it_back(
    door: Door, parts: Services, ai: Ai, monkeypatch: pytest.MonkeyPatch, stores: Stores
) -> None:
    monkeypatch.setattr(steps, "services", lambda: parts)
    study_uid = send(door)
    register(parts, study_uid)
    before = balanced(parts)
    steps.give_up(message(study_uid))  # what the host does after five tries
    row = study_row(parts, study_uid)
    assert row["failed_at"] is not None
    assert row["last_error"].startswith("internal")
    assert balanced(parts)["failed"] == before["failed"] + 1
    # it is left alone
    analyse(parts, study_uid)
    register(parts, study_uid)
    assert ai.seen == []
    monkeypatch.setenv("IMAGING_DATA_DIR", str(stores.layout.root))
    said = CliRunner().invoke(commands.redrive, [study_uid])
    assert said.output == "1 studies sent back\n"
    assert parts.queues.depth("studies") > 0
    analyse(parts, study_uid)
    assert study_row(parts, study_uid)["failed_at"] is None
    assert balanced(parts)["failed"] == before["failed"]
    with unit_of_work(parts.pool) as connection:
        history = [(item["kind"], item["who"]) for item in act.acts_of(connection, study_uid)]
    assert [kind for kind, _ in history] == ["failed", "redriven"]
    assert history[1][1] not in ("", "imaging")  # the person


def test_a_poison_message_of_no_study_hurts_nobody(parts: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "services", lambda: parts)
    before = balanced(parts)
    steps.give_up(message("1.2.3.4.5"))
    assert balanced(parts) == before


@pytest.mark.requirement("D45")
def test_a_poison_instance_is_quarantined_and_its_study_goes_on(door: Door, parts: Services, ai: Ai) -> None:
    good, study_uid = instance(), ""
    study_uid = str(good.StudyInstanceUID)
    bad = part10(instance(StudyInstanceUID=study_uid, PatientID=good.PatientID))[:-20]
    answer = door(stow.store, *multipart(part10(good), bad))
    assert answer.status_code == 202
    register(parts, study_uid)
    analyse(parts, study_uid)
    row = study_row(parts, study_uid)
    assert (row["version"], row["analysed_version"], row["failed_at"]) == (1, 1, None)
    balanced(parts)


@pytest.mark.requirement("A2")
def test_where_audit_cannot_be_queued_the_act_does_not_happen(
    door: Door, parts: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_uid = send(door)

    def full(*_: object, **__: object) -> None:
        raise Retryable("audit-unavailable", "the outbox takes nothing")

    monkeypatch.setattr(audit.ledger, "queue", full)
    register(parts, study_uid)
    row = study_row(parts, study_uid)
    assert (row["version"], row["tries"], row["registered_at"]) == (0, 1, None)
    monkeypatch.undo()
    register(parts, study_uid)
    assert study_row(parts, study_uid)["version"] == 1


def test_one_part_of_the_sweep_that_fails_keeps_no_other_from_its_work(
    parts: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def away(_parts: Services) -> int:
        raise Retryable("fhir-unavailable", "away")

    monkeypatch.setattr(sweep, "services", lambda: parts)
    monkeypatch.setattr(
        sweep, "_WORK", (("a", away), ("b", lambda _parts: done.append("b") or 1), ("c", away), ("d", lambda _p: 0))
    )
    sweep.sweep()
    assert done == ["b"]


def test_the_counts_add_up_whatever_happens(door: Door, parts: Services, ai: Ai) -> None:
    first = instance()
    study_uid = str(first.StudyInstanceUID)
    door(stow.store, *multipart(part10(first)))
    balanced(parts)
    register(parts, study_uid)
    balanced(parts)
    analyse(parts, study_uid)
    balanced(parts)
    # an image of another patient joins: held again, after it was analysed
    door(stow.store, *multipart(part10(instance(StudyInstanceUID=study_uid, PatientID="another"))))
    register(parts, study_uid)
    assert study_row(parts, study_uid)["hold_reason"] == "patient-conflict"
    found = balanced(parts)
    json.dumps(found)

"""A study that grows: registered at once when quiet, a few times while instances keep coming, analysed a few times."""

from __future__ import annotations

from typing import Any

import pytest

from fhir_adapter.identity import resource_id
from imaging_core.database import unit_of_work
from imaging_core.ledger.study import Arrivals, StudyRow
from ingestion_functions import analyse as analyse_step
from ingestion_functions import register as register_step
from ingestion_functions.analyse import analyse
from ingestion_functions.register import register
from ingestion_functions.services import Services
from ingestion_functions.settling import analysis_waits, next_registration_s, registration_waits
from tests.dicom_samples import instance, multipart, part10
from tests.ingestion_functions.conftest import Ai, Door
from tests.ingestion_functions.test_steps import send, stow, study_row

ROW = StudyRow("1.2", "site", 1, 1, "Patient/x", None, 0, False, False, "")


def row(**changes: Any) -> StudyRow:
    return StudyRow(**(vars(ROW) | changes))


@pytest.mark.parametrize(("burst", "seconds"), [(0, 0), (1, 0), (2, 3), (3, 9), (4, 27), (5, 30), (50, 30)])
def test_the_intervals_grow_to_the_setting(burst: int, seconds: float) -> None:
    assert next_registration_s(burst, 30.0) == seconds


@pytest.mark.parametrize(
    ("state", "growth", "waits"),
    [
        (row(), Arrivals(1, 0, 0.0), 0),  # the first one, and any that is due
        (row(burst=1, register_in=0.0), Arrivals(1, 0, 0.0), 0),
        (row(burst=2, register_in=3.0), Arrivals(5, 0, 0.1), 2),
        (row(burst=2, register_in=0.4), Arrivals(5, 0, 0.1), 1),
        (row(burst=2, register_in=3.0), Arrivals(5, 0, 1.6), 0),  # nothing came for a moment: done without waiting
        (row(burst=4, register_in=20.0), Arrivals(5, 0, 2.0), 3),  # a long burst may falter longer
        (row(burst=4, register_in=20.0), Arrivals(5, 0, 5.0), 0),
        (row(burst=4, register_in=20.0), Arrivals(0, 2, 0.0), 0),  # what was made here waits for nobody
    ],
)
def test_when_a_registration_is_due(state: StudyRow, growth: Arrivals, waits: int) -> None:
    assert registration_waits(state, growth) == waits


@pytest.mark.parametrize(
    ("state", "growth", "waits"),
    [
        (row(burst=1), Arrivals(0, 0, 0.0), 0),
        (row(burst=3, analysed_ago=None), Arrivals(9, 0, 0.0), 0),  # the first report does not wait
        (row(burst=3, analysed_ago=2.0), Arrivals(9, 0, 0.0), 3),
        (row(burst=3, analysed_ago=2.0), Arrivals(0, 0, 1.0), 2),
        (row(burst=3, analysed_ago=2.0), Arrivals(0, 0, 4.0), 0),
        (row(burst=3, analysed_ago=31.0), Arrivals(9, 0, 0.0), 0),  # it keeps growing: from time to time
    ],
)
def test_when_an_analysis_is_due(state: StudyRow, growth: Arrivals, waits: int) -> None:
    assert analysis_waits(state, growth, 30.0) == waits


@pytest.fixture
def hints(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """The hints that steps send: queue and delay."""
    sent: list[tuple[str, float]] = []

    def hint(_parts: Services, queue: str, _uid: str, *, delay_s: float = 0.0) -> None:
        sent.append((queue, delay_s))

    monkeypatch.setattr(register_step, "hint", hint)
    monkeypatch.setattr(analyse_step, "hint", hint)
    return sent


def more(door: Door, study_uid: str, patient: str) -> None:
    sent = instance(StudyInstanceUID=study_uid, PatientID=patient)
    assert door(stow.store, *multipart(part10(sent))).status_code == 200


def versions(parts: Services, study_uid: str) -> str:
    stored = parts.fhir.read("ImagingStudy", resource_id(study_uid, "imaging-study"))
    assert stored is not None
    return str(stored["meta"]["versionId"])


@pytest.mark.requirement("D22", "I3")
def test_instances_that_keep_coming_are_registered_together(
    door: Door, parts: Services, hints: list[tuple[str, float]]
) -> None:
    study_uid = send(door, PatientID="settling")
    register(parts, study_uid)
    assert hints == [("analyses", 0)]
    more(door, study_uid, "settling")
    register(parts, study_uid)  # the second one goes at once too
    assert study_row(parts, study_uid)["version"] == 2
    hints.clear()
    for _ in range(6):
        more(door, study_uid, "settling")
        register(parts, study_uid)
    # one look in a while stands for all six hints
    assert [queue for queue, _ in hints] == ["studies"]
    assert 1 <= hints[0][1] <= 3
    assert study_row(parts, study_uid)["version"] == 2
    quiet(parts, study_uid)
    register(parts, study_uid)
    assert study_row(parts, study_uid)["version"] == 8
    assert versions(parts, study_uid) == "3"


def quiet(parts: Services, study_uid: str) -> None:
    """Let time pass: nothing has come for a while, and the delayed hint is due."""
    with unit_of_work(parts.pool) as connection:
        connection.execute(
            "UPDATE ledger.instance SET received_at = received_at - interval '6 s' WHERE study_uid = %s", (study_uid,)
        )
        connection.execute(
            "UPDATE ledger.study SET hinted_until = hinted_until - interval '6 s' WHERE study_uid = %s", (study_uid,)
        )


def test_a_study_that_was_quiet_for_long_begins_anew(door: Door, parts: Services) -> None:
    study_uid = send(door, PatientID="anew")
    for _ in range(4):
        register(parts, study_uid)
        more(door, study_uid, "anew")
        quiet(parts, study_uid)
    with unit_of_work(parts.pool) as connection:
        connection.execute(
            "UPDATE ledger.study SET register_after = now() - interval '31 s' WHERE study_uid = %s", (study_uid,)
        )
    more(door, study_uid, "anew")
    register(parts, study_uid)
    assert study_row(parts, study_uid)["burst"] == 1
    assert study_row(parts, study_uid)["version"] == 6


def test_a_growing_study_is_not_analysed_for_each_version(
    door: Door, parts: Services, ai: Ai, hints: list[tuple[str, float]]
) -> None:
    study_uid = send(door, PatientID="growing")
    register(parts, study_uid)
    analyse(parts, study_uid)
    assert len(ai.seen) == 1
    for _ in range(3):
        more(door, study_uid, "growing")
        register(parts, study_uid)
        analyse(parts, study_uid)
    assert len(ai.seen) == 1
    hints.clear()
    quiet(parts, study_uid)
    register(parts, study_uid)
    analyse(parts, study_uid)
    row = study_row(parts, study_uid)
    assert len(ai.seen) == 2
    assert (row["version"], row["analysed_version"]) == (4, 4)


def test_what_came_in_during_an_analysis_is_not_left_lying(
    door: Door, parts: Services, ai: Ai, hints: list[tuple[str, float]]
) -> None:
    study_uid = send(door, PatientID="meanwhile")
    register(parts, study_uid)
    hints.clear()
    answer = ai.answer

    def late(body: dict[str, Any]) -> dict[str, Any]:
        more(door, study_uid, "meanwhile")
        register(parts, study_uid)  # its hint: the study is taken
        return answer(body)

    ai.answer = late
    analyse(parts, study_uid)
    assert ("studies", 0) in hints


@pytest.mark.requirement("A1")
def test_one_sending_is_one_audit_event(door: Door, parts: Services) -> None:
    study_uid = send(door, PatientID="audited")
    for _ in range(3):
        register(parts, study_uid)
        more(door, study_uid, "audited")
        quiet(parts, study_uid)
    study = f"ImagingStudy/{resource_id(study_uid, 'imaging-study')}"
    with unit_of_work(parts.pool) as connection:
        found = connection.execute(
            "SELECT count(*) FROM ledger.audit_outbox WHERE event::text LIKE %s AND event ->> 'outcomeDesc' = %s",
            (f"%{study}%", "Image received"),
        ).fetchone()
    assert found == (1,)

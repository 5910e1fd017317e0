"""Register, analyse and sweep: level-triggered, harmless twice, patient with what is away."""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from fhir_adapter.client import FhirClient
from fhir_adapter.identity import resource_id
from imaging_core.database import unit_of_work
from imaging_core.errors import ImagingError, Permanent
from imaging_core.ledger import holds
from imaging_core.ledger import study as ledger
from imaging_core.ledger.counts import counts
from ingestion_functions import audit, stow, sweep
from ingestion_functions.analyse import analyse
from ingestion_functions.register import register
from ingestion_functions.services import Services
from tests.dicom_samples import instance, multipart, part10
from tests.ingestion_functions.conftest import Ai, Door


def study_row(parts: Services, study_uid: str) -> dict[str, Any]:
    with unit_of_work(parts.pool) as connection:
        cursor = connection.execute("SELECT to_jsonb(s) FROM ledger.study s WHERE study_uid = %s", (study_uid,))
        row = cursor.fetchone()
    assert row is not None
    found: dict[str, Any] = row[0]
    return found


def send(door: Door, **changes: Any) -> str:
    sent = instance(**changes)
    assert door(stow.store, *multipart(part10(sent))).status_code == 200
    return str(sent.StudyInstanceUID)


BALP = "https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit."


@pytest.mark.requirement("I1", "I2", "D22")
def test_registering_twice_writes_once(door: Door, parts: Services) -> None:
    study_uid = send(door)
    register(parts, study_uid)
    stored = parts.fhir.read("ImagingStudy", resource_id(study_uid, "imaging-study"))
    assert stored is not None
    register(parts, study_uid)
    assert parts.fhir.read("ImagingStudy", stored["id"]) == stored
    assert study_row(parts, study_uid)["version"] == 1


@pytest.mark.requirement("D22", "M10", "M11")
def test_a_later_instance_joins_the_study(door: Door, parts: Services) -> None:
    first = instance()
    door(stow.store, *multipart(part10(first)))
    study_uid = str(first.StudyInstanceUID)
    register(parts, study_uid)
    later = instance(StudyInstanceUID=study_uid, PatientID=first.PatientID)
    door(stow.store, *multipart(part10(later)))
    register(parts, study_uid)
    stored = parts.fhir.read("ImagingStudy", resource_id(study_uid, "imaging-study"))
    assert stored is not None
    assert (stored["numberOfSeries"], stored["numberOfInstances"]) == (2, 2)
    assert study_row(parts, study_uid)["version"] == 2


@pytest.mark.requirement("D16", "P4")
def test_two_patients_in_one_study_are_held(door: Door, parts: Services) -> None:
    first = instance()
    study_uid = str(first.StudyInstanceUID)
    door(stow.store, *multipart(part10(first), part10(instance(StudyInstanceUID=study_uid, PatientID="another"))))
    register(parts, study_uid)
    assert study_row(parts, study_uid)["hold_reason"] == "patient-conflict"
    assert parts.fhir.read("ImagingStudy", resource_id(study_uid, "imaging-study")) is None


@pytest.mark.requirement("D18", "P4")
def test_an_empty_patient_id_is_held_not_lost(door: Door, parts: Services) -> None:
    study_uid = send(door, PatientID="")
    register(parts, study_uid)
    assert study_row(parts, study_uid)["hold_reason"] == "patient-id-empty"


@pytest.mark.requirement("P3")
def test_policy_hold_makes_no_patient(door: Door, parts: Services) -> None:
    study_uid = send(door)
    strict = replace(parts, settings=parts.settings.model_copy(update={"patient_match": "hold"}))
    register(strict, study_uid)
    assert study_row(parts, study_uid)["hold_reason"] == "patient-not-found"


def test_one_worker_at_a_time(door: Door, parts: Services) -> None:
    study_uid = send(door)
    with unit_of_work(parts.pool) as connection:
        assert ledger.claim(connection, study_uid) is not None
        with unit_of_work(parts.pool) as other:
            assert ledger.claim(other, study_uid) is None
        # a late instance is taken in all the same while the study is being worked on
        late = instance(StudyInstanceUID=study_uid)
        with ThreadPoolExecutor(1) as thread:
            future = thread.submit(door, stow.store, *multipart(part10(late)))
            assert future.result(timeout=20).status_code == 200


def test_an_examination_without_model_ends_there(door: Door, parts: Services, ai: Ai) -> None:
    study_uid = send(door)
    register(parts, study_uid)
    analyse(parts, study_uid)
    row = study_row(parts, study_uid)
    assert (row["version"], row["analysed_version"]) == (1, 1)
    with unit_of_work(parts.pool) as connection:
        found = connection.execute(
            "SELECT state, reason FROM ledger.analysis WHERE study_uid = %s", (study_uid,)
        ).fetchall()
    assert found == [("no_model", "no-model")]
    analyse(parts, study_uid)
    assert len(ai.seen) == 1


@pytest.mark.parametrize("status", [429, 500, 503, 409])
def test_an_ai_that_is_away_postpones(door: Door, parts: Services, ai: Ai, status: int) -> None:
    study_uid = send(door)
    register(parts, study_uid)
    ai.status, ai.headers = status, {"Retry-After": "7"}
    analyse(parts, study_uid)
    row = study_row(parts, study_uid)
    assert (row["tries"], row["failed_at"], row["analysed_version"]) == (1, None, 0)
    assert row["next_try_at"] is not None
    ai.status = 200
    analyse(parts, study_uid)
    assert study_row(parts, study_uid)["analysed_version"] == 1


def test_a_refusal_needs_a_person_and_redrive_sends_it_back(door: Door, parts: Services, ai: Ai) -> None:
    study_uid = send(door)
    register(parts, study_uid)
    ai.status = 400
    analyse(parts, study_uid)
    row = study_row(parts, study_uid)
    assert row["failed_at"] is not None
    assert row["last_error"].startswith("ai-refused")
    ai.status = 200
    with unit_of_work(parts.pool) as connection:
        assert ledger.redrive(connection, study_uid) == [study_uid]
    analyse(parts, study_uid)
    assert study_row(parts, study_uid)["failed_at"] is None


@pytest.mark.requirement("I4")
def test_a_fhir_service_that_is_away_postpones(door: Door, parts: Services) -> None:
    study_uid = send(door)
    with FhirClient("http://127.0.0.1:9/fhir", timeout=1) as away:
        register(replace(parts, fhir=away), study_uid)
    row = study_row(parts, study_uid)
    assert (row["tries"], row["version"], row["failed_at"]) == (1, 0, None)
    register(parts, study_uid)
    assert study_row(parts, study_uid)["version"] == 1


def test_the_sweep_finds_what_lost_its_hint(door: Door, parts: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    study_uid = send(door)
    hinted: list[tuple[str, str]] = []
    monkeypatch.setattr(sweep, "services", lambda: parts)
    monkeypatch.setattr(sweep, "hint", lambda _parts, queue, uid: hinted.append((queue, uid)))
    with unit_of_work(parts.pool) as connection:
        connection.execute(
            "UPDATE ledger.instance SET received_at = now() - interval '1 hour' WHERE study_uid = %s", (study_uid,)
        )
    sweep.sweep()
    assert ("studies", study_uid) in hinted
    register(parts, study_uid)
    with unit_of_work(parts.pool) as connection:
        connection.execute(
            "UPDATE ledger.study SET registered_at = now() - interval '1 hour' WHERE study_uid = %s", (study_uid,)
        )
    hinted.clear()
    sweep.sweep()
    assert ("studies", study_uid) not in hinted
    assert ("analyses", study_uid) in hinted


@pytest.mark.requirement("A1", "A2")
def test_the_acts_are_audited_and_delivered_once(
    door: Door, parts: Services, ai: Ai, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_uid = send(door)
    register(parts, study_uid)
    analyse(parts, study_uid)
    with FhirClient("http://127.0.0.1:9/fhir", timeout=1) as away, pytest.raises(ImagingError):
        audit.deliver(replace(parts, fhir=away))
    assert audit.deliver(parts) >= 2
    assert audit.deliver(parts) == 0
    study = f"ImagingStudy/{resource_id(study_uid, 'imaging-study')}"
    found = {
        event["outcomeDesc"]: event
        for event in parts.fhir.search("AuditEvent", {"_count": "200"})
        if any(entity.get("what", {}).get("reference") == study for entity in event["entity"])
    }
    assert sorted(found) == ["Image received", "Study analysed by a model"]
    for event in found.values():
        assert event["meta"]["profile"] == [f"{BALP}PatientCreate"]
        assert all(agent["network"]["address"] for agent in event["agent"] if "network" in agent)


def test_the_counts_add_up(door: Door, parts: Services) -> None:
    study_uid = send(door)
    register(parts, study_uid)
    with unit_of_work(parts.pool) as connection:
        found = counts(connection)
    outcomes = ("accepted", "duplicate", "rejected", "quarantined", "held")
    assert found["deliveries"] == sum(found[name] for name in outcomes)
    json.dumps(found)


@pytest.mark.requirement("P4", "P5")
def test_a_person_links_a_held_study_and_it_flows_on(door: Door, parts: Services) -> None:
    target = parts.fhir.update({"resourceType": "Patient", "id": uuid.uuid4().hex, "name": [{"family": "Chosen"}]})
    study_uid = send(door, PatientID="")
    register(parts, study_uid)
    assert study_row(parts, study_uid)["hold_reason"] == "patient-id-empty"
    with unit_of_work(parts.pool) as connection:
        holds.resolve(connection, study_uid, "link", who="admin", subject=f"Patient/{target['id']}", reason="called")
    register(parts, study_uid)
    row = study_row(parts, study_uid)
    assert (row["hold_reason"], row["subject"]) == (None, f"Patient/{target['id']}")
    after = parts.fhir.read("Patient", target["id"])
    assert after is not None
    assert after["meta"]["versionId"] == target["meta"]["versionId"]


@pytest.mark.requirement("P4")
def test_a_rejected_study_stays_stored_and_is_never_linked(door: Door, parts: Services) -> None:
    study_uid = send(door, PatientID="")
    register(parts, study_uid)
    with unit_of_work(parts.pool) as connection:
        holds.resolve(connection, study_uid, "reject", who="admin", reason="test image")
        assert study_uid not in {row["study_uid"] for row in holds.held(connection)}
        decided = holds.latest(connection, study_uid)
    assert decided is not None
    assert (decided.action, decided.who, decided.reason) == ("reject", "admin", "test image")
    register(parts, study_uid)
    assert study_row(parts, study_uid)["version"] == 0
    with unit_of_work(parts.pool) as connection:
        states = connection.execute("SELECT state FROM ledger.delivery WHERE study_uid = %s", (study_uid,)).fetchall()
        blob = connection.execute("SELECT blob FROM ledger.instance WHERE study_uid = %s", (study_uid,)).fetchone()
    assert states == [("rejected",)]
    assert blob is not None
    assert parts.blobs.exists("images", blob[0])


@pytest.mark.requirement("P4")
def test_only_held_studies_are_resolved(door: Door, parts: Services) -> None:
    study_uid = send(door)
    with unit_of_work(parts.pool) as connection, pytest.raises(Permanent, match="not on the hold list"):
        holds.resolve(connection, study_uid, "create", who="admin")


def test_each_model_that_looked_has_its_row(door: Door, parts: Services, ai: Ai) -> None:
    def answer(body: dict[str, Any]) -> dict[str, Any]:
        def of(task: str, **more: Any) -> dict[str, Any]:
            return {"task": task, "model": f"{task}:1.0.0", "not_analysed": [], "findings": [], "resources": [], **more}

        both = [
            of("chest", findings=[{"code": "x"}], resources=["DiagnosticReport/one"]),
            of("bones", not_analysed=[{"sop_uid": "1", "reason": "not-frontal"}], resources=["DiagnosticReport/two"]),
        ]
        return {**both[0], "resources": ["DiagnosticReport/one", "DiagnosticReport/two"], "analyses": both}

    ai.answer = answer
    study_uid = send(door)
    register(parts, study_uid)
    analyse(parts, study_uid)
    with unit_of_work(parts.pool) as connection:
        rows = connection.execute(
            "SELECT task, state, model, report FROM ledger.analysis WHERE study_uid = %s ORDER BY task", (study_uid,)
        ).fetchall()
    assert rows == [
        ("bones", "not_analysed", "bones:1.0.0", "DiagnosticReport/two"),
        ("chest", "analysed", "chest:1.0.0", "DiagnosticReport/one"),
    ]

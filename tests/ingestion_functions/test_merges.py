"""Patients that are merged on the server: studies and open reports follow by themselves, history stays."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from fhir_adapter.client import FhirClient
from fhir_adapter.diagnostic_report import report_id
from fhir_adapter.identity import resource_id
from fhir_adapter.results import publish
from imaging_core.database import unit_of_work
from imaging_core.errors import Retryable
from imaging_core.ledger import act, holds, watermark
from imaging_core.ledger import study as ledger
from ingestion_functions import merges
from ingestion_functions.analyse import analyse
from ingestion_functions.register import register
from ingestion_functions.services import Services
from tests.fhir_adapter import analyses
from tests.ingestion_functions.conftest import Ai, Door
from tests.ingestion_functions.test_holds import chart
from tests.ingestion_functions.test_steps import send, study_row

AT_ONCE = timedelta(0)


def merge(parts: Services, old: dict[str, Any], into: dict[str, Any]) -> None:
    """Merge a Patient into another as a server's operation leaves them."""
    parts.fhir.update(
        {**old, "active": False, "link": [{"type": "replaced-by", "other": {"reference": f"Patient/{into['id']}"}}]}
    )
    parts.fhir.update({**into, "link": [{"type": "replaces", "other": {"reference": f"Patient/{old['id']}"}}]})


def subject(parts: Services, type_: str, id_: str) -> str:
    stored = parts.fhir.read(type_, id_)
    assert stored is not None
    return str(stored["subject"]["reference"])


@pytest.fixture(autouse=True)
def looked(parts: Services) -> None:
    """Begin with everything looked at."""
    merges.follow_merges(parts, every=AT_ONCE)


@pytest.fixture
def publishing(parts: Services, ai: Ai) -> Ai:
    """The AI's place publishes a finding as the true one does."""

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        header = parts.decoder.header(parts.blobs.get("images", body["instances"][0]["blob"])).attributes
        said = publish(parts.fhir, analyses.result(header, analyses.finding()))
        return {
            "study_uid": body["study_uid"],
            "task": "chest-opacity",
            "model": {"name": "chest-opacity", "version": "1.0.0"},
            "findings": [{"code": "RID28530", "state": "present"}],
            "not_analysed": [],
            "resources": list(said.resources),
        }

    ai.answer = answer
    return ai


@pytest.mark.requirement("D23", "P6")
def test_a_merge_moves_study_and_open_report(door: Door, parts: Services, publishing: Ai) -> None:
    number = uuid.uuid4().hex[:12]
    old, new = chart(parts, number), chart(parts, uuid.uuid4().hex[:12])
    study_uid = send(door, PatientID=number, Modality="DX")
    register(parts, study_uid)
    analyse(parts, study_uid)
    study, report = resource_id(study_uid, "imaging-study"), report_id(study_uid, "chest-opacity", 0)
    assert subject(parts, "ImagingStudy", study) == subject(parts, "DiagnosticReport", report) == f"Patient/{old['id']}"
    merge(parts, old, new)
    assert merges.follow_merges(parts, every=AT_ONCE) == 1
    analyse(parts, study_uid)  # its hint
    survivor = f"Patient/{new['id']}"
    assert subject(parts, "ImagingStudy", study) == survivor
    assert subject(parts, "DiagnosticReport", report) == survivor
    assert study_row(parts, study_uid)["subject"] == survivor
    # history tells where it was
    first = parts.fhir.vread("ImagingStudy", study, "1")
    assert first is not None
    assert first["subject"]["reference"] == f"Patient/{old['id']}"
    with unit_of_work(parts.pool) as connection:
        (moved,) = [item for item in act.acts_of(connection, study_uid) if item["kind"] == "relinked"]
    assert moved["detail"] == {"before": f"Patient/{old['id']}", "subject": survivor}
    # a second look finds nothing to do
    stored = parts.fhir.read("ImagingStudy", study)
    merges.follow_merges(parts, every=AT_ONCE)
    assert parts.fhir.read("ImagingStudy", study) == stored
    assert study_row(parts, study_uid)["analysed_version"] == 1


@pytest.mark.requirement("D23", "P6")
def test_a_study_that_a_person_linked_follows_too(door: Door, parts: Services) -> None:
    old, new = chart(parts, uuid.uuid4().hex[:12]), chart(parts, uuid.uuid4().hex[:12])
    study_uid = send(door, PatientID="")
    register(parts, study_uid)
    with unit_of_work(parts.pool) as connection:
        holds.resolve(connection, study_uid, "link", who="admin", subject=f"Patient/{old['id']}")
    register(parts, study_uid)
    merge(parts, old, new)
    merges.follow_merges(parts, every=AT_ONCE)
    assert study_row(parts, study_uid)["subject"] == f"Patient/{new['id']}"
    assert subject(parts, "ImagingStudy", resource_id(study_uid, "imaging-study")) == f"Patient/{new['id']}"


@pytest.mark.requirement("P6")
def test_the_look_is_one_search_every_few_minutes(parts: Services) -> None:
    calls: list[str] = []

    class Counting(FhirClient):
        def _call(self, method: Any, path: str, **options: Any) -> Any:
            calls.append(path)
            return super()._call(method, path, **options)

    settings = parts.settings
    with Counting(settings.fhir_base_url, parts.fhir._tokens) as fhir:
        watched = replace(parts, fhir=fhir)
        assert merges.follow_merges(watched) == 0
        assert calls == []
        with unit_of_work(parts.pool) as connection:
            last = watermark.read(connection, "merges")
            assert last is not None
            watermark.write(connection, "merges", last - timedelta(minutes=6))
        merges.follow_merges(watched)
    assert {path for path in calls if "next" not in path} <= {"Patient/_search"}


@pytest.mark.requirement("P6")
def test_the_first_look_is_at_every_patient_of_the_ledger(door: Door, parts: Services) -> None:
    number = uuid.uuid4().hex[:12]
    old, new = chart(parts, number), chart(parts, uuid.uuid4().hex[:12])
    study_uid = send(door, PatientID=number)
    register(parts, study_uid)
    merge(parts, old, new)
    with unit_of_work(parts.pool) as connection:  # as after a rebuild
        connection.execute("UPDATE ledger.watermark SET name = 'before' WHERE name = 'merges'")
    assert merges.follow_merges(parts) >= 1
    assert study_row(parts, study_uid)["subject"] == f"Patient/{new['id']}"
    with unit_of_work(parts.pool) as connection:
        connection.execute("UPDATE ledger.watermark SET name = 'gone' WHERE name = 'before'")


@pytest.mark.requirement("P6", "I4")
def test_a_look_that_failed_or_met_a_busy_study_is_done_again(door: Door, parts: Services) -> None:
    number = uuid.uuid4().hex[:12]
    old, new = chart(parts, number), chart(parts, uuid.uuid4().hex[:12])
    study_uid = send(door, PatientID=number)
    register(parts, study_uid)
    merge(parts, old, new)
    with FhirClient("http://127.0.0.1:9/fhir", timeout=1) as away, pytest.raises(Retryable):
        merges.follow_merges(replace(parts, fhir=away), every=AT_ONCE)
    with unit_of_work(parts.pool) as connection:
        assert ledger.claim(connection, study_uid) is not None
        merges.follow_merges(parts, every=AT_ONCE)
    assert study_row(parts, study_uid)["subject"] == f"Patient/{old['id']}"
    merges.follow_merges(parts, every=AT_ONCE)
    assert study_row(parts, study_uid)["subject"] == f"Patient/{new['id']}"


@pytest.mark.requirement("P6")
def test_a_new_image_after_a_merge_goes_to_the_survivor(door: Door, parts: Services) -> None:
    number = uuid.uuid4().hex[:12]
    old, new = chart(parts, number), chart(parts, uuid.uuid4().hex[:12])
    study_uid = send(door, PatientID=number)
    register(parts, study_uid)
    merge(parts, old, new)
    send(door, PatientID=number, StudyInstanceUID=study_uid)
    register(parts, study_uid)
    row = study_row(parts, study_uid)
    assert (row["subject"], row["version"], row["hold_reason"]) == (f"Patient/{new['id']}", 2, None)

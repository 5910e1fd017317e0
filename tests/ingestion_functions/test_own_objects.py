"""SR and capture of an analysis join their study: stored, registered, and never a reason to analyse again."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import Comprehensive3DSRStorage, SecondaryCaptureImageStorage, generate_uid

from fhir_adapter.identity import resource_id
from imaging_core.database import unit_of_work
from imaging_core.ledger.counts import counts
from ingestion_functions import stow
from ingestion_functions.analyse import analyse
from ingestion_functions.register import register
from ingestion_functions.services import Services
from tests.dicom_samples import instance, multipart, part10
from tests.ingestion_functions.conftest import Ai, Door
from tests.ingestion_functions.test_settling import quiet
from tests.ingestion_functions.test_steps import study_row

pytestmark = pytest.mark.requirement("R8")


def made(source: Dataset, sop_class: str, **changes: Any) -> bytes:
    """Return an object as the AI container makes it of a source image."""
    item = Dataset()
    item.Manufacturer = "imaging"
    like = {"StudyInstanceUID": source.StudyInstanceUID, "PatientID": source.PatientID, "SOPClassUID": sop_class}
    found = instance(**{**like, "ContributingEquipmentSequence": [item], **changes})
    if sop_class == Comprehensive3DSRStorage:
        for keyword in ("PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"):
            delattr(found, keyword)
        found.Modality = "SR"
    return part10(found)


@pytest.fixture
def source(door: Door, parts: Services) -> Dataset:
    """A registered radiograph."""
    sent = instance(Modality="DX")
    assert door(stow.store, *multipart(part10(sent))).status_code == 200
    register(parts, str(sent.StudyInstanceUID))
    return sent


def answering(parts: Services, ai: Ai, source: Dataset, files: dict[str, bytes]) -> None:
    """Let the AI's place leave these files and name them."""
    folder = f"{source.StudyInstanceUID}/chest/0"
    for name, data in files.items():
        parts.blobs.put("results", f"{folder}/{name}", data)
    ai.answer = lambda body: {
        "study_uid": body["study_uid"],
        "task": "chest",
        "model": {"name": "chest", "version": "1"},
        "findings": [{"code": "opacity", "state": "present"}],
        "not_analysed": [],
        "artifacts": {name: f"results/{folder}/{name}" for name in files},
        "resources": [],
    }


def instances(parts: Services, study_uid: str) -> list[tuple[bool, bool, str]]:
    with unit_of_work(parts.pool) as connection:
        return connection.execute(
            "SELECT own, registered, client FROM ledger.instance WHERE study_uid = %s ORDER BY own", (study_uid,)
        ).fetchall()


def test_sr_and_capture_join_the_study_and_start_nothing(door: Door, parts: Services, ai: Ai, source: Dataset) -> None:
    study_uid = str(source.StudyInstanceUID)
    with unit_of_work(parts.pool) as connection:
        before = counts(connection)
    files = {
        "sr.dcm": made(source, Comprehensive3DSRStorage),
        "sc.dcm": made(source, SecondaryCaptureImageStorage, Modality="OT"),
    }
    answering(parts, ai, source, files)
    analyse(parts, study_uid)
    register(parts, study_uid)  # its hint
    assert instances(parts, study_uid) == [
        (False, True, "developer"),
        (True, True, "imaging"),
        (True, True, "imaging"),
    ]
    stored = parts.fhir.read("ImagingStudy", resource_id(study_uid, "imaging-study"))
    assert stored is not None
    assert (stored["numberOfInstances"], stored["numberOfSeries"]) == (3, 3)
    row = study_row(parts, study_uid)
    assert (row["version"], row["analysed_version"]) == (1, 1)
    # looked at again they start nothing, and nothing is written
    analyse(parts, study_uid)
    register(parts, study_uid)
    assert len(ai.seen) == 1
    assert parts.fhir.read("ImagingStudy", stored["id"]) == stored
    # they are nobody's delivery: what others sent still adds up
    with unit_of_work(parts.pool) as connection:
        after = counts(connection)
        blob = connection.execute(
            "SELECT blob FROM ledger.instance WHERE study_uid = %s AND own LIMIT 1", (study_uid,)
        ).fetchone()
    assert after["deliveries"] == before["deliveries"]
    assert after["registered"] == before["registered"]
    assert after["analysed"] == before["analysed"] + 1
    assert blob is not None
    assert parts.blobs.get("images", blob[0]) in files.values()


@pytest.mark.requirement("D14")
def test_sent_back_by_a_pacs_they_are_duplicates(door: Door, parts: Services, ai: Ai, source: Dataset) -> None:
    study_uid = str(source.StudyInstanceUID)
    data = made(source, SecondaryCaptureImageStorage)
    answering(parts, ai, source, {"sc.dcm": data})
    analyse(parts, study_uid)
    register(parts, study_uid)
    assert door(stow.store, *multipart(data)).status_code == 200
    register(parts, study_uid)
    analyse(parts, study_uid)
    assert len(ai.seen) == 1
    with unit_of_work(parts.pool) as connection:
        found = connection.execute(
            "SELECT outcome FROM ledger.intake WHERE study_uid = %s ORDER BY sequence", (study_uid,)
        ).fetchall()
    assert found == [("accepted",), ("duplicate",)]


def test_a_later_image_is_analysed_again_and_adds_another_object(
    door: Door, parts: Services, ai: Ai, source: Dataset
) -> None:
    study_uid = str(source.StudyInstanceUID)
    answering(parts, ai, source, {"sr.dcm": made(source, Comprehensive3DSRStorage)})
    analyse(parts, study_uid)
    register(parts, study_uid)
    late = instance(StudyInstanceUID=study_uid, PatientID=source.PatientID, Modality="DX")
    assert door(stow.store, *multipart(part10(late))).status_code == 200
    register(parts, study_uid)
    assert study_row(parts, study_uid)["version"] == 2
    quiet(parts, study_uid)
    answering(parts, ai, source, {"sr.dcm": made(source, Comprehensive3DSRStorage)})
    analyse(parts, study_uid)
    register(parts, study_uid)
    row = study_row(parts, study_uid)
    assert (row["version"], row["analysed_version"]) == (2, 2)
    # the first one stays: no object is ever altered
    assert [own for own, _, _ in instances(parts, study_uid)] == [False, False, True, True]
    assert all("sr" not in item["blob"] for item in ai.seen[-1]["instances"])
    assert len(ai.seen[-1]["instances"]) == 2


def test_what_is_not_of_this_study_or_not_ours_stays_out(parts: Services, ai: Ai, source: Dataset) -> None:
    study_uid = str(source.StudyInstanceUID)
    files = {
        "sr.dcm": made(source, Comprehensive3DSRStorage, StudyInstanceUID=generate_uid()),
        "sc.dcm": made(source, SecondaryCaptureImageStorage, ContributingEquipmentSequence=[]),
    }
    answering(parts, ai, source, files)
    analyse(parts, study_uid)
    assert len(instances(parts, study_uid)) == 1
    assert study_row(parts, study_uid)["analysed_version"] == 1


def test_an_artifact_that_is_missing_postpones(parts: Services, ai: Ai, source: Dataset) -> None:
    study_uid = str(source.StudyInstanceUID)
    data = made(source, SecondaryCaptureImageStorage)
    answering(parts, ai, source, {"sc.dcm": data})
    parts.blobs.delete("results", f"{study_uid}/chest/0/sc.dcm")
    analyse(parts, study_uid)
    row = study_row(parts, study_uid)
    assert (row["tries"], row["analysed_version"], row["failed_at"]) == (1, 0, None)
    parts.blobs.put("results", f"{study_uid}/chest/0/sc.dcm", data)
    analyse(parts, study_uid)
    assert len(instances(parts, study_uid)) == 2

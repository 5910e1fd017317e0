from __future__ import annotations

import uuid

import pytest

from fhir_adapter.identity import (
    IMAGING_STUDY,
    device_id,
    dicom_uid,
    endpoint_id,
    media_role,
    observation_role,
    patient_id,
    provenance_role,
    report_role,
    resource_id,
)

UID = "1.2.840.113619.2.55"
WRITTEN_DOWN = [
    "d7419e4c-991e-5614-8241-3d5211c2c96d",
    "5224360f-8917-57ec-a66d-c81fb7b30a26",
    "66c3c17a-904d-58d2-8106-6301df33a8e4",
    "3adad4e8-795d-52d9-bd62-769fca8f423f",
    "ae0413df-f0e2-5029-8624-035b9c5f6a35",
    "1b3e7780-c6a5-5e41-8b3d-9c4fcd3325e0",
    "959ec34b-3a76-57e8-9987-1122bc03c011",
    "31bf9aed-e5d9-5adc-b83e-a128c69f5ee6",
    "4b911162-9745-5c05-b23d-71d1ffdac442",
    "e1db3608-4acf-566b-9ff7-8094b5500fe7",
    "ccada3d2-4b5f-534f-898c-bf27c09da082",
]


@pytest.mark.requirement("I1")
def test_an_id_is_the_same_for_ever() -> None:
    # written down, for a change would orphan every resource that was ever written
    assert resource_id(UID, IMAGING_STUDY) == "dee99514-2d14-5473-925a-24c7ed09b105"
    assert uuid.UUID(resource_id(UID, report_role("chest-opacity"), 1)).version == 5
    task = "chest-opacity"
    roles = (report_role(task), observation_role(task, "lung-opacity"), provenance_role(task), media_role(task))
    ids = [resource_id(UID, role, revision) for role in roles for revision in (0, 1)]
    ids += [patient_id("urn:oid:1.2.3", "4711"), endpoint_id("https://app.example/dicomweb"), device_id(task, "1.0.0")]
    assert ids == WRITTEN_DOWN
    assert dicom_uid(UID, "sr:x", 0) == f"2.25.{uuid.UUID(resource_id(UID, 'sr:x', 0)).int}"


@pytest.mark.requirement("I1")
def test_ids_differ_by_study_role_and_revision() -> None:
    roles = [IMAGING_STUDY, report_role("a"), report_role("b"), observation_role("a", "x"), observation_role("a", "y")]
    ids = {resource_id(study, role, revision) for study in (UID, f"{UID}.1") for role in roles for revision in (0, 1)}
    assert len(ids) == 2 * len(roles) * 2

from __future__ import annotations

import uuid

import pytest

from fhir_adapter.identity import IMAGING_STUDY, observation_role, report_role, resource_id

UID = "1.2.840.113619.2.55"


@pytest.mark.requirement("I1")
def test_an_id_is_the_same_for_ever() -> None:
    # written down, for a change would orphan every resource that was ever written
    assert resource_id(UID, IMAGING_STUDY) == "dee99514-2d14-5473-925a-24c7ed09b105"
    assert uuid.UUID(resource_id(UID, report_role("chest-opacity"), 1)).version == 5


@pytest.mark.requirement("I1")
def test_ids_differ_by_study_role_and_revision() -> None:
    roles = [IMAGING_STUDY, report_role("a"), report_role("b"), observation_role("a", "x"), observation_role("a", "y")]
    ids = {resource_id(study, role, revision) for study in (UID, f"{UID}.1") for role in roles for revision in (0, 1)}
    assert len(ids) == 2 * len(roles) * 2

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from pydicom import dcmread

from ai_container.analyser import Analyser
from ai_container.bundle import Scope
from ai_container.gate import (
    CERTAIN_LIMIT,
    CERTAIN_MARGIN,
    UNSURE_LIMIT,
    Verdict,
    confirms,
    may_be_corrected,
    refuse_by_header,
    refuse_by_pixels,
)
from ai_container.header_facts import ImageFacts
from ai_container.image_analysis import Timings
from ai_container.registry import Registry
from tests.ai_container.conftest import changed, sample

SCOPE = Scope(frozenset({"CR", "DX"}), frozenset({"chest"}), frozenset({"frontal"}), 16, 121)
GOOD = ImageFacts(modality="DX", body_part="chest", view="frontal", age_years=60)
NEAR = Verdict(distance=0.5, pose="upright", margin=1.0)


@pytest.mark.requirement("R3")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"modality": "CR"}, ""),
        ({"body_part": None, "view": None}, ""),
        ({"modality": "MG"}, "no-model"),
        ({"modality": "CT"}, "no-model"),
        ({"modality": "MR"}, "no-model"),
        ({"modality": ""}, "no-model"),
        ({"image_class": False}, "no-model"),
        ({"body_part": "other"}, "no-model"),
        ({"body_part": "other", "age_years": 5}, "no-model"),
        ({"view": "lateral"}, "not-frontal"),
        ({"age_years": None}, "age-unknown"),
        ({"age_years": 15.9}, "child"),
        ({"age_years": 16}, ""),
        ({"age_years": 3}, "child"),
        ({"for_processing": True}, "out-of-distribution"),
        ({"frames": 2}, "out-of-distribution"),
        ({"turned": True}, "rotated"),
    ],
)
def test_header(change: dict[str, object], reason: str) -> None:
    facts = dataclasses.replace(GOOD, **change)  # type: ignore[arg-type]  # a table of any fields
    assert refuse_by_header(SCOPE, facts) == reason


def test_assume_adult_answers_for_an_unknown_age_only() -> None:
    assert refuse_by_header(SCOPE, dataclasses.replace(GOOD, age_years=None), assume_adult=True) == ""
    assert refuse_by_header(SCOPE, dataclasses.replace(GOOD, age_years=3), assume_adult=True) == "child"


@pytest.mark.requirement("R3")
@pytest.mark.parametrize(
    ("verdict", "facts", "reason"),
    [
        (NEAR, GOOD, ""),
        (dataclasses.replace(NEAR, distance=CERTAIN_LIMIT + 0.1), GOOD, "out-of-distribution"),
        (dataclasses.replace(NEAR, distance=UNSURE_LIMIT + 0.1), GOOD, ""),
        (
            dataclasses.replace(NEAR, distance=UNSURE_LIMIT + 0.1),
            dataclasses.replace(GOOD, view=None),
            "out-of-distribution",
        ),
        (dataclasses.replace(NEAR, pose="inverted"), GOOD, "inverted"),
        (dataclasses.replace(NEAR, pose="turned-180"), GOOD, "rotated"),
    ],
)
def test_pixels(verdict: Verdict, facts: ImageFacts, reason: str) -> None:
    assert refuse_by_pixels(verdict, facts) == reason


def outcome(analyser: Analyser, data: bytes) -> str:
    """Return the reason, or the state."""
    analysis = analyser.preview_dicom(data, None, Timings())
    return analysis.not_analysed[0][1] if analysis.not_analysed else analysis.findings[0].state


@pytest.mark.requirement("R3", "D25")
def test_chest_radiograph_of_an_adult_is_analysed(analyser: Analyser, chest: bytes) -> None:
    """RG1 shows large nodules in both lungs: whatever is said of it, it is not nothing."""
    assert outcome(analyser, chest) in ("present", "indeterminate")


@pytest.mark.requirement("R3")
@pytest.mark.parametrize("name", ["RG3_UNCR.dcm", "RG3_J2KR.dcm", "MR2_UNCR.dcm", "CT_small.dcm", "US1_UNCR.dcm"])
def test_other_examinations_have_no_model(analyser: Analyser, name: str) -> None:
    assert outcome(analyser, sample(name)) == "no-model"


@pytest.mark.requirement("R3")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ViewPosition": "LL"}, "not-frontal"),
        ({"PatientBirthDate": "19980305"}, "child"),
        ({"PatientAge": "003Y"}, "child"),
        ({"PatientBirthDate": ""}, "age-unknown"),
        ({"Modality": "MG"}, "no-model"),
    ],
)
def test_chest_radiograph_with_another_header(
    analyser: Analyser, chest: bytes, change: dict[str, object], reason: str
) -> None:
    assert outcome(analyser, changed(chest, **change)) == reason


@pytest.mark.requirement("R3")
def test_a_leg_without_a_body_part_is_told_by_its_pixels(analyser: Analyser) -> None:
    leg = changed(
        sample("RG3_UNCR.dcm"), BodyPartExamined="", StudyDescription="", ViewPosition="", PatientBirthDate="19400101"
    )
    assert outcome(analyser, leg) == "out-of-distribution"


def test_a_leg_called_chest_is_told_by_its_pixels(analyser: Analyser) -> None:
    leg = changed(
        sample("RG3_UNCR.dcm"),
        BodyPartExamined="CHEST",
        StudyDescription="",
        ViewPosition="PA",
        PatientBirthDate="19400101",
    )
    assert outcome(analyser, leg) == "out-of-distribution"


def test_a_chest_without_a_body_part_is_told_by_its_pixels(analyser: Analyser, chest: bytes) -> None:
    bare = changed(chest, BodyPartExamined="", StudyDescription="", ViewPosition="", PatientOrientation=None)
    assert outcome(analyser, bare) in ("present", "indeterminate")


def quarter_turned(chest: bytes, quarter: int, **attributes: object) -> bytes:
    """Return the chest turned by quarters, without an orientation in its header."""
    dataset = dcmread(io.BytesIO(chest))
    pixels = np.ascontiguousarray(np.rot90(dataset.pixel_array, quarter))
    return changed(
        chest,
        PixelData=pixels.tobytes(),
        Rows=pixels.shape[0],
        Columns=pixels.shape[1],
        **{"PatientOrientation": None, **attributes},
    )


@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_a_chest_that_is_turned_beyond_doubt_is_analysed_as_it_would_lie(
    analyser: Analyser, chest: bytes, quarter: int
) -> None:
    """The score is the upright image's, and the map lies on the image as it is stored."""
    upright = analyser.preview_dicom(chest, None, Timings())
    turned = analyser.preview_dicom(quarter_turned(chest, quarter), None, Timings())
    assert turned.images[0].corrected == f"turned-{90 * quarter}"
    assert turned.findings[0].probability == pytest.approx(upright.findings[0].probability, abs=5e-3)
    assert turned.key_image is not None
    assert upright.key_image is not None
    straight = np.rot90(turned.key_image.score.strength, -quarter)
    assert np.abs(straight - upright.key_image.score.strength).max() < 0.03


def test_an_inverted_chest_is_analysed_as_it_should_be_shown(analyser: Analyser, chest: bytes) -> None:
    upright = analyser.preview_dicom(chest, None, Timings())
    wrong = analyser.preview_dicom(changed(chest, PhotometricInterpretation="MONOCHROME2"), None, Timings())
    assert wrong.images[0].corrected == "inverted"
    assert wrong.findings[0].probability == pytest.approx(upright.findings[0].probability, abs=5e-3)


def test_pixels_that_contradict_the_header_s_orientation_are_refused(analyser: Analyser, chest: bytes) -> None:
    assert outcome(analyser, quarter_turned(chest, 2, PatientOrientation=["L", "F"])) == "rotated"


@pytest.mark.parametrize(
    ("verdict", "facts", "tried"),
    [
        (Verdict(0.5, "turned-90", CERTAIN_MARGIN + 0.01), GOOD, True),
        (Verdict(0.5, "turned-90", CERTAIN_MARGIN - 0.01), GOOD, False),
        (Verdict(0.5, "upright", 2.0), GOOD, False),
        (Verdict(CERTAIN_LIMIT + 0.1, "inverted", 2.0), GOOD, False),
        (Verdict(0.5, "inverted", 2.0), dataclasses.replace(GOOD, orientation_known=True), True),
        (Verdict(0.5, "turned-180", 2.0), dataclasses.replace(GOOD, orientation_known=True), False),
    ],
)
def test_only_a_pose_beyond_doubt_is_corrected(verdict: Verdict, facts: ImageFacts, tried: bool) -> None:
    assert may_be_corrected(verdict, facts) is tried


def test_a_correction_must_look_like_a_plain_chest_radiograph() -> None:
    assert confirms(Verdict(UNSURE_LIMIT, "upright", CERTAIN_MARGIN))
    assert not confirms(Verdict(UNSURE_LIMIT, "turned-90", CERTAIN_MARGIN))
    assert not confirms(Verdict(UNSURE_LIMIT, "upright", CERTAIN_MARGIN - 0.01))
    assert not confirms(Verdict(UNSURE_LIMIT + 0.01, "upright", CERTAIN_MARGIN))


def test_every_bundle_of_the_package_serves_adults_only(registry: Registry) -> None:
    assert all(bundle.scope.least_age >= 16 for bundle in registry.active())

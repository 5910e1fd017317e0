"""What people upload that is no chest radiograph, and radiographs of other hospitals; needs the data folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from ai_container.analyser import Analyser
from ai_container.header_facts import ImageFacts
from ai_container.image_analysis import Timings

ADULT = ImageFacts(modality="DX", age_years=50)


def reasons(analyser: Analyser, paths: list[Path]) -> list[str]:
    """Return why each picture was refused; empty where it was analysed."""
    assert paths
    found = []
    for path in paths:
        analysis = analyser.preview_picture(path.read_bytes(), ADULT, 100_000_000, None, Timings())
        found.append(analysis.not_analysed[0][1] if analysis.not_analysed else "")
    return found


@pytest.mark.shared
@pytest.mark.requirement("R3")
@pytest.mark.parametrize("folder", ["negatives/photo", "negatives/medical_other", "mr/ms_brain", "mr/cheng_t1ce"])
def test_what_is_no_chest_is_refused(analyser: Analyser, shared_data: Path, folder: str) -> None:
    pictures = sorted(p for p in (shared_data / folder).rglob("*.*") if p.suffix in (".jpg", ".png"))
    assert "" not in reasons(analyser, pictures[:: max(1, len(pictures) // 15)])


@pytest.mark.shared
def test_most_radiographs_of_adults_pass_without_any_header(analyser: Analyser, shared_data: Path) -> None:
    radiographs = sorted((shared_data / "cxr" / "nih_chestxray14" / "pneumonia").glob("*.jpg"))[::20]
    found = reasons(analyser, radiographs)
    assert found.count("") >= 0.9 * len(found)

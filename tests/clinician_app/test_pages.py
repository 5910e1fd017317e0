"""What the pages show."""

from __future__ import annotations

import pytest

from tests.clinician_app.conftest import MARIES_CHEST, MARIES_REPORT, Clinic


@pytest.mark.requirement("S55", "S72")
def test_timeline_names_the_patient_and_lists_their_imaging(clinic: Clinic) -> None:
    page = clinic.get(clinic.launch() + "/")
    assert page.status_code == 200
    for words in (
        "Dupont",
        "Marie Élise",
        "3 Apr 1958",
        "4711",
        "Female",
        "Chest PA",
        "MR shoulder",
        "Lung opacity",
        "87%",
    ):
        assert words in page.text
    assert "Automated, not reviewed" in page.text
    assert "Otherson" not in page.text
    assert "Chest AP" not in page.text


@pytest.mark.requirement("R9")
def test_report_page_says_what_it_is(clinic: Clinic) -> None:
    page = clinic.get(f"{clinic.launch()}/reports/{MARIES_REPORT.id}")
    assert page.status_code == 200
    for words in (
        "Automated analysis, not reviewed",
        "chest-opacity 1.0.0",
        "Present",
        "threshold 35%",
        "pneumothorax",
        MARIES_REPORT.conclusion,
        "heatmap.png",
        f"/instances/{MARIES_CHEST.sop_uid()}/rendered",
    ):
        assert words in page.text

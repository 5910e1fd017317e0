"""The readable report: what a doctor sees, read back out of the PDF by pypdf."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import pypdf
import pytest

from fhir_adapter import diagnostic_report, report_document
from fhir_adapter.examination import Examination
from fhir_adapter.findings import AnalysisResult
from tests.fhir_adapter.analyses import MODEL, finding, not_analysed, result
from tests.fhir_adapter.headers import instance

ISSUED = "2026-07-01T12:00:00Z"


def document(made: AnalysisResult, name: str = "Jane Doe", signed: str = "") -> pypdf.PdfReader:
    patient = {
        "resourceType": "Patient",
        "name": [{"text": name}],
        "birthDate": "1970-01-31",
        "identifier": [{"system": "urn:oid:1.2.3", "value": "4711"}],
    }
    examination = Examination(None, patient)
    report = diagnostic_report.build(made, examination, [], None, 0, ISSUED)
    return pypdf.PdfReader(io.BytesIO(report_document.render(report, made, examination, signed)))


def text_of(reader: pypdf.PdfReader) -> str:
    return "\n".join(page.extract_text() for page in reader.pages)


@pytest.mark.requirement("R1", "R9")
@pytest.mark.parametrize(
    "name",
    [
        "Jane Doe",
        "Zoë Müller-Ångström",
        "Łukasz Ďábel Őry",
        "Çağrı Işık",
        "Фёдор Достоевский",
        "Ναυσικᾶ Παπαδοπούλου",
        "山田太郎 やまだ",
        "홍길동",
        "张伟",
        "陳大文",
        "ნინო ბერიძე",
    ],
)
def test_a_name_in_any_alphabet_is_readable(name: str) -> None:
    assert name in text_of(document(result(instance()), name))


@pytest.mark.requirement("R1")
def test_a_name_from_right_to_left_is_drawn_so() -> None:
    reader = document(result(instance()), "דוד כהן")
    drawn = text_of(reader)
    assert "דוד כהן" in drawn or "ןהכ דוד" in drawn
    assert "?" not in drawn


@pytest.mark.requirement("R1", "R9")
@pytest.mark.parametrize("language", ["en", "fr"])
def test_what_a_doctor_looks_for(language: str) -> None:
    made = result(instance(), language=language)
    reader = document(made)
    shown = text_of(reader)
    summary = MODEL.summary_fr if language == "fr" else MODEL.summary_en
    wanted = [
        "Jane Doe",
        "1970-01-31",
        "4711",
        made.study_uid,
        "Test hospital",
        "2026-07-01 12:00:00Z",
        "chest-opacity 1.0.0",
        made.findings[0].text(language),
        "0,83" if language == "fr" else "0.83",
        "NON RELUE PAR UN MÉDECIN" if language == "fr" else "NOT REVIEWED BY A PHYSICIAN",
    ]
    for item in [*wanted, *summary.split()]:
        assert item in shown
    assert len(reader.pages[0].images) == 1, "the key image with its map"
    assert reader.metadata is not None
    assert reader.metadata.title == ("Analyse d'image automatisée" if language == "fr" else "Automated image analysis")
    root: Any = reader.trailer["/Root"]
    assert root["/Lang"] == language
    assert root["/ViewerPreferences"]["/DisplayDocTitle"]


@pytest.mark.requirement("R6", "R9")
def test_a_signed_report_names_its_signer_and_says_no_more_that_it_is_not_reviewed() -> None:
    line = "Reviewed and signed by Dr Łucja Nowak-Żeromska of the department of radiology, 2026-07-01T13:00:00Z"
    shown = text_of(document(result(instance()), signed=line))
    for word in line.split():
        assert word in shown
    assert "NOT REVIEWED" not in shown


@pytest.mark.requirement("R3", "R9")
def test_a_report_without_findings_says_why() -> None:
    shown = text_of(document(not_analysed(instance(), "child")))
    assert "the patient is a child" in shown
    assert "not analysed" in shown


def test_many_findings_go_on_to_another_page() -> None:
    many = [finding(code=str(number), display=f"finding {number}", text_en=f"Finding {number}") for number in range(60)]
    reader = document(result(instance(), *many))
    assert len(reader.pages) > 1
    assert all(f"Finding {number}" in text_of(reader) for number in range(60))


@pytest.mark.parametrize("name", ["x" * 500, "(\\) Tj ET", "\u202edna", "\U0001f9d0", "a\u0300\u0301", "ﷺ", " "])
def test_no_name_breaks_the_document(name: str) -> None:
    assert "4711" in text_of(document(result(instance()), name))


@pytest.mark.requirement("I1")
def test_the_same_report_gives_the_same_bytes() -> None:
    made = result(instance())
    report = diagnostic_report.build(made, Examination(None), [], None, 0, ISSUED)
    first, second = (
        report_document.render(report, dataclasses.replace(made), Examination(None, {"name": [{"text": "Łukasz"}]}))
        for _ in range(2)
    )
    assert first == second

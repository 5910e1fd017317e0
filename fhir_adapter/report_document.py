"""The report as a PDF that a doctor reads: patient, examination, findings, key image, model, and what it is (R1, R9).

The same report gives the same bytes. reportlab is imported at the first document: readers of FHIR never need it.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from fhir_adapter._typeface import runs, width, wrapped
from fhir_adapter.bundle import first
from fhir_adapter.client import Resource
from fhir_adapter.examination import Examination
from fhir_adapter.findings import AnalysisResult
from fhir_adapter.wording import conclusion, decimal, phrase

if TYPE_CHECKING:
    from reportlab.pdfgen.canvas import Canvas

__all__ = ["render"]

_MARGIN = 50.0
_WIDTH, _HEIGHT = 595.28, 841.89
_IMAGE_HEIGHT = 300.0
_COLUMN_WIDTHS = (240.0, 90.0, 90.0, 75.0)


def render(report: Resource, result: AnalysisResult, examination: Examination, signed: str = "") -> bytes:
    """Return the PDF.

    Parameters
    ----------
    report : Resource
        The DiagnosticReport that it will be part of; gives code and times.
    result : AnalysisResult
        Findings, model, key image.
    examination : Examination
        Patient and study.
    signed : str
        "Reviewed and signed by ..." instead of the banner "not reviewed".
    """
    from reportlab import rl_config
    from reportlab.pdfgen.canvas import Canvas

    rl_config.useA85 = 0  # binary streams: a fifth smaller, and written faster
    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=(_WIDTH, _HEIGHT), invariant=1, lang=result.language)
    language = result.language
    canvas.setTitle(phrase("title", language))
    canvas.setAuthor(f"{result.model.name} {result.model.version}")
    canvas.setSubject(signed or phrase("not-reviewed", language))
    canvas.setCreator("imaging")
    canvas.setViewerPreference("DisplayDocTitle", "true")
    page = _Page(canvas)
    page.text(result.site_name or "", "Helvetica", 10)
    page.text(phrase("title", language), "Helvetica-Bold", 17)
    page.banner(signed or phrase("banner", language), reviewed=bool(signed))
    page.pairs(_patient_lines(examination, language))
    page.pairs(_study_lines(report, result, examination, language))
    page.heading(phrase("findings", language))
    page.table(_rows(result))
    page.heading(phrase("conclusion", language))
    for line in (str(report.get("conclusion") or conclusion(result))).split("\n"):
        page.text(line, "Helvetica", 10)
    if result.key_image_picture:
        page.heading(phrase("key-image", language))
        page.picture(result.key_image_picture)
    summary = result.model.summary_fr if language == "fr" else result.model.summary_en
    page.heading(phrase("about-model", language))
    title = (result.model.title_fr if language == "fr" else result.model.title_en) or result.model.name
    page.text(f"{title} ({result.model.name} {result.model.version})", "Helvetica", 9)
    for line in (summary, phrase("device-note", language)):
        page.text(line, "Helvetica", 9)
    page.end()
    return buffer.getvalue()


def _patient_lines(examination: Examination, language: str) -> list[tuple[str, str]]:
    patient: Resource = examination.patient or {}
    name = first(patient.get("name"))
    parts = [*(name.get("given") or []), str(name.get("family") or "")]
    shown = str(name.get("text") or " ".join(parts).strip())
    number = str(first(patient.get("identifier")).get("value") or "")
    lines = [("patient", shown), ("born", str(patient.get("birthDate") or "")), ("number", number)]
    return [(phrase(key, language), value) for key, value in lines if value]


def _study_lines(
    report: Resource, result: AnalysisResult, examination: Examination, language: str
) -> list[tuple[str, str]]:
    study = examination.study or {}
    code = first(report["code"].get("coding"))
    title = str(study.get("description") or "")
    accession = str(first(examination.accession).get("value") or "")
    lines = [
        ("examination", " - ".join(part for part in (str(code.get("display") or ""), title) if part)),
        ("date", str(report.get("effectiveDateTime") or "").replace("T", " ")),
        ("accession", accession),
        ("study", result.study_uid),
        ("issued", str(report.get("issued") or "").replace("T", " ")),
    ]
    return [(phrase(key, language), value) for key, value in lines if value]


def _rows(result: AnalysisResult) -> list[tuple[str, str, str, str]]:
    language = result.language
    rows = [tuple(phrase(name, language) for name in ("finding", "result", "probability", "threshold"))]
    for finding in result.findings:
        rows.append(
            (
                finding.text(language),
                phrase(finding.state, language),
                "" if finding.probability is None else decimal(finding.probability, language),
                "" if finding.threshold is None else decimal(finding.threshold, language),
            )
        )
    return rows  # type: ignore[return-value]  # the first row comes from a generator of four


class _Page:
    """Writes down the page, and on to a next one where it is full."""

    def __init__(self, canvas: Canvas) -> None:
        self.canvas = canvas
        self.y = _HEIGHT - _MARGIN

    def room(self, height: float) -> None:
        if self.y - height < _MARGIN:
            self.canvas.showPage()
            self.y = _HEIGHT - _MARGIN

    def line(self, x: float, line: str, font: str, size: float) -> None:
        parts = runs(line, font)
        for face, part in parts:
            self.canvas.setFont(face, size)
            self.canvas.drawString(x, self.y, part)
            if len(parts) > 1:
                x += width(part, font, size)

    def text(self, line: str, font: str, size: float, x: float = _MARGIN) -> None:
        for part in wrapped(line, font, size, _WIDTH - _MARGIN - x):
            self.room(size * 1.35)
            self.y -= size * 1.35
            self.line(x, part, font, size)

    def heading(self, line: str) -> None:
        self.room(40)
        self.y -= 8
        self.text(line, "Helvetica-Bold", 11)
        self.y -= 2

    def banner(self, line: str, *, reviewed: bool) -> None:
        lines = list(wrapped(line, "Helvetica-Bold", 11, _WIDTH - 2 * _MARGIN - 12))
        height = 8 + 14 * len(lines)
        self.room(height + 8)
        self.y -= height + 8
        self.canvas.setFillGray(0.92)
        self.canvas.rect(_MARGIN, self.y, _WIDTH - 2 * _MARGIN, height, stroke=0, fill=1)
        self.canvas.setFillColorRGB(*((0.0, 0.3, 0.1) if reviewed else (0.6, 0.1, 0.0)))
        bottom, self.y = self.y, self.y + height + 1
        for part in lines:
            self.y -= 14
            self.line((_WIDTH - width(part, "Helvetica-Bold", 11)) / 2, part, "Helvetica-Bold", 11)
        self.canvas.setFillGray(0.0)
        self.y = bottom - 6

    def pairs(self, lines: list[tuple[str, str]]) -> None:
        for name, value in lines:
            self.room(14)
            before = self.y
            self.text(name, "Helvetica-Bold", 9)
            after, self.y = self.y, before
            self.text(value, "Helvetica", 9, _MARGIN + 110)
            self.y = min(after, self.y)
        self.y -= 6

    def table(self, rows: list[tuple[str, str, str, str]]) -> None:
        for index, row in enumerate(rows):
            font = "Helvetica-Bold" if index == 0 else "Helvetica"
            cells = [list(wrapped(value, font, 9, room - 8)) for value, room in zip(row, _COLUMN_WIDTHS, strict=True)]
            self.room(14 * max(1, *map(len, cells)) + 1)
            top = self.y
            lowest = top
            x = _MARGIN
            for cell, room in zip(cells, _COLUMN_WIDTHS, strict=True):
                self.y = top
                for part in cell:
                    self.y -= 14
                    self.line(x, part, font, 9)
                lowest = min(lowest, self.y)
                x += room
            self.y = lowest
            self.canvas.line(_MARGIN, self.y - 4, _WIDTH - _MARGIN, self.y - 4)
        self.y -= 6

    def picture(self, data: bytes) -> None:
        from reportlab.lib.utils import ImageReader

        image: Any = ImageReader(io.BytesIO(data))
        size = image.getSize()
        scale = min((_WIDTH - 2 * _MARGIN) / size[0], _IMAGE_HEIGHT / size[1])
        self.room(size[1] * scale + 8)
        self.y -= size[1] * scale + 4
        self.canvas.drawImage(image, _MARGIN, self.y, size[0] * scale, size[1] * scale)
        self.y -= 4

    def end(self) -> None:
        self.canvas.showPage()
        self.canvas.save()

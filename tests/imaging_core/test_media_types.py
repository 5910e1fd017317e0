"""Choosing an answer's form by Accept (RFC 9110 12.5.1, PS3.18 8.7.4)."""

from __future__ import annotations

import pytest

from imaging_core.errors import Rejected
from ingestion_functions.http_api import language
from ingestion_functions.stow import _answer_form

JSON, XML = "application/dicom+json", "application/dicom+xml"

FORMS: list[tuple[str, str | None]] = [
    ("", JSON),
    ("*/*", JSON),
    ("application/*", JSON),
    (JSON, JSON),
    (XML, XML),
    (f"{XML}, {JSON}", JSON),
    (f"{XML};q=0.9, {JSON};q=0.8", XML),
    (f"{JSON};q=0.1, */*;q=0.5", XML),
    (f"{JSON};q=0, */*", XML),
    (f"{XML};q=0, {JSON};q=0", None),
    ("application/json", JSON),
    ("text/xml", XML),
    ("text/html", None),
    ("text/html, */*;q=0.1", JSON),
    ('multipart/related; type="application/dicom+xml"', f"multipart/related; {XML}"),
    ('multipart/related; type="application/dicom+json", text/html', f"multipart/related; {JSON}"),
    ('multipart/related; type="image/png"', None),
    ('multipart/related; type="application/dicom+xml"; q=0', None),
    (f'text/html; note="a, {JSON}; b"', None),
    (f"{JSON};q=nonsense", JSON),
    ("nonsense", None),
    (";,,;", JSON),
    ("APPLICATION/DICOM+XML ; Q=1", XML),
]


@pytest.mark.requirement("D13")
@pytest.mark.parametrize(("accept", "form"), FORMS)
def test_answer_form(accept: str, form: str | None) -> None:
    if form is None:
        with pytest.raises(Rejected) as caught:
            _answer_form(accept)
        assert caught.value.code == "not-acceptable"
    else:
        assert _answer_form(accept) == form


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [("", "en"), ("fr", "fr"), ("fr-CA, en;q=0.5", "fr"), ("de, en;q=0.9, fr;q=0.2", "en"), ("en, fr", "en"),
     ("fr;q=x", "en"), ("*", "en"), ("fr;q=0", "en")],
)  # fmt: skip
def test_language(accept: str, wanted: str) -> None:
    assert language(accept) == wanted

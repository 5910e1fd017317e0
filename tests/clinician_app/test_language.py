"""English and French."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from babel.messages.extract import extract_from_dir
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

import clinician_app
from tests.clinician_app.conftest import MARIES_REPORT, Clinic

PACKAGE = Path(clinician_app.__file__).parent
FRENCH = PACKAGE / "translations" / "fr" / "LC_MESSAGES"


def _said() -> set[Any]:
    keywords: dict[str, Any] = {"gettext": None, "ngettext": (1, 2), "lazy_gettext": None, "_": None}
    methods = [("**.py", "python"), ("templates/**.html", "jinja2")]
    options = {"templates/**.html": {"trimmed": "true"}}
    return {item[2] for item in extract_from_dir(PACKAGE, methods, options, keywords=keywords)}


def test_everything_said_is_said_in_french_and_nothing_else() -> None:
    with (FRENCH / "messages.po").open("rb") as file:
        catalogue = read_po(file)
    words = {message.id: message.string for message in catalogue if message.id}
    assert set(words) == _said()
    assert all(all(item) if isinstance(item, tuple) else item for item in words.values())
    assert not any(message.fuzzy for message in catalogue if message.id)
    assert not list(catalogue.check())


def test_the_compiled_words_are_the_written_ones() -> None:
    with (FRENCH / "messages.po").open("rb") as file:
        catalogue = read_po(file)
    compiled = io.BytesIO()
    write_mo(compiled, catalogue)
    assert compiled.getvalue() == (FRENCH / "messages.mo").read_bytes()


@pytest.mark.parametrize(
    ("accepted", "query", "cookie", "expected"),
    [
        ("fr-CA,fr;q=0.9,en;q=0.5", "", "", "fr"),
        ("en-GB", "", "", "en"),
        ("de", "", "", "en"),
        ("en", "?lang=fr", "", "fr"),
        ("en", "", "fr", "fr"),
        ("fr", "?lang=en", "fr", "en"),
        ("fr", "?lang=xx", "", "fr"),
        ("en", "", "../../etc", "en"),
    ],
)
def test_which_language(clinic: Clinic, accepted: str, query: str, cookie: str, expected: str) -> None:
    launch = clinic.launch()
    if cookie:
        clinic.client.set_cookie("__Host-language", cookie, domain="localhost", secure=True)
    page = clinic.get(f"{launch}/{query}", headers={"Accept-Language": accepted})
    assert f'<html lang="{expected}">' in page.text
    assert ("Imagerie" in page.text) == (expected == "fr")


def test_the_choice_is_kept_in_a_cookie_fit_for_a_frame(clinic: Clinic) -> None:
    launch = clinic.launch()
    page = clinic.get(f"{launch}/reports/{MARIES_REPORT.id}?lang=fr")
    cookie = page.headers["Set-Cookie"]
    for part in ("__Host-language=fr", "Secure", "HttpOnly", "Path=/", "SameSite=None", "Partitioned"):
        assert part in cookie
    assert 'lang="fr"' in clinic.get(f"{launch}/").text
    assert clinic.get(f"{launch}/?lang=xx").headers.get("Set-Cookie") is None


def test_the_report_page_in_french(clinic: Clinic) -> None:
    page = clinic.get(f"{clinic.launch()}/reports/{MARIES_REPORT.id}", headers={"Accept-Language": "fr"}).text
    for words in (
        "Analyse automatisée, non relue",
        "Présent",
        "87 %",
        "seuil 35 %",
        "24 nov. 2026",
        "Né(e) le",
        "68 ans",
    ):
        assert words in page


def test_refusals_in_french(clinic: Clinic) -> None:
    launch = clinic.launch()
    assert "Il n&#39;y a rien ici." in clinic.get(f"{launch}/reports/none", headers={"Accept-Language": "fr"}).text


def test_a_french_site_speaks_french_to_others(make_clinic: Any, clinic: Clinic) -> None:
    french = make_clinic(clinic.ehr, site_language="fr")
    assert 'lang="fr"' in french.get(french.launch() + "/", headers={"Accept-Language": "de"}).text

"""Dates, names and issuers: single values of a header."""

from __future__ import annotations

import pytest

from fhir_adapter.assigner import accession_system, issuer_system
from fhir_adapter.dicom_json import clean, number, text
from fhir_adapter.dicom_time import fhir_date, fhir_date_time
from fhir_adapter.human_name import human_names, name_forms
from imaging_core.sites import Site


@pytest.mark.requirement("D24", "M6")
@pytest.mark.parametrize(
    ("day", "time", "offset", "zone", "expected"),
    [
        ("20040826", "185059", "", "", "2004-08-26"),
        ("20040826", "185059", "+0200", "", "2004-08-26T18:50:59+02:00"),
        ("20040826", "185059", "-0330", "Europe/Paris", "2004-08-26T18:50:59-03:30"),
        ("20040826", "185059", "", "Europe/Paris", "2004-08-26T18:50:59+02:00"),
        ("20040126", "185059", "", "Europe/Paris", "2004-01-26T18:50:59+01:00"),
        ("20040826", "185059.123000", "+0000", "", "2004-08-26T18:50:59.123+00:00"),
        ("20040826", "1850", "+0000", "", "2004-08-26T18:50:00+00:00"),
        ("20040826", "18", "+0000", "", "2004-08-26T18:00:00+00:00"),
        ("20040826", "18:50:59", "+0000", "", "2004-08-26T18:50:59+00:00"),
        ("2004.08.26", "185059", "+0000", "", "2004-08-26T18:50:59+00:00"),
        ("20040826", "235960", "+0000", "", "2004-08-26T23:59:59+00:00"),
        ("20040826", "", "+0000", "", "2004-08-26"),
        ("20040826", "lunch", "+0000", "", "2004-08-26"),
        ("20040826", "250000", "+0000", "", "2004-08-26"),
        ("20040826", "185059", "+1500", "", "2004-08-26"),
        ("20040826", "185059", "-0000", "", "2004-08-26"),
        ("20040230", "185059", "+0000", "", None),
        ("00000000", "185059", "+0000", "", None),
        ("", "185059", "+0000", "", None),
        # twice or never on that day's clock
        ("20241027", "023000", "", "Europe/Paris", "2024-10-27"),
        ("20240331", "023000", "", "Europe/Paris", "2024-03-31"),
    ],
)
def test_date_and_time(day: str, time: str, offset: str, zone: str, expected: str | None) -> None:
    assert fhir_date_time(day, time, offset, zone) == expected


@pytest.mark.requirement("D24")
@pytest.mark.parametrize(("value", "expected"), [("19700131", "1970-01-31"), ("1970", None), ("unknown", None)])
def test_date(value: str, expected: str | None) -> None:
    assert fhir_date(value) == expected


@pytest.mark.requirement("D19")
def test_a_name_has_five_components() -> None:
    assert human_names({"vr": "PN", "Value": [{"Alphabetic": "Adams^John^Robert Quincy^Rev.^B.A. M.Div."}]}) == [
        {
            "use": "official",
            "text": "Rev. John Robert Quincy Adams B.A. M.Div.",
            "family": "Adams",
            "given": ["John", "Robert Quincy"],
            "prefix": ["Rev."],
            "suffix": ["B.A. M.Div."],
        }
    ]


@pytest.mark.requirement("D19", "D20")
def test_a_name_has_three_groups() -> None:
    value = {"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎", "Phonetic": "やまだ^たろう"}
    names = human_names({"vr": "PN", "Value": [value]})
    assert [name["family"] for name in names] == ["Yamada", "山田", "やまだ"]
    assert [name["extension"][0]["valueCode"] for name in names] == ["ABC", "IDE", "SYL"]


@pytest.mark.requirement("D19")
@pytest.mark.parametrize("value", [None, {}, {"Value": []}, {"Value": [None]}, {"Value": [{"Alphabetic": "^^^^"}]}])
def test_a_name_that_says_nothing(value: dict[str, object] | None) -> None:
    assert human_names(value) == []


@pytest.mark.requirement("P2")
@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("MÜLLER", "Mueller"),
        ("Müller", "Muller"),
        ("O'Brien", "OBRIEN"),
        ("Saint-Exupéry", "saint exupery"),
        ("Łukasz", "Lukasz"),
        ("Strauß", "STRAUSS"),
        ("Bjørn", "Bjoern"),
    ],
)
def test_spellings_of_one_name(left: str, right: str) -> None:
    assert name_forms(left) & name_forms(right)


@pytest.mark.requirement("P2")
def test_spellings_of_two_names() -> None:
    assert not name_forms("Smith") & name_forms("Smyth")


def test_text_is_cleaned() -> None:
    assert clean(" a\x00b\x07 ") == "ab"
    assert text({"vr": "LO", "Value": [None, "x"]}) == ""
    assert text({"vr": "PN", "Value": [{"Alphabetic": "A^B"}]}) == "B A"


@pytest.mark.parametrize(("value", "expected"), [(5, 5), ("7", 7), (-1, None), (2**31, None), ("x", None), (1.5, None)])
def test_number(value: object, expected: int | None) -> None:
    assert number({"vr": "IS", "Value": [value]}) == expected


SITE = Site("s", "urn:oid:1.2.3", assigners={"HOSP": "https://hosp.example/mrn"})


def _issuer(value: str) -> dict[str, object]:
    return {"vr": "LO", "Value": [value]}


def _qualifiers(identity: str, kind: str) -> dict[str, object]:
    item = {"00400032": {"vr": "UT", "Value": [identity]}, "00400033": {"vr": "CS", "Value": [kind]}}
    return {"vr": "SQ", "Value": [item]}


@pytest.mark.requirement("P1", "D17")
@pytest.mark.parametrize(
    ("issuer", "qualifiers", "created", "held"),
    [
        (None, None, "urn:oid:1.2.3", "urn:oid:1.2.3"),
        (_issuer("HOSP"), None, "https://hosp.example/mrn", "https://hosp.example/mrn"),
        (_issuer("2.16.840.1"), None, "urn:oid:2.16.840.1", "urn:oid:2.16.840.1"),
        (_issuer("https://x.example/a"), None, "https://x.example/a", "https://x.example/a"),
        (_issuer("Other Hosp/1"), None, "urn:imaging:assigner:Other%20Hosp%2F1", None),
        (_issuer("HOSP"), _qualifiers("1.2.840.9", "ISO"), "urn:oid:1.2.840.9", "urn:oid:1.2.840.9"),
        (None, _qualifiers("https://u.example/x", "URI"), "https://u.example/x", "https://u.example/x"),
        (None, _qualifiers("A1B2", "UUID"), "urn:uuid:a1b2", "urn:uuid:a1b2"),
        # an issuer of another kind is no reason to take the number for the site's own
        (None, _qualifiers("hosp.example", "DNS"), "urn:imaging:assigner:hosp.example", None),
    ],
)
def test_issuers(issuer: dict[str, object], qualifiers: dict[str, object], created: str, held: str | None) -> None:
    assert issuer_system(issuer, qualifiers, SITE, "create") == created
    assert issuer_system(issuer, qualifiers, SITE, "hold") == held


@pytest.mark.requirement("M2", "D21")
def test_issuers_of_accession_numbers() -> None:
    assert accession_system(None, SITE) == "urn:oid:1.2.3"
    assert accession_system(_qualifiers("1.2.9", "ISO"), SITE) == "urn:oid:1.2.9"
    assert accession_system(None, Site("s")) is None

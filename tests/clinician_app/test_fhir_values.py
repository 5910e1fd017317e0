"""FHIR's data types, as any server may send them."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from clinician_app.fhir_values import identifiers, moment, person_name, reference_id, text
from clinician_app.patient import age_on, read_patient


@pytest.mark.parametrize(
    ("raw", "precision", "day"),
    [
        ("2026", "year", date(2026, 1, 1)),
        ("2026-11", "month", date(2026, 11, 1)),
        ("2026-11-24", "day", date(2026, 11, 24)),
        ("2026-11-24T09:12:00+01:00", "time", date(2026, 11, 24)),
        ("2026-11-24T09:12:00.123Z", "time", date(2026, 11, 24)),
        ("2026-11-24T09:12:00", "day", date(2026, 11, 24)),  # FHIR forbids it: the hour can't be placed
    ],
)
def test_dates_keep_their_precision(raw: str, precision: str, day: date) -> None:
    found = moment(raw)
    assert found is not None
    assert (found.precision, found.date) == (precision, day)


@pytest.mark.parametrize("raw", [None, "", 2026, "yesterday", "2026-13-01", "2026-02-30", "26", {}, "9" * 100])
def test_what_is_no_date_is_absent(raw: object) -> None:
    assert moment(raw) is None


@pytest.mark.parametrize(
    ("names", "family", "given"),
    [
        (
            [{"use": "nickname", "given": ["Bob"]}, {"use": "official", "family": "Roy", "given": ["Robert"]}],
            "Roy",
            "Robert",
        ),
        (
            [{"use": "official", "family": "Old", "period": {"end": "2001"}}, {"use": "usual", "family": "New"}],
            "New",
            "",
        ),
        ([{"family": "Solo"}], "Solo", ""),
        ("Smith", "", ""),
        ([{"given": "not a list"}], "", ""),
        ([None, 3, {"family": ["x"]}], "", ""),
    ],
)
def test_the_name_that_counts_is_shown(names: object, family: str, given: str) -> None:
    found = person_name(names)
    assert (found.family, found.given) == (family, given)


@pytest.mark.requirement("S68", "XE2")
@pytest.mark.parametrize(
    ("reference", "found"),
    [
        ("Patient/1", "1"),
        ("Patient/1/_history/2", "1"),
        ("https://ehr.example/fhir/Patient/1", "1"),
        ("https://evil.example/fhir/Patient/1", ""),
        ("https://ehr.example/fhirevil/Patient/1", ""),
        ("Patient/../Patient/1", ""),
        ("Practitioner/1", ""),
        ("Patient/1?x=y", ""),
        ("Patient/1#frag", ""),
        ("#contained", ""),
        ("urn:uuid:1", ""),
        ("Patient/" + "1" * 65, ""),
        (None, ""),
        (["Patient/1"], ""),
    ],
)
def test_references_name_this_server_only(reference: Any, found: str) -> None:
    assert reference_id({"reference": reference}, "Patient", "https://ehr.example/fhir/") == found


def test_text_has_no_control_characters() -> None:
    assert text("a\x00b\x1bc\u202ed\n") == "abcd"
    assert len(text("x" * 10_000)) == 2_000


@pytest.mark.parametrize(
    ("birth", "day", "count", "unit", "exact"),
    [
        ("1958-04-03", date(2026, 4, 2), 67, "year", True),
        ("1958-04-03", date(2026, 4, 3), 68, "year", True),
        ("2025-01-31", date(2026, 11, 24), 21, "month", True),
        ("2026-11-20", date(2026, 11, 24), 4, "day", True),
        ("1958", date(2026, 11, 24), 68, "year", False),
    ],
)
def test_age(birth: str, day: date, count: int, unit: str, exact: bool) -> None:
    age = age_on(moment(birth), day)
    assert age is not None
    assert (age.count, age.unit, age.exact) == (count, unit, exact)


def test_no_age_before_birth() -> None:
    assert age_on(moment("2030-01-01"), date(2026, 1, 1)) is None
    assert age_on(None, date(2026, 1, 1)) is None


@pytest.mark.requirement("S55")
def test_the_identifier_of_the_registration_goes_first() -> None:
    numbers = [
        {"system": "urn:a", "value": "1"},
        {"type": {"coding": [{"code": "MR"}]}, "system": "urn:b", "value": "2"},
        {"system": "urn:c", "value": "3"},
        {"system": "urn:d"},
    ]
    assert len(identifiers(numbers)) == 3
    chosen = [read_patient({"id": "1", "identifier": numbers}, systems).identifier for systems in ((), ("urn:c",))]
    assert [item.value for item in chosen if item] == ["2", "3"]


def test_a_patient_of_any_shape_can_be_read() -> None:
    person = read_patient(
        {"id": 4, "name": 5, "gender": ["male"], "birthDate": {}, "identifier": "x", "deceasedBoolean": 1}
    )
    assert person.sex == ""
    assert not person.deceased
    assert read_patient({"deceasedDateTime": "2020-05-01"}).deceased

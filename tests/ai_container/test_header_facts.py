from __future__ import annotations

from typing import Any

import pytest

from ai_container.header_facts import ImageFacts, read_facts

_TAGS = {
    "Modality": ("00080060", "CS"),
    "SOPClassUID": ("00080016", "UI"),
    "BodyPartExamined": ("00180015", "CS"),
    "ViewPosition": ("00185101", "CS"),
    "StudyDescription": ("00081030", "LO"),
    "SeriesDescription": ("0008103E", "LO"),
    "ProtocolName": ("00181030", "LO"),
    "PatientAge": ("00101010", "AS"),
    "PatientBirthDate": ("00100030", "DA"),
    "StudyDate": ("00080020", "DA"),
    "AcquisitionDate": ("00080022", "DA"),
    "PatientOrientation": ("00200020", "CS"),
    "NumberOfFrames": ("00280008", "IS"),
    "PresentationIntentType": ("00080068", "CS"),
}


def header(**values: Any) -> dict[str, Any]:
    return {
        _TAGS[name][0]: {"vr": _TAGS[name][1], "Value": value if isinstance(value, list) else [value]}
        for name, value in values.items()
    }


def facts(**values: Any) -> ImageFacts:
    return read_facts(header(**values))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"BodyPartExamined": "CHEST"}, "chest"),
        ({"BodyPartExamined": "THORAX"}, "chest"),
        ({"BodyPartExamined": "PORT CHEST"}, "chest"),
        ({"BodyPartExamined": "EXTREMITY"}, "other"),
        ({"BodyPartExamined": "TSPINE"}, "other"),
        ({"BodyPartExamined": "T-SPINE"}, "other"),
        ({"BodyPartExamined": "CHESTABDOMEN"}, "other"),
        ({"BodyPartExamined": "CHEST ABDOMEN"}, "other"),
        ({"BodyPartExamined": "ABDOMEN"}, "other"),
        ({"BodyPartExamined": "RIB"}, "other"),
        ({"BodyPartExamined": "LSPINE"}, "other"),
        ({"BodyPartExamined": "LOWERLEG"}, "other"),
        ({"BodyPartExamined": "ACJOINT"}, "other"),
        ({"StudyDescription": "RX THORAX F+P"}, "chest"),
        ({"StudyDescription": "XR Chest 2 views"}, "chest"),
        ({"StudyDescription": "Radiographie pulmonaire"}, "chest"),
        ({"StudyDescription": "Thoracic spine AP/LAT"}, "other"),
        ({"SeriesDescription": "Left ribs, chest wall"}, "other"),
        ({"ProtocolName": "GENOU DROIT"}, "other"),
        ({"BodyPartExamined": "CHEST", "StudyDescription": "shoulder and chest"}, "chest"),
        ({"StudyDescription": "follow-up"}, None),
        ({}, None),
    ],
)
def test_body_part(values: dict[str, Any], expected: str | None) -> None:
    assert facts(**values).body_part == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"ViewPosition": "PA"}, "frontal"),
        ({"ViewPosition": "AP"}, "frontal"),
        ({"ViewPosition": "LL"}, "lateral"),
        ({"ViewPosition": "LATERAL"}, "lateral"),
        ({"ViewPosition": "RAO"}, "lateral"),
        ({"ViewPosition": "PA", "SeriesDescription": "LATERAL"}, "frontal"),
        ({"SeriesDescription": "view: PA"}, "frontal"),
        ({"SeriesDescription": "Thorax profil"}, "lateral"),
        ({"SeriesDescription": "PA and LAT"}, None),
        ({"SeriesDescription": "PA/LAT", "PatientOrientation": ["L", "F"]}, "frontal"),
        ({"PatientOrientation": ["A", "F"]}, "lateral"),
        ({"PatientOrientation": ["P", "F"]}, "lateral"),
        ({"StudyDescription": "Chest PA and lateral"}, None),  # tells of the study, not of this image
        ({}, None),
    ],
)
def test_view(values: dict[str, Any], expected: str | None) -> None:
    assert facts(**values).view == expected


def test_view_code_goes_before_everything() -> None:
    code = {"00540220": {"vr": "SQ", "Value": [{"00080100": {"vr": "SH", "Value": ["399173006"]}}]}}
    assert read_facts({**header(ViewPosition="PA"), **code}).view == "lateral"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"PatientAge": "064Y"}, 64),
        ({"PatientAge": "018M"}, 1.5),
        ({"PatientAge": "003W"}, 3 * 7 / 365.25),
        ({"PatientAge": "62"}, 62),  # without unit, as in RSNA's files
        ({"PatientAge": "062y"}, 62),
        ({"PatientAge": "old"}, None),
        ({"PatientAge": "412Y"}, None),
        ({"PatientBirthDate": "19400305", "StudyDate": "20040826"}, 64),
        ({"PatientBirthDate": "19881127", "StudyDate": "20041126"}, 15),
        ({"PatientBirthDate": "19881126", "StudyDate": "20041126"}, 16),
        ({"PatientBirthDate": "19881126"}, None),
        ({"StudyDate": "20041126"}, None),
        ({"PatientBirthDate": "20300101", "StudyDate": "20040826"}, None),
        ({"PatientBirthDate": "1940", "StudyDate": "20040826"}, None),
        ({"PatientBirthDate": "19401345", "StudyDate": "20040826"}, None),
        ({"PatientAge": "040Y", "PatientBirthDate": "20000101", "StudyDate": "20100101"}, 10),  # doubt: the child
        ({"PatientBirthDate": "19880101", "StudyDate": "20200101", "AcquisitionDate": "20010101"}, 13),
        ({}, None),
    ],
)
def test_age(values: dict[str, Any], expected: float | None) -> None:
    assert facts(**values).age_years == (pytest.approx(expected) if expected is not None else None)


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (["L", "F"], False),
        (["R", "F"], False),
        (["F", "L"], True),
        (["L", "H"], True),
        (["", ""], False),
        (["L"], False),
    ],
)
def test_turned(orientation: list[str], expected: bool) -> None:
    assert facts(PatientOrientation=orientation).turned is expected


def test_raw_detector_values_and_other_classes() -> None:
    assert facts(SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1.1").for_processing
    assert facts(PresentationIntentType="FOR PROCESSING").for_processing
    assert not facts(SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33").image_class
    assert facts(SOPClassUID="1.2.840.10008.5.1.4.1.1.7.2", NumberOfFrames="2").frames == 2


def test_odd_elements_are_not_errors() -> None:
    odd = {
        "00180015": {"vr": "CS"},
        "00080060": {"vr": "CS", "Value": [None]},
        "00540220": {"vr": "SQ", "Value": ["x"]},
    }
    assert read_facts(odd) == ImageFacts(modality="")

"""Headers for the tests, made by pydicom from keywords as a real instance would hold them."""

from __future__ import annotations

import copy
import uuid
import warnings
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.sequence import Sequence

__all__ = ["code_item", "fresh_uid", "instance", "real_header", "study"]

CR = "1.2.840.10008.5.1.4.1.1.1"


def fresh_uid() -> str:
    """Return a UID that no other test has."""
    return f"2.25.{uuid.uuid4().int}"


def instance(**elements: Any) -> dict[str, Any]:
    """Return the DICOM JSON model of a chest radiograph; keywords add or replace elements, None takes one away."""
    values: dict[str, Any] = {
        "SOPClassUID": CR,
        "SOPInstanceUID": fresh_uid(),
        "StudyInstanceUID": fresh_uid(),
        "SeriesInstanceUID": fresh_uid(),
        "PatientID": "4711",
        "PatientName": "Doe^Jane",
        "PatientBirthDate": "19700131",
        "PatientSex": "F",
        "StudyDate": "20240229",
        "StudyTime": "101530",
        "Modality": "CR",
        "BodyPartExamined": "CHEST",
        "ViewPosition": "PA",
    } | elements
    dataset = Dataset()
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # of values that are wrong on purpose
        for keyword, value in values.items():
            if value is not None:
                setattr(dataset, keyword, Sequence(value) if isinstance(value, list) and _of_items(value) else value)
        return dataset.to_json_dict()


def study(count: int, series: int = 2, **elements: Any) -> list[dict[str, Any]]:
    """Return the headers of one study."""
    study_uid = elements.pop("StudyInstanceUID", None) or fresh_uid()
    uids = [fresh_uid() for _ in range(series)]
    return [
        instance(
            StudyInstanceUID=study_uid,
            SeriesInstanceUID=uids[number % series],
            SeriesNumber=number % series + 1,
            InstanceNumber=number + 1,
            **elements,
        )
        for number in range(count)
    ]


def code_item(value: str, scheme: str, meaning: str, **elements: Any) -> Dataset:
    """Return an item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    for keyword, further in elements.items():
        setattr(item, keyword, further)
    return item


def item(**elements: Any) -> Dataset:
    """Return a sequence item."""
    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, Sequence(value) if isinstance(value, list) and _of_items(value) else value)
    return made


def real_header(name: str) -> dict[str, Any]:
    """Return the header of one of pydicom's test files."""
    path = get_testdata_file(name)
    assert path, name
    return copy.deepcopy(dcmread(str(path), stop_before_pixels=True).to_json_dict())


def _of_items(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, Dataset) for value in values)

"""Attributes that differ from what was received, and the record of what stood there before (D8).

PS3.18 10.5.3.2: where a service changes elements it shall say so in Original Attributes Sequence (0400,0561). PS3.3
C.12.1.1.9 says how (checked): one item for each change, older items preserved; Source of Previous Values (type 2),
Attribute Modification DateTime, Modifying System and Reason (type 1: COERCE or CORRECT); Modified Attributes Sequence
with exactly one item that holds the previous values, empty where there was none; Issuer of Patient ID beside a Patient
ID even if it stayed; a value that breaks its representation goes in with zero length and, in full, into Nonconforming
Modified Attributes Sequence (0400,0551). Instance Coercion DateTime (0008,0015) says when. The SOP Instance UID stays
(PS3.4 B.4.1.3): a coerced instance is the same instance.

What is stored is never changed; this is for what is served and exported.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydicom import DataElement, Dataset, config
from pydicom.charset import convert_encodings
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.sequence import Sequence
from pydicom.valuerep import PersonName, validate_value

from imaging_core.dicom.header import SYSTEM_MANUFACTURER

__all__ = ["Changes", "Reason", "coerced", "patient_changes"]

Changes = Mapping[str, str | None]
"""Keyword to value of top-level attributes; None removes one."""
Reason = Literal["COERCE", "CORRECT"]

# What says more of the patient that the header named: it would contradict the one that the study is linked to.
_OF_THE_PATIENT = (
    "IssuerOfPatientIDQualifiersSequence",
    "TypeOfPatientID",
    "OtherPatientIDs",
    "OtherPatientIDsSequence",
    "OtherPatientNames",
    "PatientBirthTime",
    "PatientMotherBirthName",
    "PatientBirthName",
)
_TYPE_2 = frozenset({"PatientID", "PatientName", "PatientBirthDate", "PatientSex"})


def patient_changes(*, patient_id: str, issuer: str, name: str, birth_date: str, sex: str) -> dict[str, str | None]:
    """Return the changes that make a header name another patient.

    Parameters
    ----------
    patient_id, issuer, name, birth_date, sex : str
        As DICOM writes them (PS3.3 C.2.2, C.2.3): name as PN, birth date YYYYMMDD, sex M, F or O; empty: unknown.
    """
    return {
        "PatientID": patient_id,
        "IssuerOfPatientID": issuer or None,
        "PatientName": name,
        "PatientBirthDate": birth_date,
        "PatientSex": sex,
        **dict.fromkeys(_OF_THE_PATIENT),
    }


def coerced(
    dataset: Dataset, changes: Changes, source: str, reason: Reason, at: datetime, *, system: str = SYSTEM_MANUFACTURER
) -> Dataset:
    """Return a data set with other values and the record of the old ones; the given one stays as it is.

    Parameters
    ----------
    dataset : Dataset
        As received.
    changes : mapping
        Keyword to new value; None removes the attribute, or empties one of type 2.
    source : str
        Who gave the previous values, as far as it is known (Source of Previous Values).
    reason : str
        ``COERCE`` where another system is right by agreement, ``CORRECT`` where the value was wrong.
    at : datetime
        When it was decided, with an offset.
    system : str
        Who changes them (Modifying System).

    Returns
    -------
    Dataset
        Unchanged and without record where all values are so already.
    """
    if at.tzinfo is None:
        raise ValueError("a time without an offset says nothing")
    wanted = {keyword: value for keyword, value in changes.items() if _differs(dataset, keyword, value)}
    if not wanted:
        return dataset
    out = _encodable(dataset, [value for value in wanted.values() if value])
    before = Dataset()
    nonconforming: list[Dataset] = []
    for keyword in _recorded(wanted):
        _keep(out, keyword, before, nonconforming)
    for keyword, value in wanted.items():
        out.pop(keyword, None)  # an element that is changed in place would change what was received too
        if value is not None or keyword in _TYPE_2:
            setattr(out, keyword, value or "")
    item = Dataset()
    item.SourceOfPreviousValues = source[:64]
    item.AttributeModificationDateTime = _moment(at)
    item.ModifyingSystem = system[:64]
    item.ReasonForTheAttributeModification = reason
    item.ModifiedAttributesSequence = Sequence([before])
    if nonconforming:
        item.NonconformingModifiedAttributesSequence = Sequence(nonconforming)
    older = copy.deepcopy(list(dataset.get("OriginalAttributesSequence") or ()))
    out.pop("OriginalAttributesSequence", None)
    out.OriginalAttributesSequence = Sequence([*older, item])
    out.pop("InstanceCoercionDateTime", None)
    out.InstanceCoercionDateTime = _moment(at)
    return out


def _moment(at: datetime) -> str:
    return at.strftime("%Y%m%d%H%M%S.%f%z")


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _differs(dataset: Dataset, keyword: str, value: str | None) -> bool:
    if value is None and keyword not in _TYPE_2:
        return keyword in dataset
    if keyword not in dataset:
        return True
    return _text(dataset.get(keyword)) != (value or "")


def _recorded(wanted: Changes) -> list[str]:
    """Return the attributes whose previous value is kept: the issuer goes with its number."""
    found = list(wanted)
    if "PatientID" in wanted and "IssuerOfPatientID" not in wanted:
        found.append("IssuerOfPatientID")
    return found


def _keep(dataset: Dataset, keyword: str, before: Dataset, nonconforming: list[Dataset]) -> None:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise ValueError(f"{keyword} is no attribute")
    if keyword not in dataset:
        setattr(before, keyword, Sequence() if dictionary_VR(tag) == "SQ" else None)
        return
    raw = dataset.get_item(tag)
    stored = raw.value if isinstance(raw, RawDataElement) else None
    element = copy.deepcopy(dataset[keyword])  # its own, for a sequence belongs to one data set
    if _conforms(element):
        before.add(element)
        return
    setattr(before, keyword, None)
    item = Dataset()
    item.SelectorAttribute = tag
    item.SelectorValueNumber = 0
    item.NonconformingDataElementValue = stored if isinstance(stored, bytes) else str(element.value).encode()
    nonconforming.append(item)


def _conforms(element: DataElement) -> bool:
    if element.VR == "SQ":
        return True
    values = element.value if element.VM > 1 else [element.value]
    try:
        for value in values:
            validate_value(element.VR, value, config.RAISE)
    except (ValueError, TypeError):
        return False
    return True


def _encodable(dataset: Dataset, values: list[str]) -> Dataset:
    """Return a copy whose character set can write the values: its own, else UTF-8 throughout."""
    encodings = convert_encodings(dataset.get("SpecificCharacterSet") or "")
    if all(_fits(value, encodings) for value in values):
        out = Dataset({element.tag: element for element in dataset.elements()})
        _carry(dataset, out)
        return out
    out = copy.deepcopy(dataset)
    out.decode()
    out.SpecificCharacterSet = "ISO_IR 192"
    _say_utf8(out)
    _carry(dataset, out)
    out.set_original_encoding(dataset.original_encoding[0], dataset.original_encoding[1], "utf8")
    return out


def _carry(dataset: Dataset, out: Dataset) -> None:
    if hasattr(dataset, "file_meta"):
        out.file_meta = copy.deepcopy(dataset.file_meta)
    if dataset.original_encoding[0] is not None:
        out.set_original_encoding(*dataset.original_encoding, dataset.original_character_set)


def _fits(value: str, encodings: list[str]) -> bool:
    try:
        encoded = PersonName(value, encodings).encode(encodings)
    except (UnicodeEncodeError, LookupError):
        return False
    return str(PersonName(encoded, encodings).decode(encodings)) == value


def _say_utf8(dataset: Dataset) -> None:
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                if "SpecificCharacterSet" in item:
                    item.SpecificCharacterSet = "ISO_IR 192"
                _say_utf8(item)

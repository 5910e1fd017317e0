"""What is served for a study that was linked to another patient: new values, and the old ones on record."""

from __future__ import annotations

import io
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.sequence import Sequence

from imaging_core.dicom.child import DecodePool
from imaging_core.dicom.coerce import coerced, patient_changes
from imaging_core.dicom.header import HeaderLimits, read_header
from imaging_core.dicom.served import as_served
from imaging_core.errors import Rejected
from tests.dicom_samples import instance, part10

AT = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
JANE = patient_changes(patient_id="P-77", issuer="HOSPITAL", name="Roe^Jane", birth_date="19800203", sex="F")


def sample(name: str) -> bytes:
    found = get_testdata_file(name)
    assert isinstance(found, str), f"{name} is missing: is pydicom-data installed?"
    return Path(found).read_bytes()


def patient_of(dataset: Dataset) -> tuple[str, ...]:
    keywords = ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex")
    return tuple(str(dataset.get(keyword, "")) for keyword in keywords)


@pytest.mark.requirement("D8")
def test_new_values_stand_and_old_ones_are_on_record() -> None:
    received = instance(PatientID="OLD", PatientName="Doe^John", IssuerOfPatientID="ELSEWHERE", PatientSex="M")
    received.OtherPatientIDsSequence = Sequence([Dataset()])
    received.OtherPatientIDsSequence[0].PatientID = "THIRD"
    out = coerced(received, JANE, "SITE A", "COERCE", AT)
    assert patient_of(out) == ("P-77", "HOSPITAL", "Roe^Jane", "19800203", "F")
    assert "OtherPatientIDsSequence" not in out
    assert patient_of(received)[0] == "OLD", "what was received is not touched"
    assert "OriginalAttributesSequence" not in received
    (item,) = out.OriginalAttributesSequence
    assert item.SourceOfPreviousValues == "SITE A"
    assert item.AttributeModificationDateTime == "20261124123000.000000+0000"
    assert item.ModifyingSystem == "imaging"
    assert item.ReasonForTheAttributeModification == "COERCE"
    (before,) = item.ModifiedAttributesSequence
    assert patient_of(before) == ("OLD", "ELSEWHERE", "Doe^John", "19700102", "M")
    assert before.OtherPatientIDsSequence[0].PatientID == "THIRD"
    assert out.SOPInstanceUID == received.SOPInstanceUID
    assert out.InstanceCoercionDateTime == item.AttributeModificationDateTime


@pytest.mark.requirement("D8")
def test_older_records_stay_and_what_was_absent_is_recorded_empty() -> None:
    received = instance(PatientID="OLD")
    first = coerced(received, JANE, "", "CORRECT", AT)
    (before,) = first.OriginalAttributesSequence[0].ModifiedAttributesSequence
    assert "IssuerOfPatientID" in before
    assert not before.IssuerOfPatientID
    second = coerced(first, {"PatientID": "P-78"}, "", "COERCE", AT)
    assert len(second.OriginalAttributesSequence) == 2
    (again,) = second.OriginalAttributesSequence[1].ModifiedAttributesSequence
    assert (again.PatientID, again.IssuerOfPatientID) == ("P-77", "HOSPITAL")  # the issuer names the number's context
    assert len(first.OriginalAttributesSequence) == 1


@pytest.mark.requirement("D8")
def test_nothing_to_change_records_nothing() -> None:
    once = coerced(instance(), JANE, "", "COERCE", AT)
    assert coerced(once, JANE, "", "COERCE", AT) is once


@pytest.mark.requirement("D8", "D20")
@pytest.mark.parametrize("charset", ["", "ISO_IR 100", "ISO 2022 IR 87"])
def test_a_name_that_the_character_set_lacks_turns_the_data_set_to_utf8(charset: str) -> None:
    received = instance(SpecificCharacterSet=charset)
    received.InstitutionName = "Hôpital" if charset == "ISO_IR 100" else "Hospital"
    data = part10(received)
    read = dcmread(io.BytesIO(data))
    out = coerced(read, {"PatientName": "Σωκράτης^山田"}, "", "COERCE", AT)
    again = dcmread(io.BytesIO(part10(out)))
    assert str(again.PatientName) == "Σωκράτης^山田"
    assert again.InstitutionName == received.InstitutionName
    assert again.SpecificCharacterSet == "ISO_IR 192"
    kept = coerced(read, {"PatientName": "Roe^Jane"}, "", "COERCE", AT)
    assert kept.get("SpecificCharacterSet") == read.get("SpecificCharacterSet")


@pytest.mark.requirement("D8")
def test_a_value_that_breaks_its_representation_is_kept_as_it_was() -> None:
    data = part10(instance(PatientBirthDate="19700102")).replace(b"19700102", b"1970/1/2")
    out = coerced(dcmread(io.BytesIO(data)), JANE, "", "CORRECT", AT)
    (item,) = out.OriginalAttributesSequence
    assert not item.ModifiedAttributesSequence[0].PatientBirthDate
    (odd,) = item.NonconformingModifiedAttributesSequence
    assert odd.SelectorAttribute == 0x00100030
    assert odd.NonconformingDataElementValue == b"1970/1/2"


def test_a_time_without_an_offset_is_refused() -> None:
    with pytest.raises(ValueError, match="offset"):
        coerced(instance(), JANE, "", "COERCE", AT.replace(tzinfo=None))


@pytest.mark.requirement("D8")
@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "MR_small_RLE.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm", "image_dfl.dcm"]
)
def test_real_files_keep_their_pixels_and_their_syntax(decoder: DecodePool, tmp_path: Path, name: str) -> None:
    data = sample(name)
    out = decoder.served(data, JANE, "", "COERCE", AT)
    before, after = dcmread(io.BytesIO(data)), dcmread(io.BytesIO(out))
    assert after.file_meta.TransferSyntaxUID == before.file_meta.TransferSyntaxUID
    assert after.PixelData == before.PixelData
    assert patient_of(after)[0] == "P-77"
    assert read_header(out, HeaderLimits()).sop_uid == before.SOPInstanceUID
    tool = shutil.which("dciodvfy")
    assert tool is not None, "dicom3tools is missing"

    def errors(content: bytes) -> set[str]:
        path = tmp_path / "x.dcm"
        path.write_bytes(content)
        said: Any = subprocess.run([tool, str(path)], capture_output=True, text=True, check=False, errors="replace")
        return {line for line in said.stderr.splitlines() if line.startswith("Error")}

    assert errors(out) <= errors(data)


@pytest.mark.requirement("D44")
@pytest.mark.shared
def test_what_is_served_has_no_preamble(shared_data: Path) -> None:
    for name in ("polyglot_tiff_preamble.dcm", "polyglot_html_preamble.dcm"):
        data = (shared_data / "dicom" / "hostile" / name).read_bytes()
        served = as_served(data)
        assert served[:128] == bytes(128)
        assert served[128:] == data[128:]
        assert len(served) == len(data)


@pytest.mark.requirement("D44")
def test_every_byte_but_the_preamble_is_served() -> None:
    data = part10(instance())
    assert as_served(data) is data
    marked = b"<html>".ljust(128, b"x") + data[128:]
    assert as_served(marked) == data
    with pytest.raises(Rejected):
        as_served(b"<html>")

"""The header's JSON model equals pydicom's own, whatever the file, and costs no more than it may."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.dataelem import DataElement
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from imaging_core.dicom.header import HeaderLimits, complete, read_header, read_opening
from imaging_core.errors import Rejected
from tests.dicom_samples import instance, part10

LIMITS = HeaderLimits()
Json = dict[str, Any]


def samples() -> list[Path]:
    small = get_testdata_file("CT_small.dcm")
    stored = get_testdata_file("SC_rgb_rle.dcm")
    assert isinstance(small, str)
    assert isinstance(stored, str)
    found = {path for folder in (small, stored) for path in Path(folder).parent.rglob("*") if path.is_file()}
    return sorted(path for path in found if path.read_bytes()[128:132] == b"DICM")


def comparable(model: Any) -> Any:
    """What the index promises: no private, binary or bulky values, no padding, no numbers that JSON can't hold."""
    if isinstance(model, list):
        return [comparable(item) for item in model]
    if isinstance(model, str):
        return model.strip("\0 ")
    if not isinstance(model, dict):
        return model
    out = {}
    for key, value in model.items():
        tag = len(key) == 8 and isinstance(value, dict)
        if tag and (int(key[:4], 16) % 2 or value["vr"] in ("OB", "OW", "OF", "OD", "OL", "OV", "UN", "OB or OW")):
            continue
        if tag and (len(value.get("Value", ())) * 2 >= 1024 or "InlineBinary" in value or _not_finite(value)):
            continue
        out[key] = comparable(value)
    return out


def _not_finite(element: Json) -> bool:
    return any(isinstance(value, float) and not math.isfinite(value) for value in element.get("Value", ()))


@pytest.mark.requirement("D19", "D20", "D47")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_real_header_reads_as_pydicom_reads_it() -> None:
    compared = 0
    for path in samples():
        data = path.read_bytes()
        try:
            found = read_header(data, LIMITS).attributes
        except Rejected:
            continue
        try:
            expected = dcmread(io.BytesIO(data)).to_json_dict()
        except (ValueError, TypeError):
            continue  # a number that is none: pydicom has no model of the whole, we leave the element out
        expected.pop("7FE00010", None)
        assert comparable(found) == comparable(expected), path.name
        compared += 1
    assert compared >= 130


TEXT = st.text("ABCxyz 019^=.-\\äéµ", max_size=40)


@pytest.mark.requirement("D19", "D20")
@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    name=TEXT,
    text=TEXT,
    comment=TEXT,
    numbers=st.lists(st.integers(0, 65535), max_size=8),
    decimals=st.lists(st.decimals(-9999, 9999, places=3), max_size=4),
    charset=st.sampled_from(["", "ISO_IR 100", "ISO_IR 192"]),
    syntax=st.sampled_from([None, ImplicitVRLittleEndian, ExplicitVRBigEndian]),
)
def test_made_headers_read_as_pydicom_reads_them(
    name: str,
    text: str,
    comment: str,
    numbers: list[int],
    decimals: list[Any],
    charset: str,
    syntax: str | None,
) -> None:
    if not charset:
        name, text, comment = (value.encode("ascii", "ignore").decode() for value in (name, text, comment))
    dataset = instance(SpecificCharacterSet=charset, PatientName=name, InstitutionName=text, ImageComments=comment)
    dataset.FrameIncrementPointer = [0x00181063, 0x00181065]
    dataset.RepresentativeFrameNumber = numbers[0] if numbers else None
    dataset.SimpleFrameList = numbers
    dataset.ImagePositionPatient = [str(value) for value in decimals]
    nested = Dataset()
    nested.PatientName = name
    nested.CodeValue = "X"
    dataset.RequestAttributesSequence = Sequence([nested, Dataset()])
    if syntax:
        dataset.file_meta.TransferSyntaxUID = syntax
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    data = out.getvalue()
    found = read_header(data, LIMITS).attributes
    try:
        expected = dcmread(io.BytesIO(data)).to_json_dict()
    except IndexError:
        return  # pydicom has no model of a name that is empty beside another
    expected.pop("7FE00010")
    assert comparable(found) == comparable(expected)


def test_the_beginning_of_a_file_is_enough() -> None:
    for path in samples():
        data = path.read_bytes()
        try:
            whole = read_header(data, LIMITS)
        except Rejected as error:
            whole = error.code  # type: ignore[assignment]
        for cut in (133, 400, 1_000, 4_096, 65_536):
            try:
                opening = read_opening(data[:cut], len(data), LIMITS)
                found: Any = complete(opening, data, LIMITS) if opening else whole
            except Rejected as error:
                found = error.code
            assert found == whole, (path.name, cut)


@pytest.mark.requirement("D47")
def test_numbers_that_json_cannot_hold_are_left_out() -> None:
    dataset = instance()
    dataset.add(DataElement(0x00189087, "FD", [math.nan]))
    dataset.WindowCenter = "40"
    data = part10(dataset)
    attributes = read_header(data, LIMITS).attributes
    assert "00189087" not in attributes
    assert attributes["00281050"]["Value"] == [40.0]
    unreadable = data.replace(b"\x28\x00\x50\x10DS\x02\x0040", b"\x28\x00\x50\x10DS\x04\x00nan ")
    assert "00281050" not in read_header(unreadable, LIMITS).attributes


@pytest.mark.requirement("D45")
def test_hidden_elements_count_too() -> None:
    dataset = instance()
    block = dataset.private_block(0x0011, "TEST", create=True)
    items = []
    for _ in range(30):
        item = Dataset()
        item.CodeValue = "x"
        items.append(item)
    block.add_new(0x01, "SQ", Sequence(items))
    for is_undefined in (True, False):
        dataset[0x00111001].is_undefined_length = is_undefined
        with pytest.raises(Rejected, match="MAX_ELEMENTS = 45"):
            read_header(part10(dataset), HeaderLimits(max_elements=45))

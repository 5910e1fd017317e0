"""One instance in several encodings is one instance; whatever else differs makes two."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from imaging_core.dicom.same_content import same_content
from tests.dicom_samples import part10

pytestmark = pytest.mark.requirement("D14", "D15")


def file(name: str) -> bytes:
    path = get_testdata_file(name)
    assert path is not None
    with open(path, "rb") as opened:
        return opened.read()


def changed(data: bytes, change: Callable[[Dataset], object]) -> bytes:
    dataset = dcmread(io.BytesIO(data))
    change(dataset)
    return part10(dataset)


def encoded(data: bytes, syntax: str) -> bytes:
    dataset = dcmread(io.BytesIO(data))
    if syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless):
        dataset.compress(syntax, generate_instance_uid=False)
        return part10(dataset)
    out = io.BytesIO()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(out, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True)
    return out.getvalue()


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm"])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_another_encoding_is_the_same_instance(name: str, syntax: str) -> None:
    original = file(name)
    other = encoded(original, syntax)
    assert other != original
    assert same_content(original, other)
    assert same_content(other, original)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("MR_small.dcm", "MR_small_implicit.dcm"),
        ("MR_small.dcm", "MR_small_bigendian.dcm"),
        ("MR_small.dcm", "MR_small_RLE.dcm"),
        ("MR_small.dcm", "MR_small_jpeg_ls_lossless.dcm"),
        ("MR_small.dcm", "MR_small_jp2klossless.dcm"),
        ("MR_small.dcm", "MR_small_padded.dcm"),
        ("SC_rgb_16bit.dcm", "SC_rgb_rle_16bit.dcm"),
        ("SC_rgb_32bit.dcm", "SC_rgb_expb_32bit.dcm"),
        ("OBXXXX1A.dcm", "OBXXXX1A_expb.dcm"),
        ("rtdose.dcm", "rtdose_expb.dcm"),
    ],
)
def test_encodings_that_others_wrote(one: str, other: str) -> None:
    assert same_content(file(one), file(other))
    assert same_content(file(other), file(one))


def one_pixel(dataset: Dataset) -> None:
    pixels = bytearray(dataset.PixelData)
    pixels[2001] ^= 1
    dataset.PixelData = bytes(pixels)


@pytest.mark.parametrize(
    "change",
    [
        one_pixel,
        lambda dataset: setattr(dataset, "PatientName", "Other^Person"),
        lambda dataset: dataset.add_new(0x00081030, "LO", "another"),
        lambda dataset: delattr(dataset, "Modality"),
        lambda dataset: dataset.add_new(0x00431099, "LO", "private"),
        lambda dataset: setattr(dataset, "ImageType", ["ORIGINAL", "PRIMARY"]),
    ],
)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, ImplicitVRLittleEndian])
def test_what_differs_is_another(change: Callable[[Dataset], object], syntax: str) -> None:
    original = file("CT_small.dcm")
    assert not same_content(original, encoded(changed(original, change), syntax))


def test_nested_items_and_private_elements_count() -> None:
    def nested(text: str) -> Callable[[Dataset], object]:
        def change(dataset: Dataset) -> None:
            item = Dataset()
            item.CodeMeaning = text
            dataset.ProcedureCodeSequence = [item]
            block = dataset.private_block(0x0099, "MAKER", create=True)
            block.add_new(1, "LO", text)

        return change

    original = file("MR_small.dcm")
    one, two = changed(original, nested("one")), changed(original, nested("two"))
    assert same_content(one, encoded(one, ImplicitVRLittleEndian))
    assert not same_content(one, two)


def test_what_stands_behind_the_last_frame_counts() -> None:
    original = file("MR_small.dcm")
    longer = changed(original, lambda dataset: setattr(dataset, "PixelData", dataset.PixelData + b"ab"))
    assert not same_content(original, longer)
    assert not same_content(longer, encoded(original, RLELossless))


def test_lossy_pixels_are_never_the_same() -> None:
    lossy = file("JPEG2000.dcm")
    plain = dcmread(io.BytesIO(lossy))
    plain.decompress(generate_instance_uid=False)
    assert same_content(lossy, lossy)
    assert not same_content(lossy, part10(plain))

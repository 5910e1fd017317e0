"""From stored values to display values, in the standard's order, on made and real instances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file

from imaging_core.dicom.child import DecodePool
from imaging_core.dicom.pixels import Window, decode, render
from imaging_core.errors import Rejected
from tests.dicom_samples import instance, part10


def ramp(**changes: Any) -> Dataset:
    """A 4 x 4 instance whose stored values are 0 to 15."""
    return instance(PixelData=np.arange(16, dtype="<u2").tobytes(), **changes)


@pytest.mark.requirement("D25")
def test_monochrome1_is_inverted_once() -> None:
    plain, inverse = decode(part10(ramp())), decode(part10(ramp(PhotometricInterpretation="MONOCHROME1")))
    assert np.array_equal(plain.values, inverse.values)
    assert np.array_equal(plain.pixels, -inverse.pixels)
    window = Window(7.5, 15, "LINEAR_EXACT")
    assert np.array_equal(render(plain, window), 255 - render(inverse, window))


@pytest.mark.requirement("D33")
def test_presentation_shape_inverse() -> None:
    assert decode(part10(ramp(PresentationLUTShape="INVERSE"))).inverted
    assert not decode(part10(ramp(PresentationLUTShape="IDENTITY"))).inverted


@pytest.mark.requirement("D26", "D28")
@pytest.mark.parametrize(
    ("function", "expected"),
    [
        # PS3.3 C.11.2.1.2.1 with centre 8, width 9: y = ((x - 7.5) / 8 + 0.5) * 255
        ("LINEAR", lambda x: np.clip((x - 7.5) / 8 + 0.5, 0, 1) * 255),
        ("LINEAR_EXACT", lambda x: np.clip((x - 8) / 9 + 0.5, 0, 1) * 255),
        ("SIGMOID", lambda x: 255 / (1 + np.exp(-4 * (x - 8) / 9))),
    ],
)
def test_window_functions(function: str, expected: Any) -> None:
    image = decode(part10(ramp(WindowCenter="8", WindowWidth="9", VOILUTFunction=function)))
    assert np.allclose(render(image).ravel(), np.rint(expected(np.arange(16.0))), atol=1)


@pytest.mark.requirement("D28")
@pytest.mark.parametrize(("center", "width"), [("8", "0"), ("8", "-5"), ("8", "0.5")])
def test_unusable_windows_are_ignored(center: str, width: str) -> None:
    assert decode(part10(ramp(WindowCenter=center, WindowWidth=width))).windows == ()


@pytest.mark.requirement("D26")
def test_rescale_goes_before_the_window() -> None:
    image = decode(part10(ramp(RescaleSlope="2", RescaleIntercept="-1024")))
    assert image.values.min() == -1024
    assert image.values.max() == -1024 + 30


@pytest.mark.requirement("D26", "D27")
def test_luts_win_over_rescale_and_window() -> None:
    table = Dataset()
    table.LUTDescriptor = [16, 0, 16]
    table.LUTData = (np.arange(16)[::-1] * 100).astype("<u2").tobytes()
    table["LUTData"].VR = "OW"
    table.ModalityLUTType = "US"
    image = decode(part10(ramp(ModalityLUTSequence=[table])))
    assert image.values.ravel().tolist() == [100.0 * value for value in range(15, -1, -1)]
    voi = Dataset()
    voi.LUTDescriptor = [16, 0, 8]
    voi.LUTData = np.array([0] * 8 + [255] * 8, "<u2").tobytes()
    voi["LUTData"].VR = "OW"
    shown = render(decode(part10(ramp(VOILUTSequence=[voi], WindowCenter="3", WindowWidth="2"))))
    assert shown.ravel().tolist() == [0] * 8 + [255] * 8


@pytest.mark.requirement("D30")
def test_padding_is_masked() -> None:
    image = decode(part10(ramp(PixelPaddingValue=15)))
    assert not image.valid.ravel()[15]
    assert render(image).ravel()[15] == 0
    limits = decode(part10(ramp(PixelPaddingValue=0, PixelPaddingRangeLimit=3)))
    assert limits.valid.ravel().tolist() == [False] * 4 + [True] * 12


@pytest.mark.requirement("D32")
def test_overlay_bits_are_masked_and_signs_extended() -> None:
    stored = (np.arange(16) | 0xF000).astype("<u2").tobytes()
    image = decode(part10(instance(PixelData=stored, BitsStored=12, HighBit=11)))
    assert image.values.ravel().tolist() == list(range(16))
    signed = (np.arange(-8, 8) & 0x0FFF).astype("<u2").tobytes()
    image = decode(part10(instance(PixelData=signed, BitsStored=12, HighBit=11, PixelRepresentation=1)))
    assert image.values.ravel().tolist() == list(range(-8, 8))


@pytest.mark.requirement("D29", "D34")
def test_typed_refusals() -> None:
    with pytest.raises(Rejected) as caught:
        decode(part10(ramp()), 1)
    assert caught.value.code == "not-found"
    with pytest.raises(Rejected) as caught:
        decode(part10(instance(PixelData=None)))
    assert caught.value.code == "no-pixels"


SAMPLES = [
    "CT_small.dcm",
    "MR_small.dcm",
    "MR_small_RLE.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "MR_small_jp2klossless.dcm",
    "JPEG-LL.dcm",
    "JPEG-lossy.dcm",
    "SC_rgb_rle.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "OBXXXX1A_rle.dcm",
    "emri_small.dcm",
    "examples_palette.dcm",
    "examples_ybr_color.dcm",
]


def sample(name: str) -> bytes:
    found = get_testdata_file(name)
    assert isinstance(found, str), f"{name} is missing: is pydicom-data installed?"
    return Path(found).read_bytes()


@pytest.mark.requirement("D31", "D34")
@pytest.mark.parametrize("name", SAMPLES)
def test_real_encodings_are_decoded(decoder: DecodePool, name: str) -> None:
    data = sample(name)
    image = decoder.decode(data)
    header = dcmread(get_testdata_file(name), stop_before_pixels=True)
    assert image.values.shape[:2] == (header.Rows, header.Columns)
    assert np.isfinite(image.values).all()
    assert decoder.render_png(data).startswith(b"\x89PNG")


@pytest.mark.requirement("D37")
@pytest.mark.parametrize("name", ["MR_small_RLE.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_jp2klossless.dcm"])
def test_lossless_encodings_decode_alike(decoder: DecodePool, name: str) -> None:
    assert np.array_equal(decoder.decode(sample(name)).values, decoder.decode(sample("MR_small.dcm")).values)

"""Real files against DCMTK: the same picture, whatever the encoding, the signs, the tables and the windows."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.sequence import Sequence

from imaging_core.dicom.child import DecodePool
from imaging_core.dicom.header import HeaderLimits, read_header
from imaging_core.dicom.pixels import Window, decode, render
from imaging_core.dicom.spacing import Spacing, spacing_in_dataset, spacing_in_json
from imaging_core.errors import Rejected
from tests.dicom_samples import instance, part10

Picture = npt.NDArray[np.uint8]


def path_of(name: str) -> Path:
    found = get_testdata_file(name)
    assert isinstance(found, str), f"{name} is missing: is pydicom-data installed?"
    return Path(found)


def dcmtk(path: Path, folder: Path, *options: str) -> Picture:
    """What DCMTK makes of a file."""
    tool = shutil.which("dcmj2pnm")
    assert tool is not None, "dcmtk is missing"
    out = folder / "out.pnm"
    subprocess.run([tool, "--quiet", *options, str(path), str(out)], check=True, capture_output=True)
    return np.asarray(Image.open(out))


FIRST_WINDOW = ["MR_small.dcm", "MR_small_RLE.dcm", "RG1_UNCR.dcm", "RG3_UNCR.dcm", "MR2_UNCR.dcm", "693_UNCR.dcm"]
OWN_WINDOW = [
    ("CT_small.dcm", 40.0, 400.0),
    ("JPEG-LL.dcm", 200.0, 600.0),
    ("JPEG-lossy.dcm", 500.0, 1500.0),
    ("emri_small.dcm", 300.0, 900.0),
    ("MR_small_bigendian.dcm", 600.0, 1600.0),
    ("RG1_UNCR.dcm", 10_000.0, 8_000.0),
    ("mlut_18.dcm", 100.0, 150.0),
]


@pytest.mark.requirement("D25", "D26")
@pytest.mark.parametrize("name", FIRST_WINDOW)
def test_first_window(tmp_path: Path, name: str) -> None:
    """Among them two MONOCHROME1 radiographs (RG1, RG3), inverted once."""
    found = render(decode(path_of(name).read_bytes()))
    assert np.abs(found.astype(int) - dcmtk(path_of(name), tmp_path, "+Wi", "1")).max() <= 1


@pytest.mark.requirement("D25", "D26", "D27", "D32")
@pytest.mark.parametrize("function", ["LINEAR", "SIGMOID"])
@pytest.mark.parametrize(("name", "center", "width"), OWN_WINDOW)
def test_any_window(tmp_path: Path, name: str, center: float, width: float, function: str) -> None:
    """Signed and unsigned, rescaled and with a modality table, 12 bits in JPEG, lossless JPEG, big endian."""
    found = render(decode(path_of(name).read_bytes()), Window(center, width, function))
    options = ["+Ww", f"{center:g}", f"{width:g}", "+Wfs" if function == "SIGMOID" else "+Wfl"]
    difference = np.abs(found.astype(int) - dcmtk(path_of(name), tmp_path, *options))
    assert difference.max() <= 2, difference.max()


@pytest.mark.requirement("D26", "D27")
def test_tables_go_before_windows(tmp_path: Path) -> None:
    lut = path_of("vlut_04.dcm")
    assert np.array_equal(render(decode(lut.read_bytes())), dcmtk(lut, tmp_path, "+Wl", "1"))


COLOURS = [
    ("SC_rgb.dcm", 0),
    ("SC_rgb_rle.dcm", 0),
    ("color-pl.dcm", 0),
    ("color-px.dcm", 0),
    ("US1_UNCR.dcm", 0),
    ("OBXXXX1A.dcm", 1),
    ("examples_palette.dcm", 1),
    ("examples_ybr_color.dcm", 1),
    ("SC_ybr_full_uncompressed.dcm", 2),
    ("SC_ybr_full_422_uncompressed.dcm", 2),
    ("SC_rgb_jpeg_dcmtk.dcm", 3),
    ("SC_rgb_dcmtk_+eb+cr.dcm", 3),
    ("SC_rgb_dcmtk_+eb+cy+s4.dcm", 3),
    ("color3d_jpeg_baseline.dcm", 3),
]


@pytest.mark.requirement("D31")
@pytest.mark.parametrize(("name", "tolerance"), COLOURS)
def test_colours(tmp_path: Path, name: str, tolerance: int) -> None:
    """RGB in both planar orders, YBR full and subsampled, palettes, JPEG with and without colour transformation."""
    found = render(decode(path_of(name).read_bytes()))
    expected = dcmtk(path_of(name), tmp_path)
    difference = np.abs(found.astype(int) - expected)
    # chroma is upsampled in more than one right way: at edges single pixels differ
    assert np.quantile(difference, 0.995) <= tolerance
    assert difference.mean() < 1


@pytest.mark.requirement("D31")
@pytest.mark.parametrize(
    ("coded", "plain", "tolerance"), [("US1_J2KR.dcm", "US1_UNCR.dcm", 0), ("US1_J2KI.dcm", "US1_UNCI.dcm", 12)]
)
def test_jpeg_2000_colour_transformations(coded: str, plain: str, tolerance: int) -> None:
    """DCMTK reads no JPEG 2000: the reversible transformation (RCT) is exact, the other (ICT) near."""
    found, expected = (decode(path_of(name).read_bytes()).values for name in (coded, plain))
    difference = np.abs(found - expected)
    assert np.quantile(difference, 0.99) <= tolerance


@pytest.mark.requirement("D31")
def test_known_colours() -> None:
    """The bars of pydicom's SC_rgb, seen by eye: red, green, blue ... grey, black, white."""
    image = decode(path_of("SC_rgb.dcm").read_bytes()).values
    rows = [image[row, 50].tolist() for row in (5, 25, 45, 65, 75, 85, 95)]
    assert rows == [[255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0], [64, 64, 64], [192, 192, 192], [255, 255, 255]]


@pytest.mark.requirement("D32")
def test_signed_pixels_of_lossless_jpeg_keep_their_sign(tmp_path: Path) -> None:
    name = path_of("JPEG-LL.dcm")
    plain = tmp_path / "plain.dcm"
    subprocess.run(["dcmdjpeg", str(name), str(plain)], check=True, capture_output=True)
    assert dcmread(name).PixelRepresentation == 1
    assert np.array_equal(decode(name.read_bytes()).values, dcmread(plain).pixel_array)


@pytest.mark.requirement("D32")
def test_overlay_bits_above_real_pixels_are_masked() -> None:
    data = path_of("mlut_18.dcm").read_bytes()
    dataset = dcmread(io.BytesIO(data))
    raw = np.frombuffer(dataset.PixelData, "<u2").reshape(dataset.Rows, dataset.Columns)
    assert (raw >> int(dataset.BitsStored)).any(), "the sample has bits above its stored ones"
    del dataset.ModalityLUTSequence
    expected = (raw & ((1 << int(dataset.BitsStored)) - 1)).astype(int)
    if dataset.PixelRepresentation:
        expected -= (expected >> (int(dataset.BitsStored) - 1)) << int(dataset.BitsStored)
    assert np.array_equal(decode(part10(dataset)).values, expected)


# --- multi-frame


def enhanced() -> Dataset:
    """Two frames, each with a transformation, a window and a spacing of its own."""
    dataset = instance(NumberOfFrames=2, PixelData=np.arange(32, dtype="<u2").tobytes())
    frames = []
    for number in (1, 2):
        group, transformation, window, measures = Dataset(), Dataset(), Dataset(), Dataset()
        transformation.RescaleSlope, transformation.RescaleIntercept = str(number), "-5"
        transformation.RescaleType = "US"
        window.WindowCenter, window.WindowWidth = str(10 * number), "20"
        measures.PixelSpacing = [str(number), str(number / 2)]
        group.PixelValueTransformationSequence = Sequence([transformation])
        group.FrameVOILUTSequence = Sequence([window])
        group.PixelMeasuresSequence = Sequence([measures])
        frames.append(group)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    dataset.SharedFunctionalGroupsSequence = Sequence([Dataset()])
    return dataset


@pytest.mark.requirement("D34", "D35")
def test_each_frame_has_its_own_groups() -> None:
    data = part10(enhanced())
    first, second = decode(data, 0), decode(data, 1)
    assert first.values.ravel().tolist() == [value - 5.0 for value in range(16)]
    assert second.values.ravel().tolist() == [2.0 * value - 5.0 for value in range(16, 32)]
    assert (first.windows[0].center, second.windows[0].center) == (10, 20)
    assert second.spacing == Spacing(2.0, 1.0, "patient")
    assert first.frames == second.frames == 2


@pytest.mark.requirement("D29")
def test_a_slope_of_zero_in_one_frame_is_rejected() -> None:
    dataset = enhanced()
    dataset.PerFrameFunctionalGroupsSequence[1].PixelValueTransformationSequence[0].RescaleSlope = "0"
    data = part10(dataset)
    for read in (lambda: read_header(data, HeaderLimits()), lambda: decode(data, 1)):
        with pytest.raises(Rejected) as caught:
            read()
        assert caught.value.code == "bad-rescale"


@pytest.mark.requirement("D34", "D45")
@pytest.mark.parametrize(
    ("frames", "code"), [(40_000_000, "too-many-pixels"), (3, "truncated"), (2**31 - 1, "too-many-pixels")]
)
def test_frames_are_counted_before_they_are_believed(frames: int, code: str) -> None:
    with pytest.raises(Rejected) as caught:
        read_header(part10(instance(NumberOfFrames=frames)), HeaderLimits())
    assert caught.value.code == code


@pytest.mark.requirement("D34")
def test_every_frame_of_a_real_file_differs_and_there_is_none_beyond(decoder: DecodePool) -> None:
    data = path_of("emri_small_jpeg_2k_lossless.dcm").read_bytes()
    plain = path_of("emri_small.dcm").read_bytes()
    frames = decoder.decode(data).frames
    assert frames == 10
    pictures = [decoder.decode(data, number).values for number in range(frames)]
    assert len({picture.tobytes() for picture in pictures}) == frames
    assert all(np.array_equal(decoder.decode(plain, number).values, pictures[number]) for number in range(frames))
    with pytest.raises(Rejected) as caught:
        decoder.decode(data, frames)
    assert caught.value.code == "not-found"


# --- spacing


@pytest.mark.requirement("D35")
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"PixelSpacing": ["0.5", "0.25"]}, Spacing(0.5, 0.25, "patient")),
        ({"PixelSpacing": ["0", "0"]}, None),
        ({"PixelSpacing": ["0.5", "0"]}, None),
        ({"PixelSpacing": ["-1", "1"]}, None),
        ({"PixelSpacing": "0.5"}, None),
        ({"PixelSpacing": ""}, None),
        ({}, None),
        ({"ImagerPixelSpacing": ["0.1", "0.1"]}, Spacing(0.1, 0.1, "detector")),
        ({"NominalScannedPixelSpacing": ["0.1", "0.1"]}, Spacing(0.1, 0.1, "detector")),
        ({"PixelSpacing": ["0", "0"], "ImagerPixelSpacing": ["0.1", "0.1"]}, Spacing(0.1, 0.1, "detector")),
        (
            {"PixelSpacing": ["0.2", "0.2"], "ImagerPixelSpacing": ["0.1", "0.1"]},
            Spacing(0.2, 0.2, "patient"),
        ),
        (
            {"PixelSpacing": ["0.2", "0.2"], "PixelSpacingCalibrationType": "FIDUCIAL"},
            Spacing(0.2, 0.2, "patient", "FIDUCIAL"),
        ),
    ],
)
def test_spacing_says_where_it_is(changes: dict[str, Any], expected: Spacing | None) -> None:
    data = part10(instance(**changes))
    assert decode(data).spacing == expected
    assert spacing_in_json(read_header(data, HeaderLimits()).attributes) == expected


@pytest.mark.requirement("D35")
def test_real_spacings() -> None:
    mr = spacing_in_dataset(dcmread(path_of("MR_small.dcm")))
    assert mr is not None
    assert (mr.place, round(mr.aspect, 6)) == ("patient", 1.0)
    assert decode(path_of("emri_small.dcm").read_bytes()).spacing is None  # it has lost its functional groups


# --- trailing bytes


@pytest.mark.requirement("D49")
@pytest.mark.parametrize(
    "name",
    ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "SC_rgb_jpeg_dcmtk.dcm", "emri_small_RLE.dcm", "CT_small.dcm"],
)
def test_bytes_behind_real_files_are_found(decoder: DecodePool, name: str) -> None:
    data = path_of(name).read_bytes()
    read_header(data, HeaderLimits())
    for tail in (b"%PDF-1.7\n hidden", b"PK\x03\x04", b"\xfe\xff\xdd\xe0\0\0\0\0", data[132:400]):
        with pytest.raises(Rejected) as caught:
            decoder.header(data + tail)
        assert caught.value.code == "trailing-bytes", tail
    decoder.header(data + bytes(64))

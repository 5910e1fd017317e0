"""A frame that claims to be another size is refused from its own header, before a decoder sees it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import HTJ2KLossless

from imaging_core.dicom.child import DecodePool
from imaging_core.dicom.codestream import check_codestream, read_shape
from imaging_core.errors import Rejected
from tests.dicom_samples import part10

# A real file of each family, the offset of its frame's size from a mark, and how the size is packed.
FAMILIES = [
    ("SC_rgb_jpeg_dcmtk.dcm", "JPEG baseline"),
    ("JPEG-lossy.dcm", "JPEG extended, 12 bits"),
    ("JPEG-LL.dcm", "JPEG lossless"),
    ("MR_small_jpeg_ls_lossless.dcm", "JPEG-LS"),
    ("MR_small_jp2klossless.dcm", "JPEG 2000"),
    ("MR_small.dcm as HTJ2K", "HTJ2K"),
]


def sample(name: str) -> Dataset:
    name, _, family = name.partition(" as ")
    found = get_testdata_file(name)
    assert isinstance(found, str), f"{name} is missing: is pydicom-data installed?"
    dataset = dcmread(found)
    if family:
        frame = imagecodecs.htj2k_encode(dataset.pixel_array, level=None, reversible=True)
        dataset.PixelData = encapsulate([frame])
        dataset.file_meta.TransferSyntaxUID = HTJ2KLossless
    return dataset


def frame_of(dataset: Dataset) -> bytes:
    return bytes(get_frame(dataset.PixelData, 0, number_of_frames=int(dataset.get("NumberOfFrames", 1) or 1)))


def expectations(dataset: Dataset) -> dict[str, int]:
    return {
        "rows": dataset.Rows,
        "columns": dataset.Columns,
        "samples": dataset.SamplesPerPixel,
        "bits_allocated": dataset.BitsAllocated,
    }


def lying(frame: bytes, rows: int, columns: int) -> bytes:
    """The same codestream with another size in its header."""
    out = bytearray(frame)
    at = frame.find(b"\xff\x51")
    if frame.startswith(b"\xff\x4f"):
        out[at + 6 : at + 10] = columns.to_bytes(4, "big")
        out[at + 10 : at + 14] = rows.to_bytes(4, "big")
        return bytes(out)
    at = 2
    while frame[at + 1] not in {*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), 0xF7}:
        at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    out[at + 5 : at + 7] = rows.to_bytes(2, "big")
    out[at + 7 : at + 9] = columns.to_bytes(2, "big")
    return bytes(out)


@pytest.mark.requirement("D36")
@pytest.mark.parametrize("name", [name for name, _ in FAMILIES], ids=[kind for _, kind in FAMILIES])
@pytest.mark.parametrize("claim", [(65_535, 65_535), (1, 1), (64, 60_000)])
def test_every_family_is_compared_with_the_data_set(decoder: DecodePool, name: str, claim: tuple[int, int]) -> None:
    dataset = sample(name)
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    frame = frame_of(dataset)
    shape = check_codestream(frame, syntax, **expectations(dataset))
    assert shape is not None
    assert (shape.rows, shape.columns) == (dataset.Rows, dataset.Columns)
    liar = lying(frame, *claim)
    with pytest.raises(Rejected) as caught:
        check_codestream(liar, syntax, **expectations(dataset))
    assert caught.value.code == "codestream-mismatch"
    dataset.PixelData = encapsulate([liar])
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(dataset, keyword, getattr(dataset, keyword, "") or "1.2.3")
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    data = part10(dataset)
    with pytest.raises(Rejected) as caught:
        decoder.decode(data)
    assert caught.value.code == "codestream-mismatch"
    with pytest.raises(Rejected) as caught:
        decoder.header(data)
    assert caught.value.code == "codestream-mismatch"


@pytest.mark.requirement("D36")
@pytest.mark.parametrize(
    "change",
    [
        lambda frame: b"\x05" + frame[1:],  # five segments where two bytes make a pixel
        lambda frame: frame[:4] + (2**31).to_bytes(4, "little") + frame[8:],
        lambda frame: frame[:80],
        lambda frame: frame[:40],
    ],
    ids=["segments", "offset", "short", "no header"],
)
def test_rle_is_compared_too(decoder: DecodePool, change: Any) -> None:
    dataset = sample("MR_small_RLE.dcm")
    frame = frame_of(dataset)
    check_codestream(frame, "1.2.840.10008.1.2.5", **expectations(dataset))
    dataset.PixelData = encapsulate([change(frame)])
    with pytest.raises(Rejected) as caught:
        decoder.decode(part10(dataset))
    assert caught.value.code == "codestream-mismatch"


@pytest.mark.requirement("D36")
def test_every_real_frame_passes(decoder: DecodePool) -> None:
    """The check refuses no honest file: those that pydicom itself decodes."""
    small, stored = get_testdata_file("CT_small.dcm"), get_testdata_file("SC_rgb_rle.dcm")
    checked = 0
    for folder in {Path(str(small)).parent, Path(str(stored)).parent}:
        for path in folder.glob("*.dcm"):
            data = path.read_bytes()
            if data[128:132] != b"DICM" or path.name == "JPEG2000-embedded-sequence-delimiter.dcm":
                continue
            dataset = dcmread(io.BytesIO(data))
            syntax = dataset.file_meta.get("TransferSyntaxUID")
            if "PixelData" not in dataset or syntax is None or not syntax.is_encapsulated or not dataset.get("Rows"):
                continue
            try:
                frame = frame_of(dataset)
            except (ValueError, EOFError):
                continue
            check_codestream(frame, str(syntax), **expectations(dataset))
            checked += 1
    assert checked >= 35


def test_near_lossless_is_told_from_lossless() -> None:
    lossless, near = sample("MR_small_jpeg_ls_lossless.dcm"), sample("JPEGLSNearLossless_08.dcm")
    found = [read_shape(frame_of(item), str(item.file_meta.TransferSyntaxUID)) for item in (lossless, near)]
    assert found[0] is not None
    assert found[1] is not None
    assert found[0].near == 0
    assert found[1].near > 0


@pytest.mark.parametrize("cut", range(0, 60, 3))
@pytest.mark.parametrize("name", [name for name, _ in FAMILIES])
def test_a_cut_header_is_complete_or_a_typed_refusal(name: str, cut: int) -> None:
    dataset = sample(name)
    found, code = None, "codestream-mismatch"
    try:
        found = check_codestream(
            frame_of(dataset)[:cut], str(dataset.file_meta.TransferSyntaxUID), **expectations(dataset)
        )
    except Rejected as error:
        code = error.code
    assert code == "codestream-mismatch"
    assert found is None or (found.rows, found.columns) == (dataset.Rows, dataset.Columns)


def test_noise_never_escapes_as_another_error() -> None:
    random = np.random.default_rng(1)
    for name, _ in FAMILIES:
        dataset = sample(name)
        frame = bytearray(frame_of(dataset)[:4_000])
        for _ in range(200):
            noisy = bytearray(frame)
            for at in random.integers(2, 200, 4):
                noisy[at] = int(random.integers(0, 256))
            try:
                check_codestream(bytes(noisy), str(dataset.file_meta.TransferSyntaxUID), **expectations(dataset))
            except Rejected:
                continue

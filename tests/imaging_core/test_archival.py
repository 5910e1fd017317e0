"""The archival rendition: the same stored values in fewer bytes, proven by other programs than its writer."""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
)

from imaging_core.dicom import archival
from imaging_core.dicom.archival import ArchiveSyntax, archival_rendition
from imaging_core.dicom.child import DecodePool
from imaging_core.dicom.header import HeaderLimits, read_header
from imaging_core.errors import Rejected
from tests.dicom_samples import instance, part10

SYNTAXES: list[ArchiveSyntax] = ["jpeg-ls", "htj2k"]
UIDS = {"jpeg-ls": JPEGLSLossless, "htj2k": HTJ2KLossless}
LIMITS = HeaderLimits()
SMOOTH = np.add.outer(np.arange(64), np.arange(48)).astype("<u2")


def sample(name: str) -> bytes:
    found = get_testdata_file(name)
    assert isinstance(found, str), f"{name} is missing: is pydicom-data installed?"
    return Path(found).read_bytes()


def picture(pixels: np.ndarray[Any, Any], **changes: Any) -> Dataset:
    """An instance of these pixels; 16 bits stored unless `changes` say otherwise."""
    frames = changes.pop("frames", 1)
    shape = pixels.shape[1:] if frames > 1 else pixels.shape
    samples = 3 if len(shape) == 3 else 1
    planar = changes.pop("planar", 0)
    rows, columns = (shape[1:] if planar else shape[:2]) if samples == 3 else shape
    bits = pixels.dtype.itemsize * 8
    dataset = instance(PixelData=None, Rows=rows, Columns=columns, SamplesPerPixel=samples)
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    if samples == 3:
        dataset.PhotometricInterpretation, dataset.PlanarConfiguration = "RGB", planar
    if frames > 1:
        dataset.NumberOfFrames = frames
    body = pixels.tobytes()
    dataset.PixelData = body + b"\0" * (len(body) % 2)
    dataset["PixelData"].VR = "OW" if bits == 16 else "OB"
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    return dataset


def stored_values(data: bytes) -> np.ndarray[Any, Any]:
    """What pydicom makes of a file, with its own plugins (DCMTK for lossless JPEG): the bits that are stored."""
    dataset = dcmread(io.BytesIO(data))
    if dataset.file_meta.TransferSyntaxUID in (JPEGLossless, JPEGLosslessSV1):
        with tempfile.TemporaryDirectory() as folder:
            coded, plain = Path(folder, "coded"), Path(folder, "plain")
            coded.write_bytes(data)
            subprocess.run(["dcmdjpeg", str(coded), str(plain)], check=True, capture_output=True)
            return stored_values(plain.read_bytes())
    raw = pixel_array(dataset, raw=True)
    return np.asarray(raw).astype(np.int64) & ((1 << int(dataset.BitsStored)) - 1)


def described(data: bytes) -> dict[str, Any]:
    """The header without retired group lengths, which pydicom drops where it writes."""
    return {tag: value for tag, value in read_header(data, LIMITS).attributes.items() if not tag.endswith("0000")}


@pytest.mark.requirement("D37", "D38")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_real_file_keeps_its_values_and_its_header(syntax: ArchiveSyntax) -> None:
    small, stored = get_testdata_file("CT_small.dcm"), get_testdata_file("RG1_UNCR.dcm")
    made = 0
    for path in sorted({item for folder in (small, stored) for item in Path(str(folder)).parent.glob("*.dcm")}):
        data = path.read_bytes()
        try:
            read_header(data, LIMITS)
        except Rejected:
            continue
        found = archival_rendition(data, syntax)
        assert found.state in ("stored", "not-smaller", "not-applicable")
        assert (found.reason != "") == (found.state == "not-applicable")
        if found.state != "stored":
            assert found.data == b""
            continue
        made += 1
        assert len(found.data) < len(data), path.name
        assert found.data[:132] == bytes(128) + b"DICM"
        assert dcmread(io.BytesIO(found.data)).file_meta.TransferSyntaxUID == UIDS[syntax]
        before, after = described(data), described(found.data)
        if syntax == "htj2k" and before.get("00280006"):
            before["00280006"] = after["00280006"]  # Planar Configuration, which HTJ2K has but one of
        assert before == after, path.name
        assert np.array_equal(stored_values(data), stored_values(found.data)), path.name
    assert made >= 25


@st.composite
def pictures(draw: st.DrawFn) -> Dataset:
    kind = draw(st.sampled_from(["u1", "i1", "<u2", "<i2"]))
    allocated = np.dtype(kind).itemsize * 8
    stored = draw(st.integers(2, allocated))
    frames = draw(st.integers(1, 3))
    colour = draw(st.booleans()) and np.dtype(kind).kind == "u"
    planar = draw(st.integers(0, 1)) if colour else 0
    rows, columns = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    shape: tuple[int, ...] = (rows, columns)
    if colour:
        shape = (3, rows, columns) if planar else (rows, columns, 3)
    signed = np.dtype(kind).kind == "i"
    low, high = (-(1 << (stored - 1)), 1 << (stored - 1)) if signed else (0, 1 << stored)
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    pixels = random.integers(low, high, (frames, *shape) if frames > 1 else shape).astype(kind)
    photometric = "RGB" if colour else draw(st.sampled_from(["MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"]))
    dataset = picture(pixels, frames=frames, planar=planar, PhotometricInterpretation=photometric)
    dataset.BitsStored, dataset.HighBit = stored, stored - 1
    dataset.file_meta.TransferSyntaxUID = draw(
        st.sampled_from([dataset.file_meta.TransferSyntaxUID, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
    )
    return dataset


@pytest.mark.requirement("D37", "D38")
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(dataset=pictures(), syntax=st.sampled_from(SYNTAXES))
def test_any_pixels_survive(dataset: Dataset, syntax: ArchiveSyntax) -> None:
    """Noise is seldom smaller when it is coded: what counts is that the proof holds for each combination."""
    data = part10(dataset)
    found = archival_rendition(data, syntax)
    assert found.state in ("stored", "not-smaller"), found
    if found.state == "stored":
        assert len(found.values_sha256) == 64
        assert np.array_equal(stored_values(data).ravel(), stored_values(found.data).ravel())


@pytest.mark.requirement("D32", "D37")
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_what_a_rendition_would_lose_is_a_reason_not_to_make_one(syntax: ArchiveSyntax) -> None:
    def reason(dataset: Dataset) -> str:
        found = archival_rendition(part10(dataset), syntax)
        assert found.state == "not-applicable"
        return found.reason

    overlay = picture(SMOOTH | 0x1000, BitsStored=12, HighBit=11)
    assert reason(overlay) == "high-bits-in-use"
    assert reason(picture(SMOOTH, BitsStored=12, HighBit=15)) == "bits-not-supported"
    hidden = picture(SMOOTH)
    hidden.PixelData += b"behind the last frame."
    assert reason(hidden) == "inconsistent"
    assert reason(instance(PixelData=None)) == "no-pixels"
    big = picture(SMOOTH)
    big.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    out = io.BytesIO()
    big.save_as(out, enforce_file_format=True)
    assert archival_rendition(out.getvalue(), syntax).reason == "big-endian"
    assert archival_rendition(sample("liver_1frame.dcm"), syntax).reason == "one-bit"
    assert archival_rendition(sample("JPEG2000.dcm"), syntax).reason == "already-lossy"
    assert archival_rendition(sample("MR_small_jp2klossless.dcm"), syntax).reason == "already-compressed"
    floats = instance(PixelData=None)
    floats.FloatPixelData = bytes(64)
    assert reason(floats) == "float-pixels"
    assert archival_rendition(sample("SC_ybr_full_422_uncompressed.dcm"), syntax).reason == "photometric-not-supported"


@pytest.mark.requirement("D38")
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_signs_and_lossy_history_stay_as_they_were(syntax: ArchiveSyntax) -> None:
    signed = (SMOOTH.astype("<i2") - 60) % 2048 - 1024
    dataset = picture(signed.astype("<i2"), BitsStored=12, HighBit=11, LossyImageCompression="01")
    found = archival_rendition(part10(dataset), syntax)
    assert found.state == "stored"
    copy = dcmread(io.BytesIO(found.data))
    kept = ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PhotometricInterpretation", "Rows")
    assert all(copy[keyword] == dataset[keyword] for keyword in kept)
    assert copy.LossyImageCompression == "01"
    assert "LossyImageCompressionMethod" not in copy
    assert copy.SOPInstanceUID == dataset.SOPInstanceUID == copy.file_meta.MediaStorageSOPInstanceUID
    assert np.array_equal(copy.pixel_array, dataset.pixel_array)


@pytest.mark.requirement("D37")
@pytest.mark.parametrize(("syntax", "codec"), [("jpeg-ls", "_jpeg_ls"), ("htj2k", "_htj2k")])
def test_a_codec_that_lies_is_found_out(syntax: ArchiveSyntax, codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = getattr(archival, codec)

    def lying(values: Any, layout: Any) -> bytes:
        other = values.copy()
        other[0, 0] ^= 1
        return bytes(honest(other, layout))

    monkeypatch.setattr(archival, codec, lying)
    with pytest.raises(Rejected) as caught:
        archival_rendition(part10(picture(SMOOTH)), syntax)
    assert caught.value.code == "rendition-differs"


@pytest.mark.requirement("D37")
def test_dcmtk_reads_the_same_values(tmp_path: Path) -> None:
    tool = shutil.which("dcmdjpls")
    assert tool is not None, "dcmtk is missing"
    for name in ("CT_small.dcm", "MR_small.dcm", "SC_rgb.dcm", "MR_small_RLE.dcm", "emri_small.dcm"):
        data = sample(name)
        found = archival_rendition(data, "jpeg-ls")
        assert found.state == "stored", name
        coded, plain = tmp_path / "coded.dcm", tmp_path / "plain.dcm"
        coded.write_bytes(found.data)
        subprocess.run([tool, str(coded), str(plain)], check=True, capture_output=True)
        assert np.array_equal(stored_values(plain.read_bytes()), stored_values(data)), name


@pytest.mark.requirement("D38")
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_valid_file_stays_valid(tmp_path: Path, syntax: ArchiveSyntax) -> None:
    tool = shutil.which("dciodvfy")
    assert tool is not None, "dicom3tools is missing"

    def errors(data: bytes) -> set[str]:
        path = tmp_path / "x.dcm"
        # this dciodvfy does not know HTJ2K: told that it is JPEG 2000, it checks all but the codestream
        path.write_bytes(data.replace(b"1.2.840.10008.1.2.4.201\0", b"1.2.840.10008.1.2.4.90\0\0", 1))
        said = subprocess.run([tool, str(path)], capture_output=True, text=True, check=False, errors="replace").stderr
        return {line for line in said.splitlines() if line.startswith("Error")}

    for name in ("CT_small.dcm", "MR_small.dcm", "emri_small.dcm", "examples_overlay.dcm"):
        data = sample(name)
        found = archival_rendition(data, syntax)
        if found.state == "stored":
            assert errors(found.data) <= errors(data), name


@pytest.mark.requirement("D37")
def test_it_runs_in_a_child_within_its_limits(decoder: DecodePool) -> None:
    found = decoder.archival_rendition(sample("RG1_UNCR.dcm"), "jpeg-ls")
    assert found.state == "stored"
    assert found.transfer_syntax_uid == JPEGLSLossless
    with DecodePool(workers=1, memory_bytes=2**24) as small, pytest.raises(Rejected) as caught:
        small.archival_rendition(sample("RG1_UNCR.dcm"), "jpeg-ls")
    assert caught.value.code == "decode-memory"

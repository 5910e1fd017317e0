"""Pixels of a de-identified copy: regions blanked, unused bits cleared, nothing beside or behind them.

Only to be called in a decode child (`imaging_core.dicom.child`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, RLELossless

from imaging_core.dicom.codestream import check_codestream
from imaging_core.dicom.codestream_text import without_text
from imaging_core.dicom.pixels import stored_frame
from imaging_core.errors import Rejected

__all__ = ["Region", "clean_pixels"]


class Region(NamedTuple):
    """A rectangle of pixels to blank, in every frame: left and top from 0, width and height."""

    left: int
    top: int
    width: int
    height: int


def clean_pixels(dataset: Dataset, regions: Sequence[Region]) -> None:
    """Clean the pixels of a data set that is the caller's own, and its transfer syntax where they are decoded.

    Raises
    ------
    Rejected
        ``not-deidentifiable``, ``pixels-unreadable``, ``codestream-mismatch``.
    """
    for keyword, size in (("FloatPixelData", 4), ("DoubleFloatPixelData", 8)):
        if keyword in dataset:
            dataset[keyword].value = dataset[keyword].value[: _count(dataset) * size]
    if "PixelData" not in dataset:
        return
    syntax: UID = dataset.file_meta.TransferSyntaxUID
    if not 1 <= int(dataset.get("BitsStored", 0) or 0) <= int(dataset.get("BitsAllocated", 0) or 0):
        raise Rejected("not-deidentifiable", "Bits Stored and Bits Allocated do not say where the pixels are")
    if regions:
        _blank(dataset, regions)
    elif syntax == RLELossless:
        _plain(dataset, np.stack([_rle_frame(dataset, frame) for frame in range(_frames(dataset))]))
    elif syntax.is_encapsulated:
        _scrub(dataset, syntax)
    else:
        _trim(dataset, syntax)


def _frames(dataset: Dataset) -> int:
    return max(1, int(dataset.get("NumberOfFrames", 1) or 1))


def _count(dataset: Dataset) -> int:
    return int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("SamplesPerPixel", 1) or 1) * _frames(dataset)


def _trim(dataset: Dataset, syntax: UID) -> None:
    """Cut what follows the last frame, and clear the bits that are no part of a stored value."""
    allocated = int(dataset.BitsAllocated)
    bits = _count(dataset) * allocated
    if "422" in str(dataset.get("PhotometricInterpretation", "")):
        bits = bits * 2 // 3
    size = (bits + 7) // 8
    pixels = bytes(dataset.PixelData[:size])
    if len(pixels) < size:
        raise Rejected("pixels-unreadable", "the pixels end early")
    if allocated in (8, 16, 32):
        order = ">" if syntax == ExplicitVRBigEndian else "<"
        if syntax == ExplicitVRBigEndian and allocated == 8 and dataset["PixelData"].VR == "OW":
            raise Rejected("not-deidentifiable", "8-bit pixels in big endian words")
        words = np.frombuffer(pixels, f"{order}u{allocated // 8}")
        pixels = _masked(words, dataset).astype(words.dtype).tobytes()
    elif allocated == 1 and bits % 8:
        pixels = pixels[:-1] + bytes([pixels[-1] & ((1 << bits % 8) - 1)])
    _store(dataset, pixels)


def _masked(words: npt.NDArray[Any], dataset: Dataset) -> npt.NDArray[Any]:
    """Clear bits outside Bits Stored (overlays of old lived there); a sign stays extended as it was."""
    stored, allocated = int(dataset.BitsStored), int(dataset.BitsAllocated)
    low = int(dataset.get("HighBit", stored - 1)) - stored + 1
    if stored == allocated:
        return words
    if not 0 <= low <= allocated - stored:
        raise Rejected("not-deidentifiable", "High Bit and Bits Stored do not say where the pixels are")
    mask = ((1 << stored) - 1) << low
    kept = words & words.dtype.type(mask)
    if int(dataset.get("PixelRepresentation", 0) or 0) and low == 0:
        above = words.dtype.type((1 << allocated) - 1 - mask)
        negative = (kept >> (stored - 1)).astype(bool) & ((words & above) == above)
        kept = np.where(negative, kept | above, kept)
    return np.asarray(kept)


def _store(dataset: Dataset, pixels: bytes) -> None:
    vr = dataset["PixelData"].VR
    del dataset["PixelData"]
    dataset.add_new(0x7FE00010, vr, pixels + b"\0" * (len(pixels) % 2))


def _scrub(dataset: Dataset, syntax: UID) -> None:
    frames = []
    for codestream in generate_frames(dataset.PixelData, number_of_frames=_frames(dataset)):
        check_codestream(
            codestream,
            str(syntax),
            rows=int(dataset.Rows),
            columns=int(dataset.Columns),
            samples=int(dataset.SamplesPerPixel),
            bits_allocated=int(dataset.BitsAllocated),
        )
        frames.append(without_text(bytes(codestream), str(syntax)))
    del dataset["PixelData"]
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in dataset:
            delattr(dataset, keyword)
    dataset.PixelData = encapsulate(frames)  # offsets and padding are made anew
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True


def _rle_frame(dataset: Dataset, frame: int) -> npt.NDArray[Any]:
    try:
        return np.asarray(pixel_array(dataset, index=frame, raw=True))
    except (ValueError, RuntimeError, AttributeError, IndexError) as error:
        raise Rejected("pixels-unreadable", f"RLE: {type(error).__name__}") from error


def _blank(dataset: Dataset, regions: Sequence[Region]) -> None:
    """Decode, paint the regions in the colour of nothing, and keep the pixels uncompressed."""
    frames = []
    for number in range(_frames(dataset)):
        frame = np.array(stored_frame(dataset, number))
        for region in regions:
            frame[
                max(0, region.top) : max(0, region.top + region.height),
                max(0, region.left) : max(0, region.left + region.width),
            ] = _nothing(dataset, frame.ndim)
        frames.append(frame)
    stacked = np.stack(frames)
    if stacked.ndim == 4:
        dataset.PhotometricInterpretation = "RGB"
    _plain(dataset, stacked)


def _nothing(dataset: Dataset, dimensions: int) -> int:
    signed = bool(int(dataset.get("PixelRepresentation", 0) or 0))
    stored = int(dataset.BitsStored)
    least, most = (-(1 << (stored - 1)), (1 << (stored - 1)) - 1) if signed else (0, (1 << stored) - 1)
    return most if dimensions == 2 and dataset.PhotometricInterpretation == "MONOCHROME1" else least


def _plain(dataset: Dataset, frames: npt.NDArray[Any]) -> None:
    """Store frames uncompressed, explicit little endian; shape (frames, rows, columns[, samples])."""
    allocated = int(dataset.BitsAllocated)
    if allocated not in (8, 16, 32):
        raise Rejected("not-deidentifiable", f"regions of {allocated}-bit pixels can't be blanked")
    words = np.ascontiguousarray(
        frames.astype(f"<i{allocated // 8}" if frames.dtype.kind == "i" else f"<u{allocated // 8}")
    )
    if frames.ndim == 4 or int(dataset.SamplesPerPixel) > 1:
        dataset.PlanarConfiguration = 0
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    masked = _masked(words.view(f"<u{allocated // 8}"), dataset)
    del dataset["PixelData"]
    body = masked.astype(f"<u{allocated // 8}").tobytes()
    dataset.add_new(0x7FE00010, "OW" if allocated > 8 else "OB", body + b"\0" * (len(body) % 2))

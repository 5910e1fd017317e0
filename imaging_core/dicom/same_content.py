"""Whether two files hold the same instance, however each is encoded.

A modality that sends by two routes, or a PACS that compresses what it forwards, delivers one instance in two
encodings: other VR and byte order (PS3.5 Annex A), other lossless compression (PS3.5 8.2), group lengths or not. That
is a duplicate (D14). Every element is compared, private ones too, and every stored pixel value; where equality can't
be shown the answer is no, for what differs must never be dropped as the same (D15).

Only to be called in a decode child: it parses and decodes both.
"""

from __future__ import annotations

import numpy as np
from pydicom import Dataset
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.pixels.utils import get_expected_length

from imaging_core.dicom.part10 import open_part10
from imaging_core.dicom.pixels import stored_frame

__all__ = ["same_content"]

_PIXEL_DATA = 0x7FE00010
_PADDING = 0xFFFCFFFC
# Near-lossless and lossy: decoded values are not those that the modality stored.
_LOSSY = frozenset(
    f"1.2.840.10008.1.2.4.{last}"
    for last in (50, 51, 81, 91, 93, 203, 100, 101, 102, 103, 104, 105, 106, 107, 108, 110, 112)
)
_WORDS = {"OW": 2, "OL": 4, "OF": 4, "OD": 8, "OV": 8}


def same_content(first: bytes, second: bytes) -> bool:
    """Return whether two DICOM Part 10 files hold equal elements and equal stored pixel values.

    Raises
    ------
    Rejected
        One of them can't be read.
    """
    datasets = open_part10(first), open_part10(second)
    little = (bool(datasets[0].original_encoding[1]), bool(datasets[1].original_encoding[1]))
    for dataset, is_little in zip(datasets, little, strict=True):
        correct_ambiguous_vr(dataset, is_little)
    return _equal(*datasets, little) and _equal_pixels(*datasets)


def _tags(dataset: Dataset) -> set[int]:
    tags = map(int, dataset.keys())  # iterating over the data set itself would convert the values
    return {tag for tag in tags if tag & 0xFFFF and tag not in (_PIXEL_DATA, _PADDING)}


def _equal(first: Dataset, second: Dataset, little: tuple[bool, bool]) -> bool:
    tags = _tags(first)
    return tags == _tags(second) and all(_equal_elements(first, second, tag, little) for tag in tags)


def _equal_elements(first: Dataset, second: Dataset, tag: int, little: tuple[bool, bool]) -> bool:
    raw = _raw(first, tag, little[0]), _raw(second, tag, little[1])
    one, other = first[tag], second[tag]
    if one.VR == other.VR == "SQ":
        pairs = zip(one.value, other.value, strict=False)
        return len(one.value) == len(other.value) and all(_equal(*pair, little) for pair in pairs)
    if "UN" in (one.VR, other.VR):  # an implicit data set does not tell the VR of what no dictionary has
        return raw[0] is not None and raw[0] == raw[1]
    if one.VR != other.VR:
        return False
    if one.VR in _WORDS and isinstance(one.value, bytes) and isinstance(other.value, bytes):
        return _little_endian(one, little[0]) == _little_endian(other, little[1])
    return bool(one.value == other.value)


def _raw(dataset: Dataset, tag: int, is_little: bool) -> bytes | None:
    """Return the value's bytes as they are in the file; None where they are not at hand, or big endian."""
    element = dataset.get_item(tag)
    value = element.value if is_little and isinstance(element, RawDataElement | DataElement) else None
    return b"" if is_little and value is None else value if isinstance(value, bytes) else None


def _little_endian(element: DataElement, is_little: bool) -> bytes:
    value: bytes = element.value
    size = _WORDS[element.VR]
    if is_little or len(value) % size:
        return value
    return np.frombuffer(value, f">u{size}").astype(f"<u{size}").tobytes()


def _equal_pixels(first: Dataset, second: Dataset) -> bool:
    if ("PixelData" in first) != ("PixelData" in second):
        return False
    if "PixelData" not in first:
        return True
    syntaxes = [str(dataset.file_meta.TransferSyntaxUID) for dataset in (first, second)]
    if first.PixelData == second.PixelData and syntaxes[0] == syntaxes[1]:
        return True
    if _LOSSY.intersection(syntaxes) or _more_than_frames(first) or _more_than_frames(second):
        return False
    frames = max(1, int(first.get("NumberOfFrames", 1) or 1))
    return all(np.array_equal(stored_frame(first, frame), stored_frame(second, frame)) for frame in range(frames))


def _more_than_frames(dataset: Dataset) -> bool:
    """Return whether native pixels have something behind the last frame."""
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        return False
    length = get_expected_length(dataset, unit="bytes")
    return any(dataset.PixelData[length:])

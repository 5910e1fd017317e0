"""Read one instance's header and say whether the file may come in.

What passes has valid UIDs that agree with each other, a transfer syntax and SOP class that are known, and is complete.
It is described by the DICOM JSON model (PS3.18 Annex F) without bulk data, and by hashes of its data set and pixels.

Reading has two halves. `read_opening` parses what stands before the pixels, and needs only the first bytes of a file to
do it; a hostile file may take any amount of memory or time there, so it is to be called in a decode child
(`imaging_core.dicom.child`). `complete` does arithmetic on lengths and hashes the rest, where the bytes are; so an
instance of 7 MB costs the way to the child and back of 64 KB.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

from pydicom import Dataset
from pydicom._uid_dict import UID_dictionary
from pydicom.dataelem import RawDataElement
from pydicom.filereader import read_dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from imaging_core.dicom import conformance
from imaging_core.dicom.codestream import check_codestream
from imaging_core.dicom.flags import flags
from imaging_core.dicom.json_model import Budget, describe, first
from imaging_core.dicom.part10 import file_meta, inflated
from imaging_core.dicom.pixel_extent import check_rest, walk_fragments
from imaging_core.errors import Rejected

__all__ = [
    "SYSTEM_MANUFACTURER",
    "DicomHeader",
    "HeaderLimits",
    "Opening",
    "complete",
    "pixels_end",
    "read_header",
    "read_opening",
    "valid_uid",
]

_UID = re.compile(r"[0-9.]{1,64}")
_DICOMDIR = "1.2.840.10008.1.3.10"
# Objects derived from an analysis name this system in Contributing Equipment (0018,A001); only reports and captures
# can be such, so that no header makes a radiograph pass as one and go unread (R8).
SYSTEM_MANUFACTURER = "imaging"
_DERIVED_CLASSES = ("1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.88.")
_PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_UNDEFINED = 0xFFFFFFFF


@dataclass(frozen=True)
class HeaderLimits:
    """Bounds of one instance; each refusal names the setting it met (D45)."""

    max_elements: int = 50_000
    max_nesting: int = 16
    max_inflated_bytes: int = 512 * 1024 * 1024
    max_samples: int = 512_000_000


@dataclass(frozen=True)
class DicomHeader:
    """What the ledger keeps of an instance.

    Parameters
    ----------
    sop_uid, study_uid, series_uid, sop_class_uid, transfer_syntax_uid : str
        Validated UIDs.
    attributes : dict
        DICOM JSON model, PS3.18 Annex F; binary values, numbers of 1,024 bytes or more and text of 64 KiB or more are
        left out.
    dataset_sha256 : str
        Of the bytes after the file meta information, the value of the pixels standing as its own SHA-256 (32 bytes), so
        that they are hashed once.
    pixel_sha256 : str or None
        Of the value of Pixel Data (7FE0,0010) as it is encoded (inflated, where the data set is deflated); None
        without pixels.
    own : bool
        Made by this system from an analysis.
    flags : tuple of str
        What a person should know of the image, e.g. ``burned-in-annotation`` (D42).
    warnings : tuple of str
        DICOM warning reasons of an instance that is stored all the same, e.g. ``B007`` (PS3.4 B.2.3).
    """

    sop_uid: str
    study_uid: str
    series_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    attributes: dict[str, Any]
    dataset_sha256: str
    pixel_sha256: str | None
    own: bool
    flags: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Opening:
    """What stands before the pixels.

    Parameters
    ----------
    header : DicomHeader
        Without its hashes.
    dataset_at : int
        Where the data set begins.
    pixels_at : int or None
        Where the value of the pixels begins; None where the whole data set was read.
    pixels_length : int
        As the element says; 0xFFFFFFFF where it is undefined.
    little_endian, implicit : bool
        How the data set is encoded.
    """

    header: DicomHeader
    dataset_at: int
    pixels_at: int | None
    pixels_length: int
    little_endian: bool
    implicit: bool


@dataclass(frozen=True)
class _Pixels:
    tag: int
    at: int
    length: int


def valid_uid(text: str) -> bool:
    """Return whether `text` may be used as a UID: digits and dots, 64 characters at most (D46, PS3.5 9.1)."""
    return _UID.fullmatch(text) is not None and ".." not in text and text[0] != "." and text[-1] != "."


def read_header(data: bytes, limits: HeaderLimits) -> DicomHeader:
    """Parse a DICOM Part 10 file.

    Raises
    ------
    Rejected
        ``not-dicom``, ``truncated``, ``missing-uid``, ``bad-uid``, ``uid-mismatch``, ``sop-class-mismatch``,
        ``sop-class-not-supported``, ``directory``, ``transfer-syntax-not-supported``, ``inflated-too-large``,
        ``too-many-elements``, ``nested-too-deep``, ``too-many-pixels``, ``pixels-unreadable``, ``codestream-mismatch``,
        ``bad-rescale``, ``trailing-bytes``.
    """
    opening = read_opening(data, len(data), limits)
    if opening is None:
        raise Rejected("truncated", "the data set ends early: send the file again")
    return complete(opening, data, limits)


def read_opening(data: bytes, size: int, limits: HeaderLimits) -> Opening | None:
    """Parse the first bytes of a file, as far as the pixels.

    Parameters
    ----------
    data : bytes
        The whole file or its beginning.
    size : int
        Bytes of the whole file.

    Returns
    -------
    Opening or None
        None where the pixels, or the end, are not within `data`.

    Raises
    ------
    Rejected
        As `read_header`.
    """
    if len(data) < 132 or data[128:132] != b"DICM":
        raise Rejected("not-dicom", "no DICM at byte 128: send a DICOM Part 10 file (PS3.10 7.1)")
    whole = len(data) >= size
    try:
        meta, dataset_at = file_meta(data)
        if not whole and dataset_at + 8 > len(data):
            return None
        syntax = str(meta.get("TransferSyntaxUID", ""))
        _check_transfer_syntax(syntax)
        deflated = syntax == DeflatedExplicitVRLittleEndian
        if deflated and not whole:
            return None
        stream = BytesIO(inflated(data, dataset_at, limits.max_inflated_bytes)) if deflated else BytesIO(data)
        stream.seek(0 if deflated else dataset_at)
        found = _read(stream, syntax, limits, whole=whole)
        if found is None:
            return None
        dataset, pixels = found
        budget = Budget(limits.max_elements, limits.max_nesting)
        attributes = describe(dataset, budget)
    except Rejected:
        raise
    except RecursionError as error:
        raise Rejected("nested-too-deep", f"sequences nested beyond MAX_NESTING = {limits.max_nesting}") from error
    except MemoryError:
        raise
    except Exception as error:  # pydicom raises many types on broken files; all mean the same to the sender
        if not whole:
            return None
        if isinstance(error, EOFError | OSError):
            raise Rejected("truncated", "the data set ends early: send the file again") from error
        raise Rejected("not-dicom", f"the data set can't be parsed ({type(error).__name__})") from error
    if budget.elements == 0:
        raise Rejected("not-dicom", "the data set is empty")
    uids = _uids(attributes, meta)
    length = pixels.length if pixels is not None else 0
    _check_pixels(attributes, syntax, limits, pixels)
    header = DicomHeader(
        **uids,
        transfer_syntax_uid=syntax,
        attributes=attributes,
        dataset_sha256="",
        pixel_sha256=_inflated_pixels(stream, pixels) if deflated and pixels is not None else None,
        own=_own(attributes, uids["sop_class_uid"]),
        flags=flags(attributes, uids["sop_class_uid"], pixels=pixels is not None),
        warnings=conformance.warnings(attributes, uids["sop_class_uid"], pixels=pixels.tag if pixels else None),
    )
    at = pixels.at if pixels is not None and not deflated else None
    original = dataset.original_encoding
    return Opening(header, dataset_at, at, length, original[1] is not False, original[0] is True)


def complete(opening: Opening, data: bytes, limits: HeaderLimits) -> DicomHeader:
    """Check the rest of the file against its opening and hash it.

    Nothing is parsed but lengths, nothing allocated but the answer: it may be called outside a decode child.

    Raises
    ------
    Rejected
        ``truncated``, ``trailing-bytes``, ``codestream-mismatch``, ``too-many-elements``.
    """
    header, view = opening.header, memoryview(data)
    whole = hashlib.sha256()
    if opening.pixels_at is None:
        whole.update(view[opening.dataset_at :])
        return replace(header, dataset_sha256=whole.hexdigest())
    start = opening.pixels_at
    end = pixels_end(opening, view)
    check_rest(view[end:], implicit=opening.implicit, little_endian=opening.little_endian)
    pixels = hashlib.sha256(view[start:end])
    whole.update(view[opening.dataset_at : start])
    whole.update(pixels.digest())
    whole.update(view[end:])
    return replace(header, dataset_sha256=whole.hexdigest(), pixel_sha256=pixels.hexdigest())


def pixels_end(opening: Opening, data: bytes | memoryview) -> int:
    """Return where the value of the pixels ends, its delimiter included.

    Raises
    ------
    Rejected
        ``truncated``, ``codestream-mismatch``, ``too-many-elements``.
    """
    start = opening.pixels_at or 0
    if opening.pixels_length == _UNDEFINED:
        return _end_of_fragments(memoryview(data), start, opening.header, opening.little_endian)
    end = start + opening.pixels_length
    if end > len(data):
        raise Rejected("truncated", f"{len(data) - start} bytes of pixels where {opening.pixels_length} are said")
    return end


def _check_transfer_syntax(syntax: str) -> None:
    if not syntax:
        raise Rejected(
            "transfer-syntax-not-supported", "the file meta information names no transfer syntax (0002,0010)"
        )
    if not valid_uid(syntax) or UID(syntax).type != "Transfer Syntax" or UID(syntax).is_private:
        raise Rejected(
            "transfer-syntax-not-supported", f"transfer syntax {syntax[:64]!r} is not one of PS3.6 Table A-1"
        )


def _read(stream: BytesIO, syntax: str, limits: HeaderLimits, *, whole: bool) -> tuple[Dataset, _Pixels | None] | None:
    """Read elements, unconverted, as far as the pixels; None where the bytes end before the elements do."""
    pixels: list[_Pixels] = []
    count = 0

    def at_pixels(tag: int, _vr: str | None, length: int) -> bool:
        nonlocal count
        count += 1
        if count > limits.max_elements:
            raise Rejected("too-many-elements", f"more than MAX_ELEMENTS = {limits.max_elements}")
        if tag in _PIXELS:
            pixels.append(_Pixels(int(tag), stream.tell(), length))
        return tag in _PIXELS

    size = stream.getbuffer().nbytes
    dataset = read_dataset(
        stream,
        syntax == ImplicitVRLittleEndian,
        syntax != ExplicitVRBigEndian,
        stop_when=at_pixels,
    )
    if pixels:
        return dataset, pixels[-1]
    if not whole:
        return None
    for element in dataset.elements():
        if isinstance(element, RawDataElement) and len(element.value or b"") < element.length % _UNDEFINED:
            return None
    return (dataset, None) if stream.tell() >= size else None


def _inflated_pixels(stream: BytesIO, pixels: _Pixels) -> str:
    value = stream.getbuffer()[pixels.at : pixels.at + pixels.length]
    if len(value) < pixels.length % _UNDEFINED:
        raise Rejected("truncated", f"{len(value)} bytes of pixels where {pixels.length} are said")
    return hashlib.sha256(value).hexdigest()


def _end_of_fragments(view: memoryview, start: int, header: DicomHeader, little_endian: bool) -> int:
    """Return where encapsulated pixels end; their first frame is compared with the data set (D36)."""
    found = walk_fragments(view, start, little_endian=little_endian)
    frames = max(1, _number(header.attributes, "00280008", 1))
    if found.first is not None and found.count == frames:
        check_codestream(
            view[found.first[0] : found.first[1]],
            header.transfer_syntax_uid,
            rows=_number(header.attributes, "00280010", 0),
            columns=_number(header.attributes, "00280011", 0),
            samples=_number(header.attributes, "00280002", 1),
            bits_allocated=_number(header.attributes, "00280100", 16),
        )
    return found.end


def _uids(attributes: dict[str, Any], meta: Dataset) -> dict[str, str]:
    tags = {
        "sop_uid": ("00080018", "SOPInstanceUID"),
        "study_uid": ("0020000D", "StudyInstanceUID"),
        "series_uid": ("0020000E", "SeriesInstanceUID"),
        "sop_class_uid": ("00080016", "SOPClassUID"),
    }
    found = {}
    if str(first(attributes, "00080016") or meta.get("MediaStorageSOPClassUID", "")) == _DICOMDIR:
        raise Rejected("directory", "a DICOMDIR is an index, not an instance: send the files that it names")
    for field, (tag, keyword) in tags.items():
        values = attributes.get(tag, {}).get("Value") or [""]
        text = str(values[0])
        if not text:
            raise Rejected("missing-uid", f"{keyword} is missing or empty")
        if len(values) > 1 or not valid_uid(text):
            raise Rejected("bad-uid", f"{keyword} is not a UID (PS3.5 9.1)")
        found[field] = text
    if str(meta.get("MediaStorageSOPInstanceUID", found["sop_uid"])) != found["sop_uid"]:
        raise Rejected("uid-mismatch", "Media Storage SOP Instance UID differs from SOP Instance UID")
    if str(meta.get("MediaStorageSOPClassUID", found["sop_class_uid"])) != found["sop_class_uid"]:
        raise Rejected("sop-class-mismatch", "Media Storage SOP Class UID differs from SOP Class UID")
    entry = UID_dictionary.get(found["sop_class_uid"])
    if entry is not None and (entry[1] != "SOP Class" or "Storage" not in entry[0]):
        raise Rejected("sop-class-not-supported", f"{entry[0]} is not a storage SOP class")
    return found


def _number(attributes: dict[str, Any], tag: str, default: int) -> int:
    value = first(attributes, tag)
    try:
        return default if value in (None, "") else int(value)
    except (TypeError, ValueError, OverflowError):
        return default


def _check_pixels(attributes: dict[str, Any], syntax: str, limits: HeaderLimits, pixels: _Pixels | None) -> None:
    slopes = [first(item, "00281053") for item in (attributes, *_transformations(attributes))]
    if any(isinstance(slope, int | float) and slope == 0 for slope in slopes):
        raise Rejected("bad-rescale", "Rescale Slope (0028,1053) is zero: every pixel would be the same")
    if pixels is None:
        return
    rows, columns = first(attributes, "00280010"), first(attributes, "00280011")
    if rows == 0 or columns == 0:
        raise Rejected("pixels-unreadable", "Rows (0028,0010) or Columns (0028,0011) is zero, yet there are pixels")
    samples = (
        _number(attributes, "00280010", 0)
        * _number(attributes, "00280011", 0)
        * _number(attributes, "00280002", 1)
        * max(1, _number(attributes, "00280008", 1))
    )
    if samples > limits.max_samples:
        raise Rejected("too-many-pixels", f"{samples} samples, MAX_SAMPLES = {limits.max_samples}")
    if UID(syntax).is_encapsulated or pixels.length == _UNDEFINED:
        return
    bits = samples * _number(attributes, "00280100", 16)
    if "YBR_FULL_422" in str(first(attributes, "00280004") or ""):
        bits = bits * 2 // 3
    if pixels.length < (bits + 7) // 8:
        raise Rejected("truncated", f"{pixels.length} bytes of pixels where {(bits + 7) // 8} are described")


def _transformations(attributes: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the pixel value transformations of shared and per-frame functional groups (PS3.3 C.7.6.16.2.9)."""
    for groups in ("52009229", "52009230"):
        for group in attributes.get(groups, {}).get("Value", ()):
            yield from group.get("00289145", {}).get("Value", ())


def _own(attributes: dict[str, Any], sop_class_uid: str) -> bool:
    if not sop_class_uid.startswith(_DERIVED_CLASSES):
        return False
    equipment = attributes.get("0018A001", {}).get("Value", ())
    return any(str(first(item, "00080070") or "") == SYSTEM_MANUFACTURER for item in equipment)

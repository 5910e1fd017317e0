"""Read one instance's header and say whether the file may come in.

What passes has valid UIDs that agree with each other, a transfer syntax and SOP class that are known, and is complete.
It is described by the DICOM JSON model (PS3.18 Annex F) without bulk data, and by hashes of its data set and pixels.

Only to be called in a decode child (`imaging_core.dicom.child`): a hostile file may take any amount of memory or time.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from pydicom import Dataset, dcmread
from pydicom._uid_dict import UID_dictionary
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.filebase import DicomIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from imaging_core.errors import Rejected

__all__ = ["SYSTEM_MANUFACTURER", "DicomHeader", "HeaderLimits", "read_header", "valid_uid"]

_UID = re.compile(r"[0-9.]{1,64}")
_BULK = 1024
_DICOMDIR = "1.2.840.10008.1.3.10"
# Objects derived from an analysis name this system in Contributing Equipment (0018,A001); only reports and captures
# can be such, so that no header makes a radiograph pass as one and go unread (R8).
SYSTEM_MANUFACTURER = "imaging"
_DERIVED_CLASSES = ("1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.88.")


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
        DICOM JSON model, PS3.18 Annex F; values of 1,024 bytes or more, and binary ones, are left out.
    dataset_sha256 : str
        Of the bytes after the file meta information.
    pixel_sha256 : str or None
        Of the value of Pixel Data (7FE0,0010); None without pixels.
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


def valid_uid(text: str) -> bool:
    """Return whether `text` may be used as a UID: digits and dots, 64 characters at most (D46, PS3.5 9.1)."""
    return _UID.fullmatch(text) is not None and ".." not in text and text[0] != "." and text[-1] != "."


def read_header(data: bytes, limits: HeaderLimits) -> DicomHeader:
    """Parse a DICOM Part 10 file.

    Raises
    ------
    Rejected
        ``not-dicom``, ``truncated``, ``missing-uid``, ``bad-uid``, ``uid-mismatch``, ``sop-class-mismatch``,
        ``sop-class-not-supported``, ``transfer-syntax-not-supported``, ``inflated-too-large``, ``too-many-elements``,
        ``nested-too-deep``, ``too-many-pixels``, ``bad-rescale``.
    """
    if len(data) < 132 or data[128:132] != b"DICM":
        raise Rejected("not-dicom", "no DICM at byte 128: send a DICOM Part 10 file (PS3.10 7.1)")
    stream = BytesIO(data)
    try:
        meta, offset = _file_meta(stream)
        syntax = str(meta.get("TransferSyntaxUID", ""))
        _check_transfer_syntax(syntax)
        if syntax == DeflatedExplicitVRLittleEndian:
            dataset = dcmread(_inflated(data, meta, offset, limits), force=False)
        else:
            dataset = dcmread(BytesIO(data), force=False)
            _check_end(dataset, data)
        count = _measure(dataset, limits)
    except Rejected:
        raise
    except RecursionError as error:
        raise Rejected("nested-too-deep", f"sequences nested beyond MAX_NESTING = {limits.max_nesting}") from error
    except (InvalidDicomError, EOFError) as error:
        raise Rejected("truncated", "the data set ends early: send the file again") from error
    except MemoryError:
        raise
    except Exception as error:  # pydicom raises many types on broken files; all mean the same to the sender
        raise Rejected("not-dicom", f"the data set can't be parsed ({type(error).__name__})") from error
    if count == 0:
        raise Rejected("not-dicom", "the data set is empty")
    uids = _uids(dataset, meta)
    _check_pixels(dataset, syntax, limits)
    pixels = dataset.get("PixelData")
    attributes = dataset.to_json_dict(
        bulk_data_threshold=_BULK, bulk_data_element_handler=_no_bulk, suppress_invalid_tags=True
    )
    return DicomHeader(
        **uids,
        transfer_syntax_uid=syntax,
        attributes={tag: value for tag, value in attributes.items() if _kept(tag, value)},
        dataset_sha256=hashlib.sha256(memoryview(data)[offset:]).hexdigest(),
        pixel_sha256=hashlib.sha256(pixels).hexdigest() if isinstance(pixels, bytes) else None,
        own=_own(dataset),
    )


def _no_bulk(_: DataElement) -> str:
    return ""


def _kept(tag: str, value: dict[str, Any]) -> bool:
    if tag == "7FE00010" or "BulkDataURI" in value or "InlineBinary" in value:
        return False
    return int(tag[:4], 16) % 2 == 0  # private elements stay in the file


def _file_meta(stream: BytesIO) -> tuple[Dataset, int]:
    """Return the file meta information, always explicit little endian (PS3.10 7.1), and where the data set begins."""
    stream.seek(132)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2)
    return meta, stream.tell()


def _check_transfer_syntax(syntax: str) -> None:
    if not syntax:
        raise Rejected(
            "transfer-syntax-not-supported", "the file meta information names no transfer syntax (0002,0010)"
        )
    if not valid_uid(syntax) or UID(syntax).type != "Transfer Syntax" or UID(syntax).is_private:
        raise Rejected(
            "transfer-syntax-not-supported", f"transfer syntax {syntax[:64]!r} is not one of PS3.6 Table A-1"
        )


def _inflated(data: bytes, meta: Dataset, offset: int, limits: HeaderLimits) -> BytesIO:
    """Inflate within bounds and give the data set the header of an explicit one."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        body = inflater.decompress(memoryview(data)[offset:], limits.max_inflated_bytes)
    except zlib.error as error:
        raise Rejected("truncated", "the deflated data set is broken") from error
    if inflater.unconsumed_tail:
        raise Rejected("inflated-too-large", f"more than MAX_INFLATED_BYTES = {limits.max_inflated_bytes}")
    explicit = FileMetaDataset(meta)
    explicit.TransferSyntaxUID = ExplicitVRLittleEndian
    out = BytesIO()
    out.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(DicomIO(out), explicit, enforce_standard=False)
    out.write(body)
    out.seek(0)
    return out


_DELIMITER = b"\xfe\xff\xdd\xe0\0\0\0\0"
_AFTER_PIXELS = (b"\xfc\xff", b"\xfa\xff")  # padding (FFFC,FFFC) and digital signatures (FFFA,FFFA), PS3.10 7.2


def _check_end(dataset: Dataset, data: bytes) -> None:
    """Find bytes behind the pixels that are no data elements (D49): another file may hide there."""
    raw: Any = dataset.get_item("PixelData") if "PixelData" in dataset else None
    if not isinstance(raw, RawDataElement) or raw.value is None or not dataset.is_little_endian:
        return
    if raw.length == 0xFFFFFFFF:
        at = data.rfind(_DELIMITER)
        end = at + len(_DELIMITER) if at >= raw.value_tell else len(data)
    else:
        end = raw.value_tell + raw.length
    rest = data[end:]
    if rest.strip(b"\0") and not rest.startswith(_AFTER_PIXELS):
        raise Rejected("trailing-bytes", f"{len(rest)} bytes after the pixel data are no data elements")


def _measure(dataset: Dataset, limits: HeaderLimits) -> int:
    """Count elements, sequences included, without recursion."""
    count = 0
    level: list[Dataset] = [dataset]
    depth = 0
    while level:
        if depth > limits.max_nesting:
            raise Rejected("nested-too-deep", f"more than MAX_NESTING = {limits.max_nesting}")
        below: list[Dataset] = []
        for item in level:
            count += len(item)
            if count > limits.max_elements:
                raise Rejected("too-many-elements", f"more than MAX_ELEMENTS = {limits.max_elements}")
            for element in item:
                if element.VR == "SQ":
                    below.extend(element.value)
        level = below
        depth += 1
    return count


def _uids(dataset: Dataset, meta: Dataset) -> dict[str, str]:
    names = {
        "sop_uid": "SOPInstanceUID",
        "study_uid": "StudyInstanceUID",
        "series_uid": "SeriesInstanceUID",
        "sop_class_uid": "SOPClassUID",
    }
    found = {}
    if str(dataset.get("SOPClassUID", meta.get("MediaStorageSOPClassUID", ""))) == _DICOMDIR:
        raise Rejected("directory", "a DICOMDIR is an index, not an instance: send the files that it names")
    for field, keyword in names.items():
        value = dataset.get(keyword)
        text = str(value) if value else ""
        if not text:
            raise Rejected("missing-uid", f"{keyword} is missing or empty")
        if not valid_uid(text):
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


def _number(dataset: Dataset, keyword: str, default: int) -> int:
    value = dataset.get(keyword)
    try:
        return default if value in (None, "") else int(value)
    except (TypeError, ValueError):
        return default


def _check_pixels(dataset: Dataset, syntax: str, limits: HeaderLimits) -> None:
    slope = dataset.get("RescaleSlope")
    if slope is not None and slope != "" and float(slope) == 0.0:
        raise Rejected("bad-rescale", "Rescale Slope (0028,1053) is zero: every pixel would be the same")
    pixels = dataset.get("PixelData")
    if pixels is None:
        return
    samples = (
        _number(dataset, "Rows", 0)
        * _number(dataset, "Columns", 0)
        * _number(dataset, "SamplesPerPixel", 1)
        * max(1, _number(dataset, "NumberOfFrames", 1))
    )
    if samples > limits.max_samples:
        raise Rejected("too-many-pixels", f"{samples} samples, MAX_SAMPLES = {limits.max_samples}")
    if UID(syntax).is_encapsulated or not isinstance(pixels, bytes):
        return
    bits = samples * _number(dataset, "BitsAllocated", 16)
    if "YBR_FULL_422" in str(dataset.get("PhotometricInterpretation", "")):
        bits = bits * 2 // 3
    if len(pixels) < (bits + 7) // 8:
        raise Rejected("truncated", f"{len(pixels)} bytes of pixels where {(bits + 7) // 8} are described")


def _own(dataset: Dataset) -> bool:
    if not str(dataset.get("SOPClassUID", "")).startswith(_DERIVED_CLASSES):
        return False
    equipment: Iterable[Dataset] = dataset.get("ContributingEquipmentSequence") or ()
    return any(str(item.get("Manufacturer", "")) == SYSTEM_MANUFACTURER for item in equipment)

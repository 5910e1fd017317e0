"""Open a DICOM Part 10 file within bounds, for whatever wants its data set.

A deflated data set (PS3.5 A.5) grows a thousandfold: pydicom inflates it whole, here it is inflated up to a limit, and
not at all where its elements say at their beginning that they are larger.

Only to be called in a decode child (`imaging_core.dicom.child`).
"""

from __future__ import annotations

import io
import zlib
from struct import unpack_from

from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.filebase import DicomIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from imaging_core.errors import Rejected

__all__ = ["MAX_INFLATED_BYTES", "file_meta", "inflated", "open_part10"]

MAX_INFLATED_BYTES = 512 * 1024 * 1024
_HEAD = 1024 * 1024
_UNDEFINED = 0xFFFFFFFF
_LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})


def file_meta(data: bytes) -> tuple[Dataset, int]:
    """Return the file meta information, always explicit little endian (PS3.10 7.1), and where the data set begins."""
    stream = io.BytesIO(data)
    stream.seek(132)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2)
    return meta, stream.tell()


def inflated(data: bytes, offset: int, limit: int = MAX_INFLATED_BYTES) -> bytes:
    """Inflate a deflated data set.

    Raises
    ------
    Rejected
        ``inflated-too-large``, ``truncated``, ``trailing-bytes``.
    """
    compressed = memoryview(data)[offset:]
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        head = inflater.decompress(compressed, _HEAD)
        if _said_size(head) > limit:
            raise Rejected("inflated-too-large", f"its elements say more than MAX_INFLATED_BYTES = {limit}")
        rest = inflater.decompress(inflater.unconsumed_tail, max(1, limit - len(head))) if not inflater.eof else b""
    except zlib.error as error:
        raise Rejected("truncated", "the deflated data set is broken") from error
    if inflater.unconsumed_tail or len(head) + len(rest) > limit:
        raise Rejected("inflated-too-large", f"more than MAX_INFLATED_BYTES = {limit}")
    if not inflater.eof:
        raise Rejected("truncated", "the deflated data set ends early: send the file again")
    if len(inflater.unused_data) > 8:  # some writers leave gzip's check and size there, or a byte to an even length
        raise Rejected("trailing-bytes", f"{len(inflater.unused_data)} bytes after the deflated data set")
    return head + rest


def _said_size(head: bytes) -> int:
    """Return how large the data set is at least, by the lengths of the elements that begin in its head."""
    at = 0
    while at + 12 <= len(head):
        vr = head[at + 4 : at + 6]
        if vr in _LONG:
            (length,) = unpack_from("<I", head, at + 8)
            if length == _UNDEFINED:
                break
            at += 12 + length
        else:
            at += 8 + int(unpack_from("<H", head, at + 6)[0])
    return at


def open_part10(data: bytes) -> Dataset:
    """Read a whole file; a deflated one comes back as explicit little endian.

    Raises
    ------
    Rejected
        ``not-dicom``, ``truncated``, ``nested-too-deep``, and as `inflated`.
    """
    try:
        if len(data) < 132 or data[128:132] != b"DICM":
            raise Rejected("not-dicom", "no DICM at byte 128: send a DICOM Part 10 file (PS3.10 7.1)")
        meta, offset = file_meta(data)
        if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
            return dcmread(io.BytesIO(data), force=False)
        explicit = FileMetaDataset(meta)
        explicit.TransferSyntaxUID = ExplicitVRLittleEndian
        out = io.BytesIO()
        out.write(b"\0" * 128 + b"DICM")
        write_file_meta_info(DicomIO(out), explicit, enforce_standard=False)
        out.write(inflated(data, offset))
        out.seek(0)
        return dcmread(out, force=False)
    except (Rejected, MemoryError):
        raise
    except RecursionError as error:
        raise Rejected("nested-too-deep", "sequences nested too deep to be read") from error
    except (EOFError, OSError) as error:
        raise Rejected("truncated", "the data set ends early: send the file again") from error
    except InvalidDicomError as error:
        raise Rejected("not-dicom", "the file is no DICOM Part 10 file") from error
    except Exception as error:  # pydicom raises many types on broken files; all mean the same to the sender
        raise Rejected("not-dicom", f"the data set can't be parsed ({type(error).__name__})") from error

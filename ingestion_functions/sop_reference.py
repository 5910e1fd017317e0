"""Which instance a file that was refused says it is, for the failed item of an answer (PS3.18 I.1)."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_partial
from pydicom.uid import DeflatedExplicitVRLittleEndian

from imaging_core.dicom.header import valid_uid

__all__ = ["OPENING", "SopReference", "sop_reference"]

OPENING = 32 * 1024
"""Bytes from a file's start that are enough."""
SopReference = tuple[str, str]
_SOP_INSTANCE = 0x00080018


def sop_reference(opening: bytes) -> SopReference:
    """Return SOP Class and SOP Instance UID, both empty unless both are there and valid.

    Only to be called in a decode child (`imaging_core.dicom.child`), with the first `OPENING` bytes of a file.
    """
    try:
        meta = _read(opening, lambda tag: tag >> 16 > 2).file_meta
        found = (str(meta.get("MediaStorageSOPClassUID", "")), str(meta.get("MediaStorageSOPInstanceUID", "")))
        if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
            dataset = _read(opening, lambda tag: tag > _SOP_INSTANCE)
            found = (str(dataset.get("SOPClassUID") or found[0]), str(dataset.get("SOPInstanceUID") or found[1]))
    except MemoryError:
        raise
    except Exception:  # pydicom raises many types on broken files; such a file names nothing
        return "", ""
    return found if all(uid and valid_uid(uid) for uid in found) else ("", "")


def _read(opening: bytes, behind: Callable[[int], bool]):  # type: ignore[no-untyped-def]  # FileDataset or DicomDir
    if opening[128:132] != b"DICM":
        raise InvalidDicomError("no DICM")
    return read_partial(BytesIO(opening), stop_when=lambda tag, _vr, _length: behind(int(tag)))

"""What leaves the system as a DICOM file: the instance as received, without what its preamble may hold (D44).

The 128 bytes before ``DICM`` have no meaning in DICOM (PS3.10 7.1) and every meaning to programs that look there first:
a TIFF, an HTML page or an executable can be a valid DICOM file at once. They are zeroed, nothing else is changed; and
the answer says that it is a file to keep, of the type that it is.
"""

from __future__ import annotations

import io
from datetime import datetime

from pydicom.uid import DeflatedExplicitVRLittleEndian

from imaging_core.dicom.coerce import Changes, Reason, coerced
from imaging_core.dicom.part10 import file_meta, open_part10
from imaging_core.errors import Rejected

__all__ = ["as_served", "as_served_coerced"]

_PREAMBLE = bytes(128)


def as_served(data: bytes) -> bytes:
    """Return the file with a preamble of zeros."""
    if data[128:132] != b"DICM":
        raise Rejected("not-dicom", "no DICM at byte 128")
    return data if data.startswith(_PREAMBLE) else _PREAMBLE + data[128:]


def as_served_coerced(data: bytes, changes: Changes, source: str, reason: Reason, at: datetime) -> bytes:
    """Return the file with other attributes and the record of the old ones (see `coerced`).

    Transfer syntax and pixels stay. Only to be called in a decode child (`imaging_core.dicom.child`).
    """
    dataset = open_part10(data)
    changed = coerced(dataset, changes, source, reason, at)
    if changed is dataset:
        return as_served(data)
    changed.preamble = _PREAMBLE
    if file_meta(data)[0].TransferSyntaxUID == DeflatedExplicitVRLittleEndian:
        changed.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    out = io.BytesIO()
    changed.save_as(out, enforce_file_format=True)
    return out.getvalue()

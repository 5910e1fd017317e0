"""One C-STORE: the data set becomes a Part 10 file as it came, goes the way of every delivery, and is answered.

Statuses are those of PS3.4 Table B.2-1 and PS3.7 9.1.1.1.9, chosen by the table of error codes: success only for what
is durable, A7xx for what may be sent again later, A9xx and Cxxx for what is wrong with the instance.
"""

from __future__ import annotations

import io

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID

from imaging_core import __version__, errors, telemetry
from imaging_core.errors import ImagingError, Rejected, Retryable
from imaging_core.sites import Site
from ingestion_functions.cstore_transport import ReceivedDataSet
from ingestion_functions.intake import Source, TakenIn, refuse, take_in
from ingestion_functions.memory import Room
from ingestion_functions.services import IntakeServices

__all__ = ["IMPLEMENTATION_UID", "IMPLEMENTATION_VERSION", "status", "store"]

IMPLEMENTATION_UID = "2.25.111903442393637512826817105107432154573"
IMPLEMENTATION_VERSION = f"IMAGING_{__version__}"[:16]
SUCCESS, COERCED, OUT_OF_RESOURCES, FAILURE = 0x0000, 0xB000, 0xA700, 0x0110
_COMMENT = 64  # LO, PS3.7 E.2
log = telemetry.get_logger(__name__)


def store(
    parts: IntakeServices,
    room: Room,
    received: ReceivedDataSet,
    *,
    sop_class: str,
    sop_instance: str,
    transfer_syntax: str,
    calling: str,
    site: Site,
) -> Dataset:
    """Take in one received data set.

    Parameters
    ----------
    sop_class, sop_instance : str
        Affected SOP Class and Instance UID of the request: they go into the file meta information, so that a data set
        that says otherwise is found out (D12).

    Returns
    -------
    Dataset
        Status (0000,0900) and, where it is no success, Error Comment (0000,0902).
    """
    source = Source("cstore", calling, site)
    with telemetry.continue_trace(None, "c-store", bytes=received.size):
        try:
            limit = parts.settings.max_instance_bytes
            if received.size > limit:
                error = Rejected("instance-too-large", f"{received.size} bytes, MAX_INSTANCE_BYTES = {limit}")
                refuse(parts, error, source, size=received.size)
                return _answer(errors.code(error.code).failure_reason, error)
            if received.size == 0:
                error = Rejected("empty-body", "the request has no data set")
                refuse(parts, error, source)
                return _answer(errors.code(error.code).failure_reason, error)
            with room.of(received.size):
                data = _part10(received, sop_class, sop_instance, transfer_syntax, calling)
                return status(take_in(parts, data, source))
        except Retryable as error:
            log.warning("not taken", step="c-store", code=error.code)
            return _answer(OUT_OF_RESOURCES, error)
        except ImagingError as error:
            log.warning("refused", step="c-store", code=error.code)
            return _answer(errors.code(error.code).failure_reason, error)
        except Exception:
            log.exception("failed", step="c-store")
            return _answer(FAILURE, Rejected("internal"))


def status(taken: TakenIn) -> Dataset:
    """Return the answer for what became of an instance.

    A duplicate is a success (D14). A warning of the instance is the status: B000 where what the system serves differs
    from what came (coercion), B007 where the data set lacks what its SOP class asks for. B006 never occurs, for
    nothing is discarded.
    """
    delivery = taken.delivery
    if not taken.stored:
        code = delivery.reason or "internal"
        return _answer(errors.code(code).failure_reason, Rejected(code, delivery.detail or ""))
    warnings = sorted(int(warning, 16) for warning in delivery.warnings)
    return _answer(warnings[0] if warnings else SUCCESS)


def _answer(number: int, error: ImagingError | None = None) -> Dataset:
    answer = Dataset()
    answer.Status = number
    if error is not None:
        text = f"{error.code}: {error.detail}".encode("ascii", "replace").decode().replace("\\", "/")
        answer.ErrorComment = text[:_COMMENT].strip()
    return answer


def _part10(received: ReceivedDataSet, sop_class: str, sop_instance: str, transfer_syntax: str, calling: str) -> bytes:
    """Return preamble, file meta information (PS3.10 7.1) and the data set, byte for byte as it was sent."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class)
    meta.MediaStorageSOPInstanceUID = UID(sop_instance)
    meta.TransferSyntaxUID = UID(transfer_syntax)
    meta.ImplementationClassUID = UID(IMPLEMENTATION_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION
    meta.SourceApplicationEntityTitle = calling
    file = io.BytesIO()
    file.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(DicomIO(file), meta)
    received.read_into(file)
    return file.getvalue()

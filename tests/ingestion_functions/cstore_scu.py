"""Callers of the DICOM listener: pynetdicom as a sender that sends bytes as they are, and DCMTK's programs."""

from __future__ import annotations

import io
import secrets
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset, dcmread
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE

__all__ = ["Scu", "data_set_of", "dcmtk", "renamed"]


def data_set_of(file: bytes) -> bytes:
    """Return the bytes after the file meta information."""
    length = int.from_bytes(file[140:144], "little")  # value of (0002,0000), which comes first
    assert file[132:138] == b"\x02\x00\x00\x00UL", "the file has no group length"
    return file[144 + length :]


def renamed(file: bytes) -> bytes:
    """Return the file under UIDs of its own, of the same length, with no other byte changed (not for deflated ones)."""
    head = dcmread(io.BytesIO(file), stop_before_pixels=True)
    for uid in {str(head.SOPInstanceUID), str(head.StudyInstanceUID), str(head.SeriesInstanceUID)}:
        fresh = f"2.25.{secrets.randbelow(10**50):050}9{'1' * 64}"[: len(uid)]
        file = file.replace(uid.encode(), fresh.replace("25.0", "25.1").encode())
    return file


@dataclass(frozen=True)
class Scu:
    """A sender: one association per `association` block."""

    host: str
    port: int
    calling: str = "MODALITY"
    called: str = "IMAGING"

    @contextmanager
    def association(self, *files: bytes) -> Iterator[Association]:
        """Open an association for what `files` hold; it may be refused: ask `is_established`."""
        entity = AE(self.calling)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 60
        entity.add_requested_context("1.2.840.10008.1.1")
        wanted = {}
        for file in files:
            head = dcmread(io.BytesIO(file), stop_before_pixels=True, specific_tags=["SOPClassUID"])
            syntax = str(head.file_meta.TransferSyntaxUID)
            wanted[str(head.file_meta.get("MediaStorageSOPClassUID") or head.SOPClassUID), syntax] = None
        for sop_class, syntax in wanted:
            entity.add_requested_context(sop_class, syntax)
        association = entity.associate(self.host, self.port, ae_title=self.called)
        try:
            yield association
        finally:
            if association.is_established:
                association.release()

    def send(self, *files: bytes) -> list[Dataset]:
        """Send each file on one association; return the answers."""
        with self.association(*files) as association:
            assert association.is_established
            return [self.store(association, file) for file in files]

    @staticmethod
    def store(association: Association, file: bytes, *, sop_class: str = "", sop_uid: str = "") -> Dataset:
        """Send the data set of `file` byte for byte; the request's UIDs may be made to differ from it."""
        head = dcmread(io.BytesIO(file), stop_before_pixels=True, specific_tags=["SOPClassUID", "SOPInstanceUID"])
        own_class = str(head.file_meta.get("MediaStorageSOPClassUID") or head.SOPClassUID)
        syntax = head.file_meta.TransferSyntaxUID
        context = next(
            item
            for item in association.accepted_contexts
            if item.abstract_syntax == own_class and item.transfer_syntax == [syntax]
        )
        request = C_STORE()
        request.MessageID = 1
        request.Priority = 0
        request.AffectedSOPClassUID = sop_class or own_class
        request.AffectedSOPInstanceUID = (
            sop_uid or head.file_meta.get("MediaStorageSOPInstanceUID") or head.SOPInstanceUID
        )
        request.DataSet = io.BytesIO(data_set_of(file))
        association._reactor_checkpoint.clear()
        association.dimse.send_msg(request, context.context_id)
        _, answer = association.dimse.get_msg(block=True)
        association._reactor_checkpoint.set()
        if answer is None:
            association.abort()
            raise ConnectionError("no answer: the association was ended")
        made = Dataset()
        made.Status = answer.Status
        if answer.ErrorComment:
            made.ErrorComment = answer.ErrorComment
        return made


def dcmtk(program: str, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a program of DCMTK."""
    command: Sequence[str] = [program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done

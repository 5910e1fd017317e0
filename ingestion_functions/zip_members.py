"""The files of a dropped zip archive, one at a time and within bounds: nothing is unpacked to a disk.

Names in an archive are labels: no path is ever made of them. Bounds are checked on what the archive's directory claims
before anything is inflated, and hold afterwards, for a member yields no more than its claim.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from imaging_core.errors import Rejected
from imaging_core.settings import Settings

__all__ = ["Member", "ZipArchive"]

_READ_AHEAD = 4 * 1024 * 1024
_CHUNK = 1024 * 1024
_ENTRY = 300  # bytes of an archive's directory per file, name included
_SMALL = 64 * 1024 * 1024  # up to here no ratio is suspicious
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # LZMA would let the archive choose the memory that it takes


@dataclass(frozen=True)
class Member:
    """One file: its place, its name there, its size after inflating."""

    ordinal: int
    name: str
    size: int


class _Remote(io.RawIOBase):
    """A file whose ranges come from elsewhere."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._read = read
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError("before the beginning")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # BufferedReader passes a memoryview
        length = min(len(buffer), self._size - self._at)
        if length <= 0:
            return 0
        data = self._read(self._at, length)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class _Bounded(io.BufferedReader):
    """Reads ahead, and never as much at once as a hostile directory claims to be long."""

    most = _READ_AHEAD
    length = 0

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = self.length - self.tell() if size is None or size < 0 else size
        if wanted > self.most:
            raise Rejected("archive-too-large", "its directory is longer than MAX_ARCHIVE_ENTRIES allows")
        return super().read(size)


class ZipArchive:
    """An opened archive.

    Parameters
    ----------
    read : callable
        ``read(offset, length)`` returns bytes of the archive.
    size : int
        Of the archive, in bytes.
    settings : Settings
        MAX_ARCHIVE_ENTRIES, MAX_ARCHIVE_BYTES, MAX_ARCHIVE_RATIO and MAX_INSTANCE_BYTES are read.

    Raises
    ------
    Rejected
        ``archive-unreadable`` or ``archive-too-large``: nothing of it is taken.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int, settings: Settings) -> None:
        self._limit = settings.max_instance_bytes
        file = _Bounded(_Remote(read, size), _READ_AHEAD)
        file.length = size
        file.most = max(settings.max_archive_entries * _ENTRY, 128 * 1024)
        try:
            self._zip = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, OSError, ValueError, struct.error, NotImplementedError) as error:
            raise Rejected("archive-unreadable", "the zip archive is broken or cut off") from error
        file.most = max(file.most, _READ_AHEAD)
        self._files = [entry for entry in self._zip.infolist() if not entry.is_dir()]
        _check_bounds(self._files, size, settings)

    @property
    def members(self) -> Sequence[Member]:
        """The files, in the order of the archive's directory; folders are none."""
        return [Member(number, entry.filename, entry.file_size) for number, entry in enumerate(self._files)]

    def content(self, member: Member) -> bytes:
        """Inflate one file.

        Raises
        ------
        Rejected
            ``archive-encrypted``, ``archive-unreadable``, ``instance-too-large``.
        """
        entry = self._files[member.ordinal]
        if entry.flag_bits & _ENCRYPTED:
            raise Rejected("archive-encrypted", "send the archive without a password")
        if entry.compress_type not in _METHODS:
            raise Rejected("archive-unreadable", f"compression method {entry.compress_type}: use deflate")
        if entry.file_size > self._limit:
            raise Rejected("instance-too-large", f"{entry.file_size} bytes, MAX_INSTANCE_BYTES = {self._limit}")
        try:
            inflated = io.BytesIO()
            with self._zip.open(entry) as file:
                while chunk := file.read(_CHUNK):
                    inflated.write(chunk)
            return inflated.getvalue()
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, struct.error) as error:
            raise Rejected("archive-unreadable", f"this file is broken ({type(error).__name__})") from error


def _check_bounds(files: Sequence[zipfile.ZipInfo], size: int, settings: Settings) -> None:
    if len(files) > settings.max_archive_entries:
        raise Rejected("archive-too-large", f"{len(files)} files, MAX_ARCHIVE_ENTRIES = {settings.max_archive_entries}")
    inflated = sum(entry.file_size for entry in files)
    if inflated > settings.max_archive_bytes:
        raise Rejected("archive-too-large", f"{inflated} bytes, MAX_ARCHIVE_BYTES = {settings.max_archive_bytes}")
    if inflated > _SMALL and inflated > settings.max_archive_ratio * size:
        ratio = inflated // max(size, 1)
        raise Rejected("archive-too-large", f"inflates {ratio} times, MAX_ARCHIVE_RATIO = {settings.max_archive_ratio}")

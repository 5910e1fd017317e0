"""What a dropped file is, by its first bytes and never by its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["HEAD", "FileKind", "kind_of"]

HEAD = 512
"""Bytes that `kind_of` wants to see."""

_PREFIX_AT = 128
_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_REFUSED = (
    (b"%PDF-", "a PDF document: send it as DICOM Encapsulated PDF"),
    (b"MZ", "a Windows program"),
    (b"\x7fELF", "a Linux program"),
    (b"#!", "a script"),
    (b"\xca\xfe\xba\xbe", "a program"),
    (b"GIF8", "a GIF picture: send PNG or JPEG"),
    (b"BM", "a BMP picture: send PNG or JPEG"),
    (b"II*\0", "a TIFF picture: send PNG or JPEG"),
    (b"MM\0*", "a TIFF picture: send PNG or JPEG"),
    (b"RIFF", "a RIFF file"),
    (b"Rar!", "a RAR archive: send a zip"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive: send a zip"),
    (b"\x1f\x8b", "a gzip file: send a zip, or the file itself"),
    (b"BZh", "a bzip2 file: send a zip, or the file itself"),
    (b"\xfd7zXZ\0", "an xz file: send a zip, or the file itself"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file: send a zip, or the file itself"),
    (b"\xd0\xcf\x11\xe0", "an Office document"),
)


@dataclass(frozen=True)
class FileKind:
    """A kind, and for one that is refused what it is in words."""

    name: Literal["dicom", "picture", "zip", "other"]
    told: str = ""


def kind_of(head: bytes) -> FileKind:
    """Return the kind of a file.

    Parameters
    ----------
    head : bytes
        Its first `HEAD` bytes, or all of it.

    Notes
    -----
    What has ``DICM`` at byte 128 is DICOM whatever its preamble pretends to be (PS3.10 7.1). What is not known passes
    as DICOM, so that its refusal tells what is wrong with it.
    """
    if head[_PREFIX_AT : _PREFIX_AT + 4] == b"DICM":
        return FileKind("dicom")
    if head.startswith(_PICTURES):
        return FileKind("picture")
    if head.startswith(_ZIP):
        return FileKind("zip")
    for start, told in _REFUSED:
        if head.startswith(start):
            return FileKind("other", told)
    if head[257:262] == b"ustar":
        return FileKind("other", "a tar archive: send a zip")
    if head and _is_text(head):
        return FileKind("other", "a text")
    return FileKind("dicom")


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # a character may be cut off at the end
            return False
        text = head[: error.start].decode("utf-8")
    return all(character.isprintable() or character in "\t\r\n\f\v" for character in text.removeprefix("\ufeff"))

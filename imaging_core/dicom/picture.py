"""The pixels of a PNG or JPEG, upright and without anything else that the file holds (D50).

Size, depth and kind are read from the header before anything is decoded. EXIF orientation is applied, then left behind
with every other block: text, EXIF, XMP, thumbnails, ICC profile (the values stay as they are; a radiograph has none).
Grey keeps its depth up to 16 bits, 12-bit and lossless JPEG included. Colour has 8 bits a channel, as DICOM's Secondary
Capture has; a grey picture in an RGB file becomes grey again, at its full depth. An alpha channel is flattened on
black. Print colours are refused, for they mean nothing without their profile, and so are animations.

Only to be called in a decode child (`imaging_core.dicom.child`).
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from imaging_core.errors import Rejected

__all__ = ["Picture", "read_picture"]

Pixels = npt.NDArray[Any]
_REFUSED = {"CMYK": "CMYK", "YCCK": "YCCK", "LAB": "CIELAB", "HSV": "HSV", "F": "floating point"}
_MOST_SIDE = 65_535  # Rows and Columns are US
_PNG = b"\x89PNG\r\n\x1a\n"
_ORIENTATION = 0x0112
_TRANSPOSED = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels.swapaxes(0, 1)[:, ::-1],
    7: lambda pixels: pixels.swapaxes(0, 1)[::-1, ::-1],
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}
_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})


@dataclass(frozen=True)
class Picture:
    """Decoded pixels.

    Parameters
    ----------
    pixels : ndarray
        ``(rows, columns)`` grey of 8 or 16 bits, or ``(rows, columns, 3)`` RGB of 8 bits.
    bits : int
        Bits of a value that are used: Bits Stored.
    """

    pixels: Pixels
    bits: int


@dataclass(frozen=True)
class _Header:
    """What the file says before its pixels."""

    columns: int
    rows: int
    depth: int
    channels: int
    deep: bool
    exif: bytes = b""
    lossless: bool = False


def read_picture(data: bytes, limit: int) -> Picture:
    """Decode a picture.

    Parameters
    ----------
    limit : int
        MAX_IMAGE_PIXELS.

    Raises
    ------
    Rejected
        ``not-an-image``, ``too-many-pixels``, ``colour-not-supported``, ``several-frames``, ``pixels-unreadable``.
    """
    header = _png_header(data) if data.startswith(_PNG) else _jpeg_header(data)
    if header.rows * header.columns > limit:
        raise Rejected("too-many-pixels", f"{header.columns} x {header.rows} pixels, MAX_IMAGE_PIXELS = {limit}")
    if max(header.rows, header.columns) > _MOST_SIDE:
        raise Rejected("too-many-pixels", f"{header.columns} x {header.rows} pixels, {_MOST_SIDE} a side at most")
    try:
        return _deep(data, header) if header.deep else _shallow(data)
    except (Rejected, MemoryError):
        raise
    except Exception as error:  # decoders raise many types on broken files; all mean the same to the sender
        raise Rejected("pixels-unreadable", f"the picture is broken ({type(error).__name__})") from error


def _png_header(data: bytes) -> _Header:
    """Read IHDR and look for an animation (PNG 3rd edition, 11.2.1 and 11.3.6)."""
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise Rejected("not-an-image", "send PNG or JPEG")
    columns, rows, depth, kind = struct.unpack(">IIBB", data[16:26])
    if not rows or not columns:
        raise Rejected("pixels-unreadable", "the picture has no pixels")
    at = 8
    while at + 8 <= len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        if name == b"acTL" and length >= 4 and struct.unpack(">I", data[at + 8 : at + 12])[0] > 1:
            raise Rejected("several-frames", "the PNG is an animation: send its pictures one by one")
        if name == b"IDAT":
            break
        at += 12 + length
    channels = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}.get(kind, 0)
    return _Header(columns, rows, depth, channels, deep=depth == 16 and channels > 1)


def _jpeg_header(data: bytes) -> _Header:
    """Walk the markers up to the frame header (ISO/IEC 10918-1 B.2.2)."""
    if not data.startswith(b"\xff\xd8"):
        raise Rejected("not-an-image", "send PNG or JPEG")
    at, exif = 2, b""
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker in _STANDALONE:
            at += 2
            continue
        length = struct.unpack(">H", data[at + 2 : at + 4])[0]
        segment = data[at + 4 : at + 2 + length]
        if marker == 0xE1 and segment.startswith(b"Exif\0\0"):
            exif = exif or segment
        if marker in _FRAMES:
            if len(segment) < 6:
                break
            depth, rows, columns, channels = struct.unpack(">BHHB", segment[:6])
            if not rows or not columns:
                break
            if channels == 4:
                raise Rejected("colour-not-supported", "CMYK pixels: export as grey or RGB")
            lossless = marker in (0xC3, 0xC7, 0xCB, 0xCF)
            return _Header(columns, rows, depth, channels, depth > 8 or lossless, exif, lossless)
        at += 2 + length
    raise Rejected("pixels-unreadable", "the JPEG has no frame header")


def _shallow(data: bytes) -> Picture:
    """Decode by Pillow: 8 bits a channel, and grey PNG of 16."""
    Image.MAX_IMAGE_PIXELS = None  # the limit was checked from the header
    try:
        picture: Image.Image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
    except (UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise Rejected("not-an-image", "send PNG or JPEG") from error
    if picture.mode in _REFUSED:
        raise Rejected("colour-not-supported", f"{_REFUSED[picture.mode]} pixels: export as grey or RGB")
    picture.load()
    upright = ImageOps.exif_transpose(picture)
    if upright.mode in ("I", "I;16", "I;16B") and "transparency" not in upright.info:
        return Picture(np.asarray(upright).astype(np.uint16), 16)
    if upright.mode in ("LA", "RGBA", "PA") or "transparency" in upright.info:
        rgba = np.asarray(upright.convert("RGBA"))
        return _grey_if_grey(_flattened(rgba))
    if upright.mode in ("1", "L"):
        return Picture(np.asarray(upright.convert("L")), 8)
    return _grey_if_grey(np.asarray(upright.convert("RGB")))


def _deep(data: bytes, header: _Header) -> Picture:
    """Decode what Pillow would cut to 8 bits, or not read at all: 16-bit PNG with several channels, deep JPEG."""
    import imagecodecs

    if data.startswith(_PNG):
        pixels, bits = imagecodecs.png_decode(data), 16
        if header.channels in (2, 4):
            pixels = _flattened(pixels)
    else:
        if data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):  # the decoder makes up what is missing
            raise Rejected("pixels-unreadable", "the JPEG ends before its last scan does")
        pixels, bits = imagecodecs.jpeg_decode(data), header.depth
    if pixels.shape[:2] != (header.rows, header.columns):
        raise Rejected("pixels-unreadable", "the pixels have another size than the header says")
    exif = Image.Exif()
    if header.exif:
        exif.load(header.exif)
    turn = _TRANSPOSED.get(int(exif.get(_ORIENTATION, 1)))
    return _grey_if_grey(np.ascontiguousarray(turn(pixels) if turn is not None else pixels), bits)


def _flattened(pixels: Pixels) -> Pixels:
    """Return colour or grey on black by the last channel."""
    most = np.iinfo(pixels.dtype).max
    alpha = pixels[..., -1:].astype(np.uint32)
    flat: Pixels = ((pixels[..., :-1].astype(np.uint32) * alpha + most // 2) // most).astype(pixels.dtype)
    return flat[..., 0] if flat.shape[-1] == 1 else flat


def _grey_if_grey(pixels: Pixels, bits: int = 8) -> Picture:
    """Return a grey picture of an RGB file as grey: a radiograph is one all the same. Colour is cut to 8 bits."""
    if pixels.ndim == 2:
        return Picture(pixels, bits)
    if np.array_equal(pixels[..., 0], pixels[..., 1]) and np.array_equal(pixels[..., 0], pixels[..., 2]):
        return Picture(np.ascontiguousarray(pixels[..., 0]), bits)
    if pixels.dtype == np.uint16:
        pixels = (pixels >> (bits - 8)).astype(np.uint8)
    return Picture(pixels, 8)

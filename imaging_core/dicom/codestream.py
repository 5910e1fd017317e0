"""What a compressed frame says of itself, read from its own header before anything is allocated for it (D36).

A decoder believes the codestream: one that claims 65,535 x 65,535 pixels makes it ask for gigabytes, whatever Rows and
Columns say. So the size, samples and depth in the codestream's header are compared with the data set first.

JPEG and JPEG-LS: ISO/IEC 10918-1 B.2.2 and 14495-1 C.2.2 (frame header); JPEG 2000 and HTJ2K: ISO/IEC 15444-1 A.5.1
(SIZ); RLE: PS3.5 G.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import error as StructError
from struct import unpack_from

from imaging_core.errors import Rejected

__all__ = ["FrameShape", "check_codestream", "read_shape"]

_RLE = "1.2.840.10008.1.2.5"
_JPEG2000 = frozenset(f"1.2.840.10008.1.2.4.{last}" for last in ("90", "91", "92", "93", "201", "202", "203"))
_JPEG = frozenset(f"1.2.840.10008.1.2.4.{last}" for last in ("50", "51", "57", "70"))
_JPEG_LS = frozenset(f"1.2.840.10008.1.2.4.{last}" for last in ("80", "81"))
# SOF0 to SOF15 without DHT (C4), JPG (C8) and DAC (CC); F7 is JPEG-LS's SOF55.
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
_ALONE = frozenset(range(0xD0, 0xD8)) | {0x01, 0xD8}
_MAX_TILES = 65_535
_RLE_BEST = 64  # two bytes become 128 at most (PS3.5 G.3.1)


@dataclass(frozen=True)
class FrameShape:
    """A frame as its codestream describes it.

    Parameters
    ----------
    rows, columns, samples : int
        Of the decoded frame.
    bits : int
        Sample precision.
    process : int
        JPEG's frame marker (0xC0 baseline, 0xC1 extended, 0xC3 lossless, 0xF7 JPEG-LS); 0 for JPEG 2000.
    near : int
        JPEG-LS: the greatest error of a sample, 0 where it is lossless; -1 where the header does not say.
    """

    rows: int
    columns: int
    samples: int
    bits: int
    process: int = 0
    near: int = -1


def read_shape(codestream: bytes | memoryview, transfer_syntax_uid: str) -> FrameShape | None:
    """Return what the header says; None where the transfer syntax has no header of this kind.

    Raises
    ------
    Rejected
        ``codestream-mismatch`` where there is no header of the kind that the transfer syntax promises.
    """
    try:
        if transfer_syntax_uid in _JPEG | _JPEG_LS:
            return _jpeg(memoryview(codestream))
        if transfer_syntax_uid in _JPEG2000:
            return _jpeg2000(bytes(codestream[:65_536]))
    except (StructError, IndexError) as error:
        raise Rejected("codestream-mismatch", "the compressed frame ends in its own header") from error
    return None


def check_codestream(
    codestream: bytes | memoryview,
    transfer_syntax_uid: str,
    *,
    rows: int,
    columns: int,
    samples: int,
    bits_allocated: int,
) -> FrameShape | None:
    """Compare a frame's own header with the data set.

    Parameters
    ----------
    codestream : bytes or memoryview
        The whole compressed frame, or for a size check its beginning.
    rows, columns, samples, bits_allocated : int
        What the data set says.

    Raises
    ------
    Rejected
        ``codestream-mismatch``.
    """
    if transfer_syntax_uid == _RLE:
        plane = rows * columns if bits_allocated >= 8 else -(-rows * columns * bits_allocated // 8)
        _check_rle(codestream, plane, samples * max(1, bits_allocated // 8))
        return None
    shape = read_shape(codestream, transfer_syntax_uid)
    if shape is None:
        return None
    if (shape.rows, shape.columns) != (rows, columns):
        raise Rejected(
            "codestream-mismatch",
            f"the compressed frame is {shape.rows} x {shape.columns}, the data set says {rows} x {columns}",
        )
    if shape.samples != samples:
        raise Rejected(
            "codestream-mismatch", f"the compressed frame has {shape.samples} samples, the data set says {samples}"
        )
    if not 0 < shape.bits <= bits_allocated:
        raise Rejected("codestream-mismatch", f"{shape.bits} bits in the compressed frame, {bits_allocated} allocated")
    return shape


def _jpeg(data: memoryview) -> FrameShape:
    if bytes(data[:2]) != b"\xff\xd8":
        raise Rejected("codestream-mismatch", "the compressed frame is no JPEG stream")
    at = 2
    shape: FrameShape | None = None
    while at < len(data):
        if data[at] != 0xFF:
            raise Rejected("codestream-mismatch", "the JPEG stream's markers are broken")
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker in _ALONE:
            at += 2
            continue
        if marker == 0xD9:
            break
        (length,) = unpack_from(">H", data, at + 2)
        if length < 2:
            raise Rejected("codestream-mismatch", "the JPEG stream's markers are broken")
        if marker in _FRAME_MARKERS:
            bits, rows, columns, samples = unpack_from(">BHHB", data, at + 4)
            shape = FrameShape(rows, columns, samples, bits, marker)
        elif marker == 0xDA and shape is not None:
            if shape.process == 0xF7:
                components = data[at + 4]
                return FrameShape(*_fields(shape), near=data[at + 5 + 2 * components])
            return shape
        elif marker == 0xDA:
            break
        at += 2 + length
    if shape is not None:
        return shape
    raise Rejected("codestream-mismatch", "the JPEG stream has no frame header")


def _fields(shape: FrameShape) -> tuple[int, int, int, int, int]:
    return shape.rows, shape.columns, shape.samples, shape.bits, shape.process


def _jpeg2000(data: bytes) -> FrameShape:
    start = 0
    if data[:12] == b"\0\0\0\x0cjP  \r\n\x87\n":  # wrapped in a JP2 file, which PS3.5 A.4.4 forbids and some send
        box = data.find(b"jp2c")
        if box < 0:
            raise Rejected("codestream-mismatch", "the compressed frame is no JPEG 2000 stream")
        start = box + 4
    if data[start : start + 4] != b"\xff\x4f\xff\x51":
        raise Rejected("codestream-mismatch", "the compressed frame is no JPEG 2000 stream")
    x1, y1, x0, y0, tile_x, tile_y, tile_x0, tile_y0, samples = unpack_from(">8IH", data, start + 8)
    depth, step_x, step_y = unpack_from(">3B", data, start + 42)
    if not tile_x or not tile_y or x1 <= x0 or y1 <= y0 or not step_x or not step_y:
        raise Rejected("codestream-mismatch", "the JPEG 2000 stream describes no image")
    tiles = -(-(x1 - tile_x0) // tile_x) * -(-(y1 - tile_y0) // tile_y)
    if not 0 < tiles <= _MAX_TILES:
        raise Rejected("codestream-mismatch", f"{tiles} tiles in the JPEG 2000 stream")
    return FrameShape(
        -(-y1 // step_y) - -(-y0 // step_y), -(-x1 // step_x) - -(-x0 // step_x), samples, (depth & 127) + 1
    )


def _check_rle(codestream: bytes | memoryview, plane: int, planes: int) -> None:
    """Segments must be as many as bytes of a pixel, in order, and long enough to hold what they stand for."""
    size = len(codestream)
    if size < 64:
        raise Rejected("codestream-mismatch", "the RLE header is not complete")
    count, *offsets = unpack_from("<16I", codestream)
    if count != planes or count > 15:
        raise Rejected("codestream-mismatch", f"{count} RLE segments where the data set needs {planes}")
    ends = [*offsets[1:count], size]
    for start, end in zip(offsets, ends, strict=False):
        if not 64 <= start < end <= size:
            raise Rejected("codestream-mismatch", "the RLE segments overlap or leave the frame")
        if (end - start) * _RLE_BEST < plane:
            raise Rejected("codestream-mismatch", f"{end - start} bytes of RLE can't hold a plane of {plane}")

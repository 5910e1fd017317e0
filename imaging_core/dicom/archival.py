"""A smaller copy of an instance that holds the same stored values: the archival rendition.

JPEG-LS lossless (1.2.840.10008.1.2.4.80) or HTJ2K lossless (1.2.840.10008.1.2.4.201), of what came uncompressed, run
length encoded or as lossless JPEG. What is encoded are stored values: no modality or VOI transformation, no colour
conversion, no change of Bits Stored, High Bit, Pixel Representation or Photometric Interpretation (D38). It is
lossless, so that the SOP Instance UID stays and Lossy Image Compression (0028,2110) is not touched (PS3.3 C.7.6.1.1.5).

Nothing is believed: each frame of the finished file is decoded again, by another decoder than the encoder's where there
is one, and the SHA-256 of all stored values has to be the same as before (D37). Header elements of an explicit little
endian data set are carried over byte by byte.

pyjpegls writes JPEG-LS with the true precision (imagecodecs knows the container's only) and imagecodecs reads it back;
OpenJPH (imagecodecs) writes HTJ2K and OpenJPEG reads it.

Only to be called in a decode child (`imaging_core.dicom.child`).
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames, get_frame
from pydicom.filebase import DicomIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from imaging_core import __version__
from imaging_core.dicom.codestream import check_codestream
from imaging_core.dicom.header import HeaderLimits, pixels_end, read_opening
from imaging_core.dicom.part10 import open_part10
from imaging_core.errors import Rejected

__all__ = ["EXTENSIONS", "IMPLEMENTATION_UID", "SYNTAXES", "ArchiveSyntax", "Rendition", "archival_rendition"]

ArchiveSyntax = Literal["jpeg-ls", "htj2k"]
State = Literal["stored", "not-smaller", "not-applicable"]
EXTENSIONS: dict[ArchiveSyntax, str] = {"jpeg-ls": "jls", "htj2k": "htj2k"}
IMPLEMENTATION_UID = "2.25.158917389207654208153116262846218203155"
SYNTAXES: dict[ArchiveSyntax, UID] = {"jpeg-ls": JPEGLSLossless, "htj2k": HTJ2KLossless}
_NATIVE = frozenset({ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian})
_SOURCES = _NATIVE | {RLELossless, JPEGLossless, JPEGLosslessSV1}
_GREY = frozenset({"MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"})
_COLOUR = frozenset({"RGB", "YBR_FULL"})
_PIXEL_DATA = b"\xe0\x7f\x10\x00"
_ENCAPSULATED = _PIXEL_DATA + b"OB\0\0\xff\xff\xff\xff"
_END = b"\xfe\xff\xdd\xe0\0\0\0\0"
_GROUP_LENGTH = 0x7FE00000
_ANY = HeaderLimits(max_elements=10_000_000, max_nesting=64)
_LONGEST = 2**32 - 2**20  # a Basic Offset Table's offsets have 32 bits
Stored = npt.NDArray[Any]


@dataclass(frozen=True)
class Rendition:
    """What became of the attempt.

    Parameters
    ----------
    state : str
        ``stored``: `data` is smaller and proven equal; ``not-smaller``; ``not-applicable``.
    reason : str
        Why it is not applicable: ``already-compressed``, ``already-lossy``, ``big-endian``, ``bits-not-supported``,
        ``high-bits-in-use``, ``photometric-not-supported``, ``no-pixels``, ``float-pixels``, ``one-bit``,
        ``too-large``, ``inconsistent``.
    transfer_syntax_uid : str
        Of the rendition.
    data : bytes
        The rendition; empty unless it is ``stored``.
    values_sha256 : str
        Of all stored values, little endian, frame after frame, the same before and after.
    """

    state: State
    reason: str = ""
    transfer_syntax_uid: str = ""
    data: bytes = b""
    values_sha256: str = ""


@dataclass(frozen=True)
class _Layout:
    """Image Pixel module of an instance that can be encoded."""

    rows: int
    columns: int
    samples: int
    planar: int
    allocated: int
    stored: int
    signed: bool
    frames: int

    @property
    def shape(self) -> tuple[int, ...]:
        if self.samples == 1:
            return self.rows, self.columns
        return (self.samples, self.rows, self.columns) if self.planar else (self.rows, self.columns, self.samples)

    @property
    def dtype(self) -> str:
        return "u1" if self.allocated == 8 else "<u2"

    @property
    def frame_bytes(self) -> int:
        return self.rows * self.columns * self.samples * self.allocated // 8


class _NotApplicable(Exception):
    """Why there is no rendition; its message is the reason."""


class _NotSmaller(Exception):
    """A frame is larger when it is coded."""


def archival_rendition(data: bytes, syntax: ArchiveSyntax) -> Rendition:
    """Encode an instance without loss, prove it, and say whether it is worth keeping.

    Parameters
    ----------
    data : bytes
        A DICOM Part 10 file that `imaging_core.dicom.header.read_header` accepted.
    syntax : str
        ``jpeg-ls`` or ``htj2k``.

    Raises
    ------
    Rejected
        ``pixels-unreadable``, ``codestream-mismatch``; ``rendition-differs`` where the encoded values are not the
        values that went in, which means a defect in a codec.
    """
    dataset = open_part10(data)
    try:
        layout = _layout(dataset)
        before, frames = _encode(dataset, layout, syntax)
    except _NotApplicable as reason:
        return Rendition("not-applicable", str(reason))
    except _NotSmaller:
        return Rendition("not-smaller", transfer_syntax_uid=str(SYNTAXES[syntax]))
    out = _assemble(data, dataset, frames, layout, SYNTAXES[syntax])
    after = _values_of(out, layout, SYNTAXES[syntax])
    if before != after:
        raise Rejected("rendition-differs", f"{SYNTAXES[syntax].name}: {layout}")
    if len(out) >= len(data):
        return Rendition("not-smaller", transfer_syntax_uid=str(SYNTAXES[syntax]), values_sha256=before)
    return Rendition("stored", "", str(SYNTAXES[syntax]), out, before)


def _layout(dataset: Dataset) -> _Layout:
    syntax = dataset.file_meta.TransferSyntaxUID
    if "PixelData" not in dataset:
        raise _NotApplicable(
            "float-pixels" if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset else "no-pixels"
        )
    if syntax not in _SOURCES:
        if not syntax.is_encapsulated:
            raise _NotApplicable("big-endian")
        lossy = syntax in _LOSSY or str(dataset.get("LossyImageCompression", "")) == "01"
        raise _NotApplicable("already-lossy" if lossy else "already-compressed")
    photometric = str(dataset.get("PhotometricInterpretation", ""))
    try:
        layout = _Layout(
            int(dataset.Rows),
            int(dataset.Columns),
            int(dataset.SamplesPerPixel),
            int(dataset.get("PlanarConfiguration", 0) or 0),
            int(dataset.BitsAllocated),
            int(dataset.BitsStored),
            int(dataset.PixelRepresentation) == 1,
            max(1, int(dataset.get("NumberOfFrames", 1) or 1)),
        )
        high = int(dataset.HighBit)
    except (AttributeError, TypeError, ValueError) as error:
        raise _NotApplicable("inconsistent") from error
    if layout.allocated == 1:
        raise _NotApplicable("one-bit")
    if photometric not in (_GREY if layout.samples == 1 else _COLOUR) or layout.samples not in (1, 3):
        raise _NotApplicable("photometric-not-supported")
    if layout.allocated not in (8, 16) or not 2 <= layout.stored <= layout.allocated:
        raise _NotApplicable("bits-not-supported")
    if high != layout.stored - 1:
        raise _NotApplicable("bits-not-supported")
    if layout.rows < 1 or layout.columns < 1 or layout.frame_bytes * layout.frames > _LONGEST:
        raise _NotApplicable("too-large")
    return layout


_LOSSY = frozenset(
    f"1.2.840.10008.1.2.4.{last}" for last in ("50", "51", "81", "91", "203", "100", "101", "102", "103", "104", "105")
) | frozenset(f"1.2.840.10008.1.2.4.{last}" for last in ("106", "107", "108", "112"))


def _encode(dataset: Dataset, layout: _Layout, syntax: ArchiveSyntax) -> tuple[str, list[bytes]]:
    digest = hashlib.sha256()
    frames = []
    for raw in _source_frames(dataset, layout):
        values = _canonical(raw, layout)
        digest.update(values.tobytes())
        frames.append(_jpeg_ls(values, layout) if syntax == "jpeg-ls" else _htj2k(values, layout))
    return digest.hexdigest(), frames


def _source_frames(dataset: Dataset, layout: _Layout) -> Iterator[Stored]:
    """Yield the frames as they are stored, in the data set's own planar configuration."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax in _NATIVE:
        pixels = memoryview(dataset.PixelData)
        if len(pixels) < layout.frame_bytes * layout.frames or len(pixels) > layout.frame_bytes * layout.frames + 1:
            raise _NotApplicable("inconsistent")  # bytes behind the last frame would be lost
        for frame in range(layout.frames):
            part = pixels[frame * layout.frame_bytes : (frame + 1) * layout.frame_bytes]
            yield np.frombuffer(part, layout.dtype).reshape(layout.shape)
        return
    for frame in range(layout.frames):
        try:
            yield _compressed_frame(dataset, layout, frame)
        except (Rejected, MemoryError, _NotApplicable):
            raise
        except Exception as error:  # the decoders raise many types; all mean that the pixels can't be read
            raise Rejected("pixels-unreadable", f"{syntax.name}: {type(error).__name__}") from error


def _compressed_frame(dataset: Dataset, layout: _Layout, frame: int) -> Stored:
    syntax = dataset.file_meta.TransferSyntaxUID
    codestream = get_frame(dataset.PixelData, frame, number_of_frames=layout.frames)
    check_codestream(
        codestream,
        str(syntax),
        rows=layout.rows,
        columns=layout.columns,
        samples=layout.samples,
        bits_allocated=layout.allocated,
    )
    if syntax == RLELossless:
        decoded = pixel_array(dataset, index=frame, raw=True)
        decoded = decoded.reshape(layout.rows, layout.columns, *([layout.samples] if layout.samples > 1 else []))
    elif layout.samples == 1:
        import imagecodecs

        decoded = np.asarray(imagecodecs.ljpeg_decode(codestream))
    else:
        raise _NotApplicable("photometric-not-supported")  # colour in lossless JPEG: nobody sends it, no test file
    if decoded.shape[:2] != (layout.rows, layout.columns):
        raise Rejected("codestream-mismatch", "the decoded frame has another size")
    raw = np.ascontiguousarray(decoded).view(f"u{decoded.dtype.itemsize}").astype(layout.dtype)
    return raw.transpose(2, 0, 1) if layout.samples > 1 and layout.planar else raw


def _canonical(raw: Stored, layout: _Layout) -> Stored:
    """Return the stored values as unsigned numbers of Bits Stored.

    The bits above must be zero or, for signed pixels, the sign again: anything else is somebody's overlay, which a
    codestream of Bits Stored would lose.
    """
    mask = (1 << layout.stored) - 1
    values = raw & raw.dtype.type(mask)
    above = raw >> layout.stored if layout.stored < layout.allocated else np.zeros(1, raw.dtype)
    if above.any():
        full = (1 << (layout.allocated - layout.stored)) - 1
        negative = (values >> (layout.stored - 1)).astype(bool)
        extended = layout.signed and bool(np.all(above[negative] == full)) and not above[~negative].any()
        if not extended:
            raise _NotApplicable("high-bits-in-use")
    return np.ascontiguousarray(values)


def _jpeg_ls(values: Stored, layout: _Layout) -> bytes:
    import jpeg_ls  # type: ignore[import-untyped]  # pyjpegls ships no types

    try:
        coded = jpeg_ls.encode_pixel_data(
            values.astype("u1" if layout.stored <= 8 else "<u2").tobytes(),  # as wide as the precision needs
            rows=layout.rows,
            columns=layout.columns,
            samples_per_pixel=layout.samples,
            bits_stored=layout.stored,
            planar_configuration=layout.planar,
        )
    except RuntimeError as error:
        if "too small" not in str(error):  # its buffer is as large as the frame and a little more
            raise Rejected("pixels-unreadable", f"JPEG-LS: {error}") from error
        raise _NotSmaller from error
    return bytes(coded)


def _htj2k(values: Stored, layout: _Layout) -> bytes:
    import imagecodecs

    array = values.transpose(1, 2, 0) if layout.samples > 1 and layout.planar else values
    if layout.signed:
        array = _signed(array, layout)
    return bytes(imagecodecs.htj2k_encode(np.ascontiguousarray(array), reversible=True, rgb=False))


def _signed(values: Stored, layout: _Layout) -> Stored:
    wide = values.astype(np.int32)
    wide -= (wide >> (layout.stored - 1)) << layout.stored
    return wide.astype("i1" if layout.allocated == 8 else "<i2")


def _assemble(data: bytes, dataset: Dataset, frames: list[bytes], layout: _Layout, syntax: UID) -> bytes:
    """Write the file: preamble of zeros (D44), a file meta information of our own, the header as it was, the frames."""
    pixels = encapsulate(frames, has_bot=True)
    out = io.BytesIO()
    out.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(DicomIO(out), _file_meta(dataset, syntax), enforce_standard=True)
    planes_turn = syntax == HTJ2KLossless and layout.samples > 1 and layout.planar == 1
    header = None if planes_turn or _GROUP_LENGTH in dataset else _verbatim(data)
    if header is None:
        return _rewritten(out, dataset, pixels, syntax)
    before, after = header
    out.write(before + _ENCAPSULATED + pixels + _END + after)
    return out.getvalue()


def _file_meta(dataset: Dataset, syntax: UID) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    meta.ImplementationClassUID = UID(IMPLEMENTATION_UID)
    meta.ImplementationVersionName = f"IMAGING_{__version__}"[:16]
    return meta


def _verbatim(data: bytes) -> tuple[bytes, bytes] | None:
    """Return the bytes of the data set before and after its Pixel Data element, where it is explicit little endian."""
    opening = read_opening(data, len(data), _ANY)
    if opening is None or opening.pixels_at is None or opening.implicit or not opening.little_endian:
        return None
    at = opening.pixels_at - 12
    if data[at : at + 4] != _PIXEL_DATA:
        return None
    return data[opening.dataset_at : at], data[pixels_end(opening, data) :]


def _rewritten(out: io.BytesIO, dataset: Dataset, pixels: bytes, syntax: UID) -> bytes:
    if _GROUP_LENGTH in dataset:
        del dataset[_GROUP_LENGTH]
    if syntax == HTJ2KLossless and "PlanarConfiguration" in dataset:
        dataset.PlanarConfiguration = 0  # the only order that PS3.5 8.2.14 knows
    dataset.PixelData = pixels
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    stream = DicomIO(out)
    stream.is_little_endian, stream.is_implicit_VR = True, False
    write_dataset(stream, dataset)
    return out.getvalue()


def _values_of(data: bytes, layout: _Layout, syntax: UID) -> str:
    """Decode the finished file and hash its stored values."""
    dataset = open_part10(data)
    read = dataset.file_meta.TransferSyntaxUID, dataset.Rows, dataset.Columns, dataset.BitsStored, dataset.HighBit
    if read != (syntax, layout.rows, layout.columns, layout.stored, layout.stored - 1):
        return ""
    digest = hashlib.sha256()
    for codestream in generate_frames(dataset.PixelData, number_of_frames=layout.frames):
        decoded = _decode_jpeg_ls(codestream, layout) if syntax == JPEGLSLossless else _decode_htj2k(codestream, layout)
        mask = np.array((1 << layout.stored) - 1).astype(layout.dtype)
        digest.update(np.ascontiguousarray(decoded.astype(layout.dtype) & mask).tobytes())
    return digest.hexdigest()


def _decode_jpeg_ls(codestream: bytes, layout: _Layout) -> Stored:
    if layout.samples > 1 and layout.planar:
        import jpeg_ls

        buffer, _ = jpeg_ls.decode_buffer(codestream)  # imagecodecs reads no planes
        return np.frombuffer(buffer, "u1" if layout.stored <= 8 else "<u2").reshape(layout.shape)
    import imagecodecs

    return np.asarray(imagecodecs.jpegls_decode(codestream))


def _decode_htj2k(codestream: bytes, layout: _Layout) -> Stored:
    from openjpeg.utils import decode

    decoded = np.asarray(decode(codestream))
    decoded = decoded.view(f"u{decoded.dtype.itemsize}")
    return decoded.transpose(2, 0, 1) if layout.samples > 1 and layout.planar else decoded

"""From stored values to values that mean something, in the order of PS3.4 N.2: modality LUT, VOI, presentation.

`decode` stops after the modality LUT (what a model wants); `render` goes on to display values (what a person looks at).
Only to be called in a decode child (`imaging_core.dicom.child`).
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import Dataset
from pydicom.encaps import get_frame
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, convert_color_space
from pydicom.pixels.utils import pixel_array

from imaging_core.dicom.codestream import check_codestream
from imaging_core.dicom.part10 import open_part10
from imaging_core.dicom.spacing import Spacing, spacing_in_dataset
from imaging_core.errors import Rejected

__all__ = ["DecodedImage", "Window", "decode", "render", "render_png", "stored_frame"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Window:
    """A VOI window (PS3.3 C.11.2.1.2): centre and width in modality units, and the function that it is for."""

    center: float
    width: float
    function: str = "LINEAR"


@dataclass(frozen=True)
class DecodedImage:
    """One frame after the modality LUT.

    Parameters
    ----------
    values : ndarray of float32, (rows, columns) or (rows, columns, 3)
        Modality units; for a colour image RGB from 0 to 255.
    valid : ndarray of bool, (rows, columns)
        False where Pixel Padding Value (0028,0120) stands (D30).
    inverted : bool
        Low values are bright: MONOCHROME1 or Presentation LUT Shape INVERSE (D25, D33).
    windows : tuple of Window
        From the header, unusable ones left out (D28).
    voi_lut : ndarray of float32 or None
        First VOI LUT, output from 0 to 1; it goes before any window (D26).
    voi_lut_first : float
        Input value of the LUT's first entry.
    frames : int
        Number of frames of the instance.
    spacing : Spacing or None
        Distances of pixels, and whether they are the patient's or the detector's (D35).
    """

    values: Floats
    valid: npt.NDArray[np.bool_]
    inverted: bool
    windows: tuple[Window, ...]
    voi_lut: Floats | None
    voi_lut_first: float
    frames: int
    spacing: Spacing | None = None

    @property
    def pixels(self) -> Floats:
        """The values, larger is brighter, shape (rows, columns); MONOCHROME1 is inverted here, once (D25)."""
        grey = self.values if self.values.ndim == 2 else self.values @ np.array([0.299, 0.587, 0.114], np.float32)
        return -grey if self.inverted else grey


def decode(data: bytes, frame: int = 0) -> DecodedImage:
    """Decode one frame of a DICOM Part 10 file.

    Parameters
    ----------
    data : bytes
        The file.
    frame : int
        From 0.

    Raises
    ------
    Rejected
        ``no-pixels``, ``pixels-unreadable``, ``codestream-mismatch``, ``bad-rescale``, ``not-found`` (no such
        frame).
    """
    dataset = open_part10(data)
    if "PixelData" not in dataset:
        raise Rejected("no-pixels", "the instance has no Pixel Data (7FE0,0010)")
    frames = _frames(dataset)
    if not 0 <= frame < frames:
        raise Rejected("not-found", f"frame {frame + 1} of {frames}")
    try:
        stored = _stored_values(dataset, frame)
    except (MemoryError, Rejected):
        raise
    except Exception as error:  # the decoders raise many types; all mean that the pixels can't be read
        raise Rejected(
            "pixels-unreadable", f"{dataset.file_meta.TransferSyntaxUID.name}: {type(error).__name__}"
        ) from error
    photometric = str(dataset.get("PhotometricInterpretation", "MONOCHROME2"))
    functional = _functional_groups(dataset, frame)
    spacing = spacing_in_dataset(dataset, functional)
    if stored.ndim == 3:
        values: Floats = stored.astype(np.float32)
        return DecodedImage(values, np.ones(values.shape[:2], bool), False, (), None, 0.0, frames, spacing)
    modality = _modality(stored, dataset, functional)
    inverted = photometric == "MONOCHROME1"
    shape = str(dataset.get("PresentationLUTShape", ""))
    if shape == "INVERSE" and photometric == "MONOCHROME2":
        inverted = True
    voi_lut, first = _voi_lut(dataset)
    return DecodedImage(
        modality, _valid(stored, dataset), inverted, _windows(dataset, functional), voi_lut, first, frames, spacing
    )


def _frames(dataset: Dataset) -> int:
    value = dataset.get("NumberOfFrames")
    return max(1, int(value)) if value not in (None, "") else 1


def _stored_values(dataset: Dataset, frame: int) -> npt.NDArray[Any]:
    """Return stored values, high bits that belong to overlays masked off (D32); colour as RGB (D31)."""
    photometric = str(dataset.get("PhotometricInterpretation", "MONOCHROME2"))
    array = stored_frame(dataset, frame)
    if photometric == "PALETTE COLOR":
        coloured = apply_color_lut(array, dataset)
        return np.asarray(coloured / 257 if coloured.dtype == np.uint16 else coloured, np.float32)
    if array.ndim == 3:
        if array.dtype == np.uint16:
            return np.asarray(array / (2 ** int(dataset.BitsStored) - 1) * 255, np.float32)
        return np.asarray(array)
    stored, allocated = int(dataset.BitsStored), int(dataset.BitsAllocated)
    low = int(dataset.get("HighBit", stored - 1)) - stored + 1
    if array.dtype.kind in "ui" and (stored < allocated or low):
        signed = bool(int(dataset.get("PixelRepresentation", 0)))
        # unsigned values stay as narrow as they are: a wide copy costs more time than the decoding
        bits = (array.astype(np.int64) if signed or array.dtype.kind == "i" else array) >> low
        bits &= (1 << stored) - 1
        if signed:
            bits -= (bits >> (stored - 1)) << stored
        return bits
    return array


def stored_frame(dataset: Dataset, frame: int) -> npt.NDArray[Any]:
    """Return a frame as it is stored, or RGB where it is stored as YBR; shape (rows, columns[, samples]).

    The bits above Bits Stored are as they are; a compressed frame's own header was compared with the data set (D36).
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated:
        codestream = get_frame(dataset.PixelData, frame, number_of_frames=_frames(dataset))
        check_codestream(
            codestream,
            str(syntax),
            rows=int(dataset.Rows),
            columns=int(dataset.Columns),
            samples=int(dataset.SamplesPerPixel),
            bits_allocated=int(dataset.BitsAllocated),
        )
        if syntax in _PERMISSIVE:
            return _imagecodecs_frame(dataset, codestream)
    array = pixel_array(dataset, index=frame if _frames(dataset) > 1 else None, raw=False)
    if array.ndim == 4:
        array = array[0]
    return array


# JPEG lossless and 12-bit extended: no permissive pydicom plugin reads them, imagecodecs (BSD) does.
_PERMISSIVE = {"1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"}


def _imagecodecs_frame(dataset: Dataset, codestream: bytes) -> npt.NDArray[Any]:
    import imagecodecs

    grey_lossless = dataset.file_meta.TransferSyntaxUID != "1.2.840.10008.1.2.4.51" and dataset.SamplesPerPixel == 1
    array: npt.NDArray[Any] = np.asarray(
        imagecodecs.ljpeg_decode(codestream) if grey_lossless else imagecodecs.jpeg_decode(codestream)
    )
    if array.shape[:2] != (dataset.Rows, dataset.Columns):
        raise ValueError("the codestream has another size than the header")
    if array.ndim == 3 and str(dataset.PhotometricInterpretation).startswith("YBR"):
        array = convert_color_space(array, str(dataset.PhotometricInterpretation), "RGB")
    if int(dataset.get("PixelRepresentation", 0)):
        array = np.ascontiguousarray(array).view(f"i{array.dtype.itemsize}")  # the bits are those of signed numbers
    return array


def _functional_groups(dataset: Dataset, frame: int) -> Sequence[Dataset]:
    """Return the functional groups of a frame, its own before the shared ones (PS3.3 C.7.6.16)."""
    found: list[Dataset] = []
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence")
    if per_frame and frame < len(per_frame):
        found.append(per_frame[frame])
    found.extend(dataset.get("SharedFunctionalGroupsSequence") or [])
    return found


def _group(functional: Sequence[Dataset], name: str) -> Dataset | None:
    for groups in functional:
        sequence = groups.get(name)
        if sequence:
            first: Dataset = sequence[0]
            return first
    return None


def _modality(stored: npt.NDArray[Any], dataset: Dataset, functional: Sequence[Dataset]) -> Floats:
    """Apply the modality LUT, else the rescale (D27)."""
    if dataset.get("ModalityLUTSequence"):
        return np.asarray(apply_modality_lut(stored, dataset), np.float32)
    source = _group(functional, "PixelValueTransformationSequence") or dataset
    slope = _real(source.get("RescaleSlope"), 1.0)
    if slope == 0.0:
        raise Rejected("bad-rescale", "Rescale Slope (0028,1053) is zero: every pixel would be the same")
    intercept = _real(source.get("RescaleIntercept"), 0.0)
    values = stored.astype(np.float32)
    if slope != 1.0:
        values *= slope
    if intercept:
        values += intercept
    return values


def _real(value: object, default: float) -> float:
    if isinstance(value, MultiValue | list):
        value = value[0] if value else None
    try:
        number = float(str(value)) if value not in (None, "") else default
    except ValueError:
        return default
    return number if math.isfinite(number) else default


def _valid(stored: npt.NDArray[Any], dataset: Dataset) -> npt.NDArray[np.bool_]:
    padding = dataset.get("PixelPaddingValue")
    if padding is None or padding == "":
        return np.ones(stored.shape, bool)
    first = _padding(padding, dataset)
    limit = dataset.get("PixelPaddingRangeLimit")
    if limit is None or limit == "":
        return np.asarray(stored != first)
    low, high = sorted((first, _padding(limit, dataset)))
    return np.asarray((stored < low) | (stored > high))


def _padding(value: Any, dataset: Dataset) -> int:
    """Return the padding in the pixels' own representation: files hold it as US where it should be SS."""
    number = int(value if not isinstance(value, bytes) else int.from_bytes(value[:2], "little"))
    bits = int(dataset.BitsStored)
    if int(dataset.get("PixelRepresentation", 0)) and number >= 1 << (bits - 1):
        return number - (1 << int(dataset.BitsAllocated))
    return number


def _windows(dataset: Dataset, functional: Sequence[Dataset]) -> tuple[Window, ...]:
    source = _group(functional, "FrameVOILUTSequence") or dataset
    centers, widths = _reals(source.get("WindowCenter")), _reals(source.get("WindowWidth"))
    function = str(source.get("VOILUTFunction", "") or "LINEAR")
    least = 1.0 if function == "LINEAR" else math.nextafter(0.0, 1.0)
    return tuple(
        Window(center, width, function)
        for center, width in zip(centers, widths, strict=False)
        if math.isfinite(center) and math.isfinite(width) and width >= least
    )


def _reals(value: object) -> list[float]:
    items = list(value) if isinstance(value, MultiValue | list) else [value]
    return [_real(item, math.nan) for item in items if item not in (None, "")]


def _voi_lut(dataset: Dataset) -> tuple[Floats | None, float]:
    sequence = dataset.get("VOILUTSequence")
    if not sequence or "LUTDescriptor" not in sequence[0] or "LUTData" not in sequence[0]:
        return None, 0.0
    item = sequence[0]
    entries, first, bits = (int(part) for part in item.LUTDescriptor)
    raw = item["LUTData"].value
    table = np.frombuffer(raw, "<u2") if isinstance(raw, bytes) else np.asarray(raw)
    if len(table) < (entries or 65536):
        return None, 0.0
    if int(dataset.get("PixelRepresentation", 0)) and first > 32767:
        first -= 65536
    return (table[: entries or 65536].astype(np.float32) / float((1 << (bits or 16)) - 1)), float(first)


def render(image: DecodedImage, window: Window | None = None) -> npt.NDArray[np.uint8]:
    """Return display values from 0 to 255, shape (rows, columns) or (rows, columns, 3), padding black.

    Parameters
    ----------
    image : DecodedImage
        A frame.
    window : Window or None
        None: the VOI LUT of the header, else its first window, else the range from the 0.5th to the 99.5th percentile.
    """
    if image.values.ndim == 3:
        return np.asarray(np.clip(image.values, 0, 255), np.uint8)
    if window is None and image.voi_lut is not None:
        index = np.clip(image.values - image.voi_lut_first, 0, len(image.voi_lut) - 1).astype(np.intp)
        shown = image.voi_lut[index]
    else:
        shown = _windowed(image, window or (image.windows[0] if image.windows else _percentile_window(image)))
    if image.inverted:
        shown = 1.0 - shown
    out = np.rint(shown * 255.0)
    out[~image.valid] = 0
    return np.asarray(out, np.uint8)


def _percentile_window(image: DecodedImage) -> Window:
    values = image.values[image.valid] if image.valid.any() else image.values.ravel()
    step = max(1, values.size // 200_000)
    low, high = np.percentile(values[::step], (0.5, 99.5))
    return Window((float(low) + float(high)) / 2, max(float(high - low), 1e-6), "LINEAR_EXACT")


def _windowed(image: DecodedImage, window: Window) -> Floats:
    """Apply PS3.3 C.11.2.1.2.1 (LINEAR), C.11.2.1.3.1 (SIGMOID) or C.11.2.1.3.2 (LINEAR_EXACT); 0 to 1."""
    values, center, width = image.values, window.center, window.width
    if window.function == "SIGMOID":
        return np.asarray(1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - center) / width, -80, 80))), np.float32)
    if window.function == "LINEAR" and width > 1:
        return np.asarray(np.clip((values - (center - 0.5)) / (width - 1.0) + 0.5, 0.0, 1.0), np.float32)
    if window.function == "LINEAR":
        return (values > center - 0.5).astype(np.float32)
    return np.asarray(np.clip((values - center) / width + 0.5, 0.0, 1.0), np.float32)


def render_png(data: bytes, frame: int = 0, window: Window | None = None, max_side: int = 0) -> bytes:
    """Decode and render one frame as an 8-bit PNG, shrunk so that no side exceeds `max_side` (0: full size)."""
    picture = Image.fromarray(render(decode(data, frame), window))
    if max_side and max(picture.size) > max_side:
        picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=1)
    return out.getvalue()

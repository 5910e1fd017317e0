"""From a decoded image to what the network sees: the same code in training, in the service and in batch.

The network sees what a person sees: display values by `imaging_core.dicom.pixels.render` (modality LUT, VOI,
MONOCHROME1 once, padding black), from 0 to 255; where the header holds no VOI, as in a converted picture, the values
themselves. So a DICOM file and the PNG of its display give the same score by construction. Then

1. shrink to 224 x 224 by way of 299 x 299, anti-aliased, without regard to the aspect ratio (the training images come
   squashed to a square by their publisher);
2. stretch the 1st to 99th percentile to 0..1, padding left out;
3. blur by a Gaussian of sigma 1 pixel, which hides by which program an image was resampled.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from imaging_core.dicom.pixels import DecodedImage, decode, render
from imaging_core.errors import Rejected

__all__ = ["SIDE", "ModelInput", "harmonise", "prepare_dicom", "prepare_display"]

SIDE = 224
_HALF_WAY = 299
_PERCENTILES = (1.0, 99.0)
_SIGMA = 1.0
_REDUCING_GAP = 3.0
_BLOCK_ROWS = 64
_PICTURE_SIDE = 768

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ModelInput:
    """One image ready for the network.

    Parameters
    ----------
    grid : ndarray of float32, (224, 224)
        From 0 to 1, larger is brighter.
    rows, columns : int
        Size of the image that it was made from.
    picture : ndarray of uint8
        Display values with the image's aspect ratio, 768 pixels at most, grey: what the map is laid over in a report.
    """

    grid: Floats
    rows: int
    columns: int
    picture: npt.NDArray[np.uint8]


def _taps(sigma: float) -> Floats:
    radius = int(np.ceil(3 * sigma))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return np.asarray(taps / taps.sum(), np.float32)


_TAPS = _taps(_SIGMA)


def _blur(grid: Floats) -> Floats:
    """Convolve rows, then columns, mirrored at the edges."""
    for _ in range(2):
        wide = np.pad(grid, ((0, 0), (len(_TAPS) // 2, len(_TAPS) // 2)), mode="reflect")
        views = np.lib.stride_tricks.sliding_window_view(wide, len(_TAPS), axis=1)
        grid = (views @ _TAPS).T
    return np.ascontiguousarray(grid, np.float32)


def _shrink(values: npt.NDArray[np.generic]) -> Floats:
    picture = Image.fromarray(_reduced(values))
    for side in (_HALF_WAY, SIDE):
        if side == SIDE or max(picture.size) > side:
            picture = picture.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=_REDUCING_GAP)
    return np.asarray(picture, np.float32)


def _reduced(values: npt.NDArray[np.generic]) -> Floats:
    """Average whole blocks of bytes, as the resize below would begin by doing, in a third of its time."""
    rows, columns = values.shape
    down, across = (max(1, int(size / _HALF_WAY / _REDUCING_GAP)) for size in (rows, columns))
    if values.dtype != np.uint8 or down * across == 1 or rows % down or columns % across or down * across > 256:
        return np.ascontiguousarray(values, np.float32)
    total = np.zeros((rows // down, columns // across), np.uint16)
    for y in range(down):
        for x in range(across):
            total += values[y::down, x::across]
    return np.asarray(total, np.float32) / np.float32(down * across)


def harmonise(display: npt.NDArray[np.generic], valid: npt.NDArray[np.bool_] | None = None) -> Floats:
    """Return the network's input for display values.

    Parameters
    ----------
    display : ndarray, (rows, columns) or (rows, columns, 3)
        Any range; larger is brighter.
    valid : ndarray of bool, (rows, columns), optional
        False on padding, which does not count for the percentiles and becomes black.

    Returns
    -------
    ndarray of float32, (224, 224)
        From 0 to 1. An image of one value is all zeros.
    """
    values = np.asarray(display)
    if values.ndim == 3:
        values = np.asarray(values, np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    kept = None
    if valid is not None and not valid.all():
        values = np.asarray(values, np.float32)
        # filled first, else the padding would bleed into its neighbours
        values = np.where(valid, values, values[valid].min() if valid.any() else np.float32(0.0))
        kept = _shrink(valid.astype(np.float32)) > 0.5
    grid = counted = _shrink(values)
    if kept is not None:
        counted = grid[kept] if kept.any() else grid
    low, high = np.percentile(counted, _PERCENTILES)
    if high - low < 1e-6:
        return np.zeros((SIDE, SIDE), np.float32)
    grid = np.clip((grid - np.float32(low)) / np.float32(high - low), 0.0, 1.0)
    if kept is not None:
        grid = np.where(kept, grid, np.float32(0.0))
    return _blur(np.asarray(grid, np.float32))


def _prepared(
    display: npt.NDArray[np.generic],
    valid: npt.NDArray[np.bool_] | None,
    shown: npt.NDArray[np.uint8] | None = None,
) -> ModelInput:
    eight_bit = _eight_bit(display) if shown is None else shown
    picture = Image.fromarray(eight_bit)
    picture.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE), Image.Resampling.BILINEAR, reducing_gap=1.0)
    picture = picture.convert("L")
    return ModelInput(harmonise(display, valid), display.shape[0], display.shape[1], np.asarray(picture))


def _eight_bit(display: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    if display.dtype == np.uint8:
        return np.asarray(display, np.uint8)
    values = np.asarray(display, np.float32)
    low, high = float(values.min()), float(values.max())
    return np.asarray((values - low) / max(high - low, 1e-6) * 255, np.uint8)


def prepare_display(data: bytes, limit_pixels: int) -> ModelInput:
    """Prepare a PNG or JPEG (already display values); only in a decode child.

    Raises
    ------
    Rejected
        ``not-an-image``, ``too-many-pixels``, ``pixels-unreadable``.
    """
    Image.MAX_IMAGE_PIXELS = None  # the limit below is checked before anything is decoded
    try:
        picture = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
    except (OSError, SyntaxError, ValueError) as error:
        raise Rejected("not-an-image", "send PNG or JPEG") from error
    if picture.width * picture.height > limit_pixels:
        raise Rejected("too-many-pixels", f"{picture.width} x {picture.height}, MAX_IMAGE_PIXELS = {limit_pixels}")
    try:
        display = np.asarray(picture if picture.mode in ("L", "I;16", "I", "RGB") else picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise Rejected("pixels-unreadable", "the picture is broken") from error
    return _prepared(display, None)


def _rendered(image: DecodedImage) -> npt.NDArray[np.uint8]:
    """Return `render`'s display values, made in blocks of rows that stay in the processor's cache."""
    if image.values.ndim != 2 or (image.voi_lut is None and not image.windows):
        return render(image)  # the window follows from the whole image
    out = np.empty(image.values.shape, np.uint8)
    for top in range(0, len(out), _BLOCK_ROWS):
        rows = slice(top, top + _BLOCK_ROWS)
        out[rows] = render(replace(image, values=image.values[rows], valid=image.valid[rows]))
    return out


def prepare_dicom(data: bytes, frame: int = 0) -> ModelInput:
    """Decode and prepare one frame of a DICOM Part 10 file; only in a decode child (`DecodePool.run`).

    Raises
    ------
    Rejected
        As `imaging_core.dicom.pixels.decode`.
    """
    image = decode(data, frame)
    shown = _rendered(image)
    if image.values.ndim == 2 and not image.windows and image.voi_lut is None:
        return _prepared(image.pixels, image.valid, shown)
    return _prepared(shown, image.valid, shown)

"""The map of where the network saw the finding, as floats and as a picture to lay over the image."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["colour", "map_npy", "overlay_png", "probability_map"]

Floats = npt.NDArray[np.float32]

# Anchors of cividis (Nuñez, Anderton, Renslow, "Optimizing colormaps with consideration for color vision deficiency",
# PLOS ONE 13(7):e0199239, 2018): rises evenly in lightness, alike with and without red-green colour vision. A test
# holds both for what is made of them here.
_CIVIDIS = np.array(
    [
        (0, 32, 76),
        (0, 57, 112),
        (61, 77, 107),
        (96, 96, 110),
        (127, 124, 117),
        (162, 153, 112),
        (200, 184, 94),
        (255, 233, 69),
    ],
    np.float32,
)
_MAX_SIDE = 512
_OPACITY = 0.6


def probability_map(patch_logits: Floats, scale: float, offset: float) -> Floats:
    """Return the patches' probabilities, shape as `patch_logits`, by the finding's own calibration slope.

    They compare places within one image; only the image's probability is calibrated.
    """
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(patch_logits * scale + offset, -60, 60))), np.float32)


def colour(values: Floats) -> npt.NDArray[np.uint8]:
    """Return cividis colours (..., 3) of values from 0 to 1."""
    place = np.clip(values, 0, 1) * (len(_CIVIDIS) - 1)
    below = np.minimum(place.astype(np.intp), len(_CIVIDIS) - 2)
    part = (place - below)[..., None]
    mixed = _CIVIDIS[below] * (1 - part) + _CIVIDIS[below + 1] * part
    return np.asarray(np.rint(mixed), np.uint8)


def _palette() -> tuple[bytes, bytes]:
    """Return colours and opacities of the 256 values that the overlay has."""
    values = np.arange(256, dtype=np.float32) / np.float32(255)
    alpha = np.rint(255 * _OPACITY * np.clip((values - 0.1) / 0.6, 0, 1))
    return colour(values).tobytes(), alpha.astype(np.uint8).tobytes()


_COLOURS, _ALPHA = _palette()


def overlay_png(strength: Floats, rows: int, columns: int) -> bytes:
    """Return a PNG with alpha aligned with the image grid, transparent where the map is weak.

    Colour and opacity follow from the value alone, so that the file has a palette of 256 colours, each with its own
    opacity (PLTE and tRNS): a tenth of the time of writing four channels.

    Parameters
    ----------
    strength : ndarray of float32, (14, 14)
        From 0 to 1; the grid covers the whole image, edge to edge.
    rows, columns : int
        Size of the image; the picture keeps its aspect ratio, its longer side is 512 pixels at most.
    """
    ratio = min(1.0, _MAX_SIDE / max(rows, columns))
    size = (max(1, round(columns * ratio)), max(1, round(rows * ratio)))
    smooth = np.asarray(Image.fromarray(strength * np.float32(255)).resize(size, Image.Resampling.BICUBIC), np.float32)
    picture = Image.fromarray(np.rint(smooth.clip(0, 255)).astype(np.uint8))
    picture.putpalette(_COLOURS)
    out = io.BytesIO()
    picture.save(out, "PNG", transparency=_ALPHA, compress_level=1)
    return out.getvalue()


def map_npy(strength: Floats) -> bytes:
    """Return the map as a NumPy .npy file, float32 (14, 14)."""
    out = io.BytesIO()
    np.save(out, strength.astype(np.float32), allow_pickle=False)
    return out.getvalue()

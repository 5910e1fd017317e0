"""One frame as the viewer windows it: 16-bit values and how they relate to modality units.

Made in a decode child and sent as it is; no precision is lost on anything up to 16 bits, so that the window is moved
over the detector's values and not over a picture of them.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass

import numpy as np

from imaging_core.dicom.pixels import DecodedImage, decode

__all__ = ["FrameDescription", "frame_bytes"]


@dataclass(frozen=True)
class FrameDescription:
    """What the viewer needs beside the values.

    Parameters
    ----------
    rows, columns : int
        Size.
    slope, intercept : float
        Modality units = value * slope + intercept.
    inverted : bool
        Low values are bright (MONOCHROME1).
    center, width : float
        First window of the header, else the range of the middle 99 % of the values; modality units.
    padding : int or None
        The value that stands for pixels that hold no image; they are shown black.
    frames : int
        Number of frames of the instance.
    """

    rows: int
    columns: int
    slope: float
    intercept: float
    inverted: bool
    center: float
    width: float
    padding: int | None
    frames: int

    def header(self) -> str:
        """Return the description as one line of JSON, for a response header."""
        return json.dumps(asdict(self), separators=(",", ":"))


def frame_bytes(data: bytes, frame: int = 0) -> tuple[str, bytes]:
    """Decode one frame; return its description (JSON) and its values: 16-bit little endian, deflated (RFC 1950).

    A colour image has no values to window: its description is empty and there are no bytes.

    Parameters
    ----------
    data : bytes
        DICOM Part 10 file.
    frame : int
        From 0.

    Raises
    ------
    Rejected
        As `imaging_core.dicom.pixels.decode`.
    """
    image = decode(data, frame)
    if image.values.ndim != 2:
        return "", b""
    description, values = _quantised(image)
    return description.header(), zlib.compress(values.astype("<u2").tobytes(), 1)


def _quantised(image: DecodedImage) -> tuple[FrameDescription, np.ndarray[tuple[int, ...], np.dtype[np.uint16]]]:
    inside = image.values[image.valid] if image.valid.any() else image.values.ravel()
    low, high = float(inside.min()), float(inside.max())
    room = 65_534  # 65,535 stands for padding
    whole = bool(np.all(inside == np.rint(inside)))
    slope = 1.0 if whole and high - low <= room else max((high - low) / room, 1e-9)
    values = np.rint((image.values - low) / slope)
    stored = np.clip(values, 0, room).astype(np.uint16)
    padded = not bool(image.valid.all())
    if padded:
        stored[~image.valid] = 65_535
    center, width = _window(image, inside)
    rows, columns = stored.shape
    return (
        FrameDescription(
            rows, columns, slope, low, image.inverted, center, width, 65_535 if padded else None, image.frames
        ),
        stored,
    )


def _window(image: DecodedImage, inside: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> tuple[float, float]:
    if image.windows and image.voi_lut is None and image.windows[0].function != "SIGMOID":
        return image.windows[0].center, max(image.windows[0].width, 1.0)
    step = max(1, inside.size // 200_000)
    low, high = (float(edge) for edge in np.percentile(inside[::step], (0.5, 99.5)))
    return (low + high) / 2, max(high - low, 1e-6)

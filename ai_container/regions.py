"""The map as regions: boxes around what stands out, in pixels of the image as it is stored, each with its score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["Region", "regions"]

Floats = npt.NDArray[np.float32]
_FINE = 112
_LEVEL = 0.5
_MOST = 8


@dataclass(frozen=True)
class Region:
    """A connected part of the map above one half.

    Parameters
    ----------
    x, y, width, height : int
        Box in pixels, from the upper left corner of the stored image.
    score : float
        Largest value of the map inside; it compares places within one image and is not a calibrated probability.
    area : float
        Share of the image that the region itself (not its box) covers.
    contour : tuple of (x, y)
        Outline in pixels, closed, clockwise from its topmost leftmost point.
    """

    x: int
    y: int
    width: int
    height: int
    score: float
    area: float
    contour: tuple[tuple[int, int], ...]


def regions(strength: Floats, rows: int, columns: int, level: float = _LEVEL) -> tuple[Region, ...]:
    """Return the regions of a map, the strongest first, eight at most.

    Parameters
    ----------
    strength : ndarray of float32, (14, 14)
        From 0 to 1; the grid covers the whole image, edge to edge.
    rows, columns : int
        Size of the stored image.
    """
    if float(strength.max()) < level:
        return ()
    fine = np.asarray(Image.fromarray(strength).resize((_FINE, _FINE), Image.Resampling.BILINEAR), np.float32)
    raw = np.kron(strength, np.ones((_FINE // len(strength),) * 2, np.float32))  # what the network said of each place
    found = []
    for part in _parts(fine >= level):
        ys, xs = np.nonzero(part)
        left, right = round(xs.min() * columns / _FINE), round((xs.max() + 1) * columns / _FINE)
        top, bottom = round(ys.min() * rows / _FINE), round((ys.max() + 1) * rows / _FINE)
        outline = tuple((round(x * columns / _FINE), round(y * rows / _FINE)) for x, y in _outline(part))
        found.append(Region(left, top, right - left, bottom - top, float(raw[part].max()), float(part.mean()), outline))
    return tuple(sorted(found, key=lambda item: -item.score)[:_MOST])


def _parts(mask: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.bool_]]:
    """Return the parts of a mask that touch along an edge, each as a mask."""
    left = mask.copy()
    found = []
    while left.any():
        part = np.zeros_like(mask)
        start = np.unravel_index(int(left.argmax()), left.shape)
        waiting = [(int(start[0]), int(start[1]))]
        left[start] = False
        while waiting:
            y, x = waiting.pop()
            part[y, x] = True
            for ny, nx in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= ny < left.shape[0] and 0 <= nx < left.shape[1] and left[ny, nx]:
                    left[ny, nx] = False
                    waiting.append((ny, nx))
        found.append(part)
    return found


def _outline(part: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the corners of a part's outer border, walked with the part on the right hand."""
    wide = np.pad(part, 1)
    y, x = (int(value) for value in np.unravel_index(int(wide.argmax()), wide.shape))
    start, direction = (x, y), (1, 0)  # the upper edge of the topmost leftmost cell
    place, corners = start, [start]
    while True:
        dx, dy = direction
        place = (place[0] + dx, place[1] + dy)
        # the two cells ahead of this corner, as seen in the direction of the walk
        ahead_left, ahead_right = _cell(wide, place, (dx, dy), left=True), _cell(wide, place, (dx, dy), left=False)
        if not ahead_right:
            turned = (-dy, dx)  # to the right
        elif ahead_left:
            turned = (dy, -dx)  # to the left
        else:
            turned = (dx, dy)
        if place == start:
            return [(cx - 1, cy - 1) for cx, cy in corners]
        if turned != direction:
            corners.append(place)
        direction = turned


def _cell(wide: npt.NDArray[np.bool_], corner: tuple[int, int], direction: tuple[int, int], *, left: bool) -> bool:
    """Return whether the cell ahead of a corner, on one side, belongs to the part."""
    (x, y), (dx, dy) = corner, direction
    side = (dy, -dx) if left else (-dy, dx)
    # the centre of that cell, in half steps from the corner
    return bool(wide[(2 * y + dy + side[1] - 1) // 2, (2 * x + dx + side[0] - 1) // 2])

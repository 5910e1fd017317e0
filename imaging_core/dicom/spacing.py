"""How far apart pixels are, and where: in the patient or on the detector (D35).

Pixel Spacing (0028,0030) is in the plane of the patient, or calibrated to it (PS3.3 10.7). Imager Pixel Spacing
(0018,1164) and Nominal Scanned Pixel Spacing (0018,2010) are on the detector and on the film, where everything is
magnified: a length in the patient can't be had from them. Zero, negative and unreadable values stand in real files and
mean that nobody knows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydicom import Dataset

from imaging_core.dicom.json_model import Json

__all__ = ["Spacing", "spacing_in_dataset", "spacing_in_json"]

Place = Literal["patient", "detector"]
_KINDS: tuple[tuple[str, str, Place], ...] = (
    ("PixelSpacing", "00280030", "patient"),
    ("ImagerPixelSpacing", "00181164", "detector"),
    ("NominalScannedPixelSpacing", "00182010", "detector"),
)


@dataclass(frozen=True)
class Spacing:
    """Distances between the centres of neighbouring pixels.

    Parameters
    ----------
    rows_mm, columns_mm : float
        Between rows and between columns, in millimetres; finite and greater than 0.
    place : str
        ``patient``: lengths may be measured; ``detector``: only ratios mean something.
    calibrated : str
        Pixel Spacing Calibration Type (0028,0A02): GEOMETRY, FIDUCIAL or empty.
    """

    rows_mm: float
    columns_mm: float
    place: Place
    calibrated: str = ""

    @property
    def aspect(self) -> float:
        """Height of a pixel over its width."""
        return self.rows_mm / self.columns_mm


def spacing_in_dataset(dataset: Dataset, functional: Sequence[Dataset] = ()) -> Spacing | None:
    """Return the spacing of an image; of one frame where its functional groups are given (PS3.3 C.7.6.16.2.1)."""
    for group in functional:
        measures = group.get("PixelMeasuresSequence")
        if measures:
            found = _spacing(lambda keyword, _, item=measures[0]: item.get(keyword))  # type: ignore[misc]  # bound now
            if found is not None:
                return found
    return _spacing(lambda keyword, _: dataset.get(keyword), str(dataset.get("PixelSpacingCalibrationType") or ""))


def spacing_in_json(attributes: Json) -> Spacing | None:
    """Return the spacing in a header of the DICOM JSON model."""
    calibrated = (attributes.get("00280A02", {}).get("Value") or [""])[0]
    return _spacing(lambda _, tag: attributes.get(tag, {}).get("Value"), str(calibrated))


def _spacing(value: Callable[[str, str], Any], calibrated: str = "") -> Spacing | None:
    for keyword, tag, place in _KINDS:
        numbers = _two(value(keyword, tag))
        if numbers is not None:
            return Spacing(*numbers, place, calibrated if place == "patient" else "")
    return None


def _two(value: Any) -> tuple[float, float] | None:
    if value is None or isinstance(value, str):
        return None
    try:
        numbers = [float(str(part)) for part in value]
    except (TypeError, ValueError):
        return None
    if len(numbers) != 2 or not all(math.isfinite(number) and number > 0 for number in numbers):
        return None
    return numbers[0], numbers[1]

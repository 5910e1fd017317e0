"""The training radiographs: who was read as what, where the readers' boxes are, and which patients go together.

Layout: a folder with ``manifest.csv`` (path, dataset, label, radiologist, boxes, rsna_id, patient, view, age ...) and
``labels/kaggle_stage_2_train_labels.csv.zip`` (boxes in a frame of 1024 pixels).
"""

from __future__ import annotations

import csv
import io
import random
import zipfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ai_container.preprocess import SIDE, harmonise

__all__ = ["BOX_FRAME", "Radiograph", "box_mask", "fold_of_patients", "lung_only_grid", "read_grid", "read_radiographs"]

BOX_FRAME = 1024
ADULT_YEARS = 16
_LUNG_BACKGROUND = 0.75


@dataclass(frozen=True)
class Radiograph:
    """One row of the manifest.

    Parameters
    ----------
    path : Path
        Image file.
    dataset : str
        ``nih_chestxray14``, ``rsna_normal``, ``rsna_lungs``, ``kermany_pediatric``, ...
    label : str
        As packaged (NLP labels for NIH): not the truth.
    reading : str
        Radiologists' reading: ``opacity``, ``normal``, ``not_normal`` or empty.
    patient, view : str
        Patient key across data sets; AP, PA or empty.
    age : int or None
        Years.
    boxes : tuple of (x, y, width, height)
        Readers' opacity boxes in the frame of 1024 pixels.
    """

    path: Path
    dataset: str
    label: str
    reading: str
    patient: str
    view: str
    age: int | None
    rsna_id: str
    boxes: tuple[tuple[float, float, float, float], ...]

    @property
    def adult(self) -> bool:
        """Return whether an age of 16 years or more is known."""
        return self.age is not None and self.age >= ADULT_YEARS


def _boxes(path: Path) -> Mapping[str, list[tuple[float, float, float, float]]]:
    found: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
    with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as file:
        for row in csv.DictReader(io.TextIOWrapper(file, "utf-8")):
            if row["x"]:
                x, y, width, height = (float(row[key]) for key in ("x", "y", "width", "height"))
                found[row["patientId"]].append((x, y, width, height))
    return found


def read_radiographs(folder: Path) -> list[Radiograph]:
    """Read the manifest and the boxes."""
    boxes = _boxes(folder / "labels" / "kaggle_stage_2_train_labels.csv.zip")
    with (folder / "manifest.csv").open(newline="") as file:
        return [
            Radiograph(
                path=folder / row["path"],
                dataset=row["dataset"],
                label=row["label"],
                reading=row["radiologist"],
                patient=row["patient"],
                view=row["view"],
                age=int(row["age"]) if row["age"].isdigit() else None,
                rsna_id=row["rsna_id"],
                boxes=tuple(boxes.get(row["rsna_id"], ())) if row["rsna_id"] else (),
            )
            for row in csv.DictReader(file)
        ]


def read_grid(path: Path) -> npt.NDArray[np.float32]:
    """Return the network's input of an image file."""
    with Image.open(path) as picture:
        return harmonise(np.asarray(picture if picture.mode == "L" else picture.convert("RGB")))


def lung_only_grid(path: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return input and lung mask of an image that shows lung fields only, intensities inverted, on black.

    The intensities are turned back, and the cut-away rest gets the grey of soft tissue, so that lung is dark on
    bright as in a whole radiograph.
    """
    with Image.open(path) as picture:
        raw = np.asarray(picture.convert("L"), np.float32)
    lung = raw > 12
    if lung.sum() < 200:
        return np.full((SIDE, SIDE), _LUNG_BACKGROUND, np.float32), np.zeros((SIDE, SIDE), np.float32)
    low, high = np.percentile(raw[lung], (1, 99))
    dark = 0.65 - 0.55 * np.clip((raw - low) / max(high - low, 1.0), 0, 1)
    return harmonise(np.where(lung, dark, _LUNG_BACKGROUND)), lung.astype(np.float32)


def box_mask(boxes: Sequence[tuple[float, float, float, float]], side: int = SIDE) -> npt.NDArray[np.float32]:
    """Return a mask of (side, side): 1 inside a box."""
    mask = np.zeros((side, side), np.float32)
    scale = side / BOX_FRAME
    for x, y, width, height in boxes:
        top, left = round(y * scale), round(x * scale)
        mask[top : max(top + 1, round((y + height) * scale)), left : max(left + 1, round((x + width) * scale))] = 1.0
    return mask


def fold_of_patients(radiographs: Sequence[Radiograph], folds: int, seed: int) -> dict[str, int]:
    """Assign patients to folds alike in what the readers saw; a patient is in one fold whatever the data set."""
    kinds: dict[str, set[str]] = defaultdict(set)
    for item in radiographs:
        kinds[item.patient].add(f"{item.dataset}:{item.reading}")
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for patient in sorted(kinds):
        groups[tuple(sorted(kinds[patient]))].append(patient)
    shuffle = random.Random(seed)  # noqa: S311 a reproducible split, nothing secret
    assigned: dict[str, int] = {}
    turn = 0
    for key in sorted(groups):
        patients = groups[key]
        shuffle.shuffle(patients)
        for patient in patients:
            assigned[patient] = turn % folds
            turn += 1
    return assigned

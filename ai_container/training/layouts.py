"""Readers for the published layouts of public chest radiograph sets, so that a site that has one trains with one command.

| layout | what is there | patients |
|---|---|---|
| ``nih`` | ``Data_Entry_2017_v2020.csv`` (or without ``_v2020``), PNG in any folders below, ``train_val_list.txt`` and ``test_list.txt`` | the official lists, which must not share a patient |
| ``rsna`` | ``stage_2_train_labels.csv``, ``stage_2_detailed_class_info.csv``, ``stage_2_train_images/*.dcm`` | one id per image; ``rsna_nih_map.csv`` (rsna_id, nih_file) groups images of one NIH patient |
| ``covid`` | folders ``COVID``, ``Lung_Opacity``, ``Normal``, ``Viral Pneumonia``, each with ``images`` and ``masks`` | none are published: equal files are one patient, all else is each its own, and the splits leak what they may |
"""  # noqa: E501 a table

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ai_container.chest_findings import CHESTXRAY14
from imaging_core.errors import Permanent

__all__ = ["LAYOUTS", "Example", "Layout", "read_layout", "split_of"]

Split = Literal["train", "validation", "test"]
_TENTHS: Mapping[int, Split] = {8: "validation", 9: "test"}
_SEED = "imaging-1"


@dataclass(frozen=True)
class Example:
    """One radiograph of a public set.

    Parameters
    ----------
    path : Path
        PNG or DICOM.
    patient : str
        Whoever is the same here is in one split.
    labels : frozenset of str
        Of the layout's labels.
    source : str
        What a shortcut would be learnt from: acquisition era, view, hospital; see `ai_container.training.controls`.
    split : str
        ``train``, ``validation`` or ``test``.
    boxes : tuple of (x, y, width, height)
        Readers' boxes in pixels of the image.
    mask : Path or None
        Lung mask.
    """

    path: Path
    patient: str
    labels: frozenset[str]
    source: str
    split: Split = "train"
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    mask: Path | None = None


@dataclass(frozen=True)
class Layout:
    """A published set: its labels, in order, and what reads it."""

    name: str
    labels: tuple[str, ...]
    read: Callable[[Path], list[Example]]


def split_of(patient: str) -> Split:
    """Return the split of a patient: eight tenths train, by a hash, so that it never depends on what else is there."""
    tenth = int(hashlib.sha256(f"{_SEED}:{patient}".encode()).hexdigest(), 16) % 10
    return _TENTHS.get(tenth, "train")


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        yield from csv.DictReader(file)


def _first(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise Permanent("bad-field", f"{folder} holds no {' or '.join(names)}")


def _nih(folder: Path) -> list[Example]:
    table = _first(folder, "Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
    official = {
        name: split
        for file, split in (("train_val_list.txt", "train"), ("test_list.txt", "test"))
        for name in _first(folder, file).read_text("utf-8").split()
    }
    files = {path.name: path for path in sorted(folder.rglob("*.png"))}
    found: list[Example] = []
    for row in _rows(table):
        name = row["Image Index"]
        if name not in files or name not in official:
            continue  # a part of the set is a set
        labels = frozenset(row["Finding Labels"].split("|")) - {"No Finding"}
        unknown = labels - set(CHESTXRAY14)
        if unknown:
            raise Permanent("bad-field", f"{name}: unknown label {', '.join(sorted(unknown))}")
        patient = row["Patient ID"]
        split: Split = "test" if official[name] == "test" else "train"
        if split == "train" and split_of(patient) == "validation":
            split = "validation"
        view = row.get("View Position", "")
        # patients are numbered as they came: a quarter of the numbers is about an era of machines
        era = int(patient) // 7700 if patient.isdigit() else 0
        found.append(Example(files[name], f"nih{patient}", labels, f"{view}-era{era}", split))
    return found


def _rsna(folder: Path) -> list[Example]:
    boxes: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
    opacity: dict[str, bool] = {}
    for row in _rows(_first(folder, "stage_2_train_labels.csv")):
        name = row["patientId"]
        opacity[name] = opacity.get(name, False) or row["Target"] == "1"
        if row["x"]:
            x, y, width, height = (float(row[key]) for key in ("x", "y", "width", "height"))
            boxes[name].append((x, y, width, height))
    details = folder / "stage_2_detailed_class_info.csv"
    kinds = {row["patientId"]: row["class"] for row in _rows(details)} if details.is_file() else {}
    table = folder / "rsna_nih_map.csv"
    persons = (
        {row["rsna_id"]: row["nih_file"].partition("_")[0].lstrip("0") for row in _rows(table)}
        if table.is_file()
        else {}
    )
    found = []
    for name, positive in opacity.items():
        path = folder / "stage_2_train_images" / f"{name}.dcm"
        if not path.is_file():
            continue
        labels = {"Lung Opacity"} if positive else set()
        if kinds.get(name, "").startswith("No Lung Opacity"):
            labels = {"Not Normal"}
        patient = f"nih{persons[name]}" if name in persons else f"rsna{name}"
        found.append(
            Example(path, patient, frozenset(labels), _view(path), split_of(patient), tuple(boxes.get(name, ())))
        )
    return found


def _view(path: Path) -> str:
    """Return the view by the header: sick people are taken AP, the commonest shortcut of this set."""
    from pydicom import dcmread

    return str(dcmread(path, stop_before_pixels=True, specific_tags=["ViewPosition"]).get("ViewPosition", ""))


_COVID_FOLDERS = {
    "COVID": "COVID",
    "Lung_Opacity": "Lung Opacity",
    "Normal": "",
    "Viral Pneumonia": "Viral Pneumonia",
}


def _covid(folder: Path) -> list[Example]:
    found = []
    for name, label in _COVID_FOLDERS.items():
        for path in sorted((folder / name / "images").glob("*.png")):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
            mask = folder / name / "masks" / path.name
            labels = frozenset({label} if label else ())
            # each class came from other hospitals: the folder is the source
            found.append(
                Example(path, f"covid{digest}", labels, name, split_of(digest), mask=mask if mask.is_file() else None)
            )
    return found


LAYOUTS: Mapping[str, Layout] = {
    item.name: item
    for item in (
        Layout("nih", tuple(CHESTXRAY14), _nih),
        Layout("rsna", ("Lung Opacity", "Not Normal"), _rsna),
        Layout("covid", ("COVID", "Lung Opacity", "Viral Pneumonia"), _covid),
    )
}


def read_layout(name: str, folder: Path) -> list[Example]:
    """Read a set.

    Raises
    ------
    Permanent
        ``bad-field``: the layout is not the published one, no image is there, or two splits share a patient.
    """
    found = LAYOUTS[name].read(folder)
    if not found:
        raise Permanent("bad-field", f"{folder} holds no image of layout {name}")
    shared = _shared_patients(found)
    if shared:
        # a validation patient is drawn by number; the official lists decide between training and test
        raise Permanent("bad-field", f"{len(shared)} patients are in two splits, such as {shared[0]}")
    return found


def _shared_patients(examples: Sequence[Example]) -> list[str]:
    splits: dict[str, set[str]] = defaultdict(set)
    for item in examples:
        splits[item.patient].add(item.split)
    return sorted(patient for patient, found in splits.items() if len(found) > 1)

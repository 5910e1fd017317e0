"""The published layouts, on small trees of the same shape made of the images at hand, and their controls."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from ai_container.chest_findings import CHESTXRAY14
from ai_container.runtime import LiteModel
from ai_container.training.controls import (
    border_only,
    copy_against_copy,
    label_from_source,
    reprocessed,
    source_from_border,
)
from ai_container.training.layouts import LAYOUTS, read_layout, split_of
from imaging_core.dicom.pixels import decode, render
from imaging_core.errors import Permanent
from tests.ai_container.conftest import changed

PATIENTS = 30


@pytest.fixture(scope="session")
def pictures(chest: bytes) -> list[Image.Image]:
    """The chest in many crops and brightnesses, so that no two are equal."""
    whole = Image.fromarray(render(decode(chest)))
    found = []
    for number in range(2 * PATIENTS):
        left, top = 10 * (number % 6), 12 * (number // 6)
        crop = whole.crop((left, top, left + 1700, top + 1700)).resize((128, 128))
        found.append(Image.fromarray((np.asarray(crop) * (0.7 + 0.005 * number)).astype(np.uint8)))
    return found


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture
def nih(tmp_path: Path, pictures: list[Image.Image]) -> Path:
    """Two images of each patient; the last quarter of the patients in the official test list; one file missing."""
    folder = tmp_path / "nih"
    rows, lists = [], {"train_val_list.txt": list[str](), "test_list.txt": list[str]()}
    for number, picture in enumerate(pictures):
        patient = number // 2 + 1
        name = f"{patient:08d}_{number % 2:03d}.png"
        part = folder / f"images_{number % 3:03d}" / "images"
        part.mkdir(parents=True, exist_ok=True)
        (picture.convert("RGBA") if number == 3 else picture).save(part / name)
        labels = ("No Finding", "Effusion", "Effusion|Mass")[patient % 3]
        rows.append([name, labels, number % 2, patient, 50, "M", ("PA", "AP")[patient % 2], 100, 100, 0.1, 0.1])
        lists["test_list.txt" if patient > PATIENTS * 3 // 4 else "train_val_list.txt"].append(name)
    rows.append(["00009999_000.png", "Hernia", 0, 9999, 50, "M", "PA", 1, 1, 1, 1])
    header = ["Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Sex"]
    header += ["View Position", "OriginalImage[Width", "Height]", "OriginalImagePixelSpacing[x", "y]"]
    write_csv(folder / "Data_Entry_2017_v2020.csv", header, rows)
    for name, names in lists.items():
        (folder / name).write_text("\n".join(names) + "\n")
    return folder


@pytest.fixture
def rsna(tmp_path: Path, pictures: list[Image.Image], chest: bytes) -> Path:
    folder = tmp_path / "rsna"
    (folder / "stage_2_train_images").mkdir(parents=True)
    labels, kinds, persons = [], [], []
    for number, picture in enumerate(pictures[:PATIENTS]):
        name = f"id-{number:03d}"
        pixels = np.asarray(picture, np.uint16) * 100
        data = changed(
            chest,
            PixelData=pixels.tobytes(),
            Rows=128,
            Columns=128,
            ViewPosition=("PA", "AP")[number % 2],
            SOPInstanceUID=f"1.2.3.{number}",
        )
        (folder / "stage_2_train_images" / f"{name}.dcm").write_bytes(data)
        if number % 3 == 0:
            labels += [[name, 100, 200, 300, 400, 1], [name, 600, 200, 200, 300, 1]]
            kinds += [[name, "Lung Opacity"]] * 2
        else:
            labels.append([name, "", "", "", "", 0])
            kinds.append([name, ("Normal", "No Lung Opacity / Not Normal")[number % 2]])
        persons.append([name, f"{number // 2 + 1:08d}_000.png"])
    write_csv(folder / "stage_2_train_labels.csv", ["patientId", "x", "y", "width", "height", "Target"], labels)
    write_csv(folder / "stage_2_detailed_class_info.csv", ["patientId", "class"], kinds)
    write_csv(folder / "rsna_nih_map.csv", ["rsna_id", "nih_file"], persons)
    return folder


@pytest.fixture
def covid(tmp_path: Path, pictures: list[Image.Image]) -> Path:
    folder = tmp_path / "covid"
    for place, name in enumerate(("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia")):
        for kind in ("images", "masks"):
            (folder / name / kind).mkdir(parents=True)
        for number in range(8):
            file = f"{name}-{number}.png"
            pictures[(place * 8 + number) % len(pictures)].save(folder / name / "images" / file)
            if number:
                Image.new("L", (128, 128), 255).save(folder / name / "masks" / file)
    pictures[0].save(folder / "Normal" / "images" / "Normal-copy.png")  # the very file of COVID-0
    return folder


def test_nih(nih: Path) -> None:
    found = read_layout("nih", nih)
    assert len(found) == 2 * PATIENTS  # the row without a file is left out
    assert {label for item in found for label in item.labels} == {"Effusion", "Mass"}
    assert LAYOUTS["nih"].labels == tuple(CHESTXRAY14)
    splits = {item.patient: item.split for item in found}
    assert {item.split for item in found} == {"train", "validation", "test"}
    assert splits[f"nih{PATIENTS}"] == "test"
    assert all((item.split == "test") == (int(item.patient[3:]) > PATIENTS * 3 // 4) for item in found)
    assert {item.source for item in found} == {"PA-era0", "AP-era0"}


def test_official_lists_that_share_a_patient_are_refused(nih: Path) -> None:
    names = (nih / "train_val_list.txt").read_text().split()
    (nih / "train_val_list.txt").write_text("\n".join(names[1:]))
    with (nih / "test_list.txt").open("a") as file:
        file.write(names[0] + "\n")
    with pytest.raises(Permanent, match="in two splits"):
        read_layout("nih", nih)


def test_an_unknown_label_is_refused(nih: Path) -> None:
    table = nih / "Data_Entry_2017_v2020.csv"
    table.write_text(table.read_text().replace("Effusion|Mass", "Effusion|Gout"))
    with pytest.raises(Permanent, match="Gout"):
        read_layout("nih", nih)


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_an_empty_folder_is_refused(layout: str, tmp_path: Path) -> None:
    with pytest.raises(Permanent, match="bad-field"):
        read_layout(layout, tmp_path)


def test_rsna(rsna: Path) -> None:
    found = {item.path.stem: item for item in read_layout("rsna", rsna)}
    assert len(found) == PATIENTS
    assert found["id-000"].labels == {"Lung Opacity"}
    assert found["id-000"].boxes == ((100, 200, 300, 400), (600, 200, 200, 300))
    assert found["id-001"].labels == {"Not Normal"}
    assert found["id-002"].labels == frozenset()
    assert found["id-000"].patient == found["id-001"].patient == "nih1"  # two of RSNA's ids are one NIH patient
    assert found["id-000"].split == found["id-001"].split == split_of("nih1")
    assert {item.source for item in found.values()} == {"PA", "AP"}


def test_covid(covid: Path) -> None:
    found = read_layout("covid", covid)
    assert len(found) == 33
    by_name = {item.path.name: item for item in found}
    assert by_name["COVID-0.png"].patient == by_name["Normal-copy.png"].patient
    assert by_name["COVID-0.png"].mask is None
    assert by_name["COVID-1.png"].mask is not None
    assert by_name["Viral Pneumonia-3.png"].labels == {"Viral Pneumonia"}
    assert by_name["Normal-2.png"].labels == frozenset()


def test_a_split_is_the_patient_s_own() -> None:
    splits = [split_of(str(number)) for number in range(2000)]
    assert splits.count("train") / 2000 == pytest.approx(0.8, abs=0.03)
    assert splits.count("test") / 2000 == pytest.approx(0.1, abs=0.03)


def test_the_controls_see_a_shortcut_and_nothing_where_there_is_none() -> None:
    random = np.random.default_rng(0)
    patients = [str(number) for number in range(120)]
    sources = ["a" if number % 2 else "b" for number in range(120)]
    plain = [random.random((224, 224), np.float32) for _ in patients]
    framed = [grid.copy() for grid in plain]
    for grid, source in zip(framed, sources, strict=True):
        if source == "a":
            grid[:8] = 0.0  # a black line on top: this hospital's collimator
    told = source_from_border(framed, sources, patients)["a"]["value"]
    assert told > 0.95
    assert source_from_border(plain, sources, patients)["a"]["value"] < 0.7
    labels = np.array([[source == "a", random.random() < 0.5] for source in sources])
    first, second = label_from_source(sources, labels)
    assert first == 1.0
    assert second < 0.65
    assert label_from_source(["one"] * 120, labels) == [0.5, 0.5]


def test_border_and_copy() -> None:
    grid = np.random.default_rng(1).random((224, 224), np.float32)
    border = border_only(grid)
    assert np.ptp(border[30:190, 30:190]) == 0
    assert (border[0] == grid[0]).all()
    smooth = np.asarray(Image.fromarray(grid).resize((20, 20)).resize((224, 224), Image.Resampling.BICUBIC))
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    assert np.abs(reprocessed(smooth) - smooth).mean() < 0.06
    found = copy_against_copy(lambda grids: np.array([[item.mean()] for item in grids]), [smooth] * 3)
    assert found["pairs"] == 3


@pytest.mark.parametrize("layout", ["nih", "rsna", "covid"])
def test_one_command_trains_and_measures(layout: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    from ai_container.training.__main__ import main

    folder: Path = request.getfixturevalue(layout)
    out = tmp_path / "out"
    arguments = ["--layout", layout, "--data", str(folder), "--out", str(out), "--steps", "3", "--no-backbone"]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["labels"] == list(LAYOUTS[layout].labels)
    assert sum(metrics["images"].values()) >= 30
    assert set(metrics["controls"]) == {
        "border_only_auc",
        "copy_against_copy",
        "source_from_border_auc",
        "label_from_source_auc",
    }
    answer = LiteModel((out / "weights.tflite").read_bytes(), interpreters=1).run(np.zeros((224, 224), np.float32))
    count = len(metrics["labels"])
    assert answer["logit"].shape == (count,)
    assert answer["patches"].shape == (count, 14, 14)

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ai_container.statistics import (
    auc,
    auc_within_folds,
    bootstrap,
    calibration_error,
    calibration_error_floor,
    conformal_limits,
    energy_in_box,
    linear_probe,
    platt,
    points_into_box,
    sigmoid,
)
from ai_container.training.radiographs import Radiograph, box_mask, fold_of_patients, read_radiographs
from ai_container.training.samples import group_of


def radiograph(**changes: object) -> Radiograph:
    values: dict[str, object] = {
        "path": Path("x.jpg"),
        "dataset": "nih_chestxray14",
        "label": "pneumonia",
        "reading": "opacity",
        "patient": "nih1",
        "view": "AP",
        "age": 50,
        "rsna_id": "a",
        "boxes": ((0.0, 0.0, 512.0, 512.0),),
    }
    return Radiograph(**{**values, **changes})  # type: ignore[arg-type]  # a table of any fields


@pytest.mark.parametrize(
    ("changes", "group"),
    [
        ({}, "opacity"),
        ({"boxes": ()}, None),
        ({"reading": "normal"}, "normal"),
        ({"reading": "not_normal"}, "not_normal"),
        ({"reading": ""}, "unread_pneumonia"),
        ({"reading": "", "label": "no_finding"}, None),  # the pair that gives the acquisition era away
        ({"age": 15}, None),
        ({"age": None}, None),
        ({"dataset": "rsna_normal", "reading": "normal"}, "rsna_normal_ap"),
        ({"dataset": "rsna_lungs"}, "lungs_opacity"),
        ({"dataset": "kermany_pediatric"}, None),
        ({"dataset": "hannover_covid"}, None),
    ],
)
def test_what_is_trained_on(changes: dict[str, object], group: str | None) -> None:
    assert group_of(radiograph(**changes)) == group


def test_a_patient_is_in_one_fold_whatever_the_data_set() -> None:
    items = [
        radiograph(patient=f"nih{number % 40}", dataset=dataset, reading=reading)
        for number in range(120)
        for dataset, reading in (("nih_chestxray14", "opacity"), ("rsna_normal", "normal"))
    ]
    folds = fold_of_patients(items, 3, seed=1)
    assert set(folds) == {item.patient for item in items}
    assert folds == fold_of_patients(items[::-1], 3, seed=1)
    assert folds != fold_of_patients(items, 3, seed=2)
    assert sorted(np.bincount(list(folds.values()))) == [13, 13, 14]


def test_boxes_lie_in_the_frame_of_1024_pixels() -> None:
    mask = box_mask([(0, 512, 256, 512)])
    assert mask.sum() == 56 * 112
    assert mask[150, 30] == 1
    assert mask[50, 30] == 0


def test_auc() -> None:
    assert auc([3, 4], [1, 2]) == 1.0
    assert auc([1, 2], [1, 2]) == 0.5
    assert auc([1], [2]) == 0.0


def test_pairs_of_two_folds_do_not_count() -> None:
    scores, labels, folds = [1, 2, 11, 12], [False, True, False, True], [0, 0, 1, 1]
    assert auc_within_folds(scores, labels, folds) == 1.0
    assert auc([2, 12], [1, 11]) == 0.75
    assert np.isnan(auc_within_folds([1, 2], [True, True], [0, 0]))


def test_bootstrap_draws_patients_not_images() -> None:
    values = np.repeat(np.arange(10.0), 50)
    patients = [str(value) for value in values]
    found = bootstrap(lambda drawn: float(values[drawn].mean()), patients, rounds=300)
    assert found["value"] == 4.5
    assert found["high"] - found["low"] > 2  # by images it would be 0.5


def test_platt_and_calibration_error() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, 4000)
    labels = random.random(4000) < sigmoid(0.5 * logits - 1)
    scale, offset = platt(logits, labels)
    assert scale == pytest.approx(0.5, abs=0.06)
    assert offset == pytest.approx(-1, abs=0.1)
    assert calibration_error(sigmoid(scale * logits + offset), labels) < 0.02
    assert calibration_error(sigmoid(logits), labels) > 0.05
    assert calibration_error_floor(sigmoid(logits[:200])) > calibration_error_floor(sigmoid(logits)) > 0


def test_conformal_limits_keep_what_they_promise() -> None:
    random = np.random.default_rng(1)
    missed, alarms = [], []
    for _ in range(300):
        positive, negative = random.normal(1, 1, 160), random.normal(-1, 1, 160)
        known = np.concatenate([positive[:80], negative[:80]])
        low, high = conformal_limits(known, np.repeat([1, 0], 80), 0.1)
        missed.append((positive[80:] < low).mean())
        alarms.append((negative[80:] >= high).mean())
    assert np.mean(missed) <= 0.105
    assert np.mean(alarms) <= 0.105


def test_localisation_measures() -> None:
    cover = np.zeros((14, 14))
    cover[2:4, 2:4] = 1
    strength = np.zeros((14, 14))
    strength[3, 3], strength[9, 9] = 2, 1
    assert points_into_box(strength, cover)
    assert not points_into_box(-strength, cover)
    assert energy_in_box(strength, cover) == pytest.approx(2 / 3)


def test_the_probe_tells_what_can_be_told_and_nothing_else() -> None:
    random = np.random.default_rng(2)
    labels, folds = np.arange(300) % 2 == 0, np.arange(300) % 3
    noise = random.normal(size=(300, 40))
    assert 0.35 < auc(linear_probe(noise, labels, folds)[labels], linear_probe(noise, labels, folds)[~labels]) < 0.65
    told = noise + labels[:, None] * 0.8
    assert auc(linear_probe(told, labels, folds)[labels], linear_probe(told, labels, folds)[~labels]) > 0.95


def test_serving_needs_no_tensorflow() -> None:
    code = (
        "import sys, ai_container.app, ai_container.study_analysis; "
        "from ai_container.registry import Registry; from ai_container.image_analysis import Model; "
        "from imaging_core.settings import load_settings; "
        "[Model(b).warm_up() for b in Registry.from_settings(load_settings()).all()]; "
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.shared
def test_the_published_data_are_read_as_described(shared_data: Path) -> None:
    radiographs = read_radiographs(shared_data / "cxr")
    folds = fold_of_patients(radiographs, 3, seed=20241)
    groups = [group_of(item) for item in radiographs]
    assert groups.count("opacity") >= 85
    assert all(item.adult for item, group in zip(radiographs, groups, strict=True) if group)
    assert {folds[item.patient] for item in radiographs} == {0, 1, 2}
    opacity = [item for item, group in zip(radiographs, groups, strict=True) if group == "opacity"]
    assert all(0.002 < box_mask(item.boxes).mean() < 0.6 for item in opacity)

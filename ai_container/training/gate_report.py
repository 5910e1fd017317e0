"""Which images the pixel gate is fitted to and measured on."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ai_container.gate import POSES
from ai_container.preprocess import harmonise
from ai_container.training.gate_fit import GateFeatures, fit_gate, measure_gate, read_features
from ai_container.training.radiographs import Radiograph, read_grid

__all__ = ["FITTED", "gate_statistics", "noise", "not_chest"]

_log = logging.getLogger(__name__)
FITTED = 700
_MEASURED = 300
_ELSEWHERE = 150
Floats = npt.NDArray[np.float32]


def _grids(items: Sequence[Radiograph]) -> list[Floats]:
    return [read_grid(item.path) for item in items]


def not_chest(data: Path, draw: random.Random) -> list[Path]:
    """Return photographs, textures, text and brain MR beside the radiographs' folder, as far as they are there."""
    found = sorted((data.parent / "negatives").glob("*/*.*"))
    for name in ("cheng_t1ce", "btp_t1post", "ms_brain"):
        slices = sorted(p for p in (data.parent / "mr" / name).rglob("*.*") if p.suffix.lower() in (".png", ".jpg"))
        found += draw.sample(slices, min(_ELSEWHERE, len(slices)))
    return found


def noise() -> list[Floats]:
    """Return images of noise, of several sizes."""
    source = np.random.default_rng(11)
    return [harmonise(source.random((side, side)) * 255) for side in (64, 224, 300, 512) for _ in range(10)]


def gate_statistics(
    radiographs: Sequence[Radiograph], folds: Mapping[str, int], data: Path, network: bytes, seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the statistics to ship, and what a gate fitted without fold 0 refuses.

    The shipped one is fitted to as many images, of all folds.
    """
    draw = random.Random(seed)  # noqa: S311 a reproducible choice, nothing secret
    adults = [item for item in radiographs if item.adult and item.dataset in ("nih_chestxray14", "rsna_normal")]
    draw.shuffle(adults)
    seen = [item for item in adults if folds[item.patient] != 0][:FITTED]
    held = [item for item in adults if folds[item.patient] == 0][:_MEASURED]
    trial = fit_gate(_in_poses(network, _grids(seen)))
    _log.info("gate fitted to %d images, measured on %d", len(seen), len(held))
    measured: dict[str, Any] = {}
    for pose, features in _in_poses(network, _grids(held)).items():
        name = "adult_frontal" if pose == "upright" else pose
        measured[name] = measure_gate(trial, features)
    others = {
        "another_hospital_adult": _grids([item for item in radiographs if item.dataset == "hannover_covid"]),
        "children_1_to_5_years": _grids(
            draw.sample([item for item in radiographs if item.dataset == "kermany_pediatric"], _ELSEWHERE)
        ),
        "not_chest": [read_grid(path) for path in not_chest(data, draw)],
        "noise": noise(),
    }
    for name, grids in others.items():
        measured[name] = measure_gate(trial, read_features(network, grids))
    final = fit_gate(_in_poses(network, _grids(adults[:FITTED])))
    return final, measured


def _in_poses(network: bytes, grids: Sequence[Floats]) -> dict[str, GateFeatures]:
    return {pose: read_features(network, grids, pose) for pose in POSES}

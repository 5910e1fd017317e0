"""Train one network per held-out fold of patients, and the final one on all."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras  # type: ignore[import-untyped]  # has no types
import tensorflow as tf  # type: ignore[import-untyped]  # has no types

from ai_container.training.fit import Recipe, fit
from ai_container.training.network import build_network
from ai_container.training.radiographs import fold_of_patients, read_radiographs
from ai_container.training.samples import make_samples

__all__ = ["FOLDS", "load_network", "start_tensorflow", "train_folds"]

FOLDS = 3
_log = logging.getLogger(__name__)


def start_tensorflow(seed: int, threads: int) -> None:
    """Fix seeds and threads; to be called before anything runs."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(seed)


def network_path(out: Path, fold: int | None) -> Path:
    """Return where the network of a fold is kept; None: the final one."""
    return out / ("final.keras" if fold is None else f"fold{fold}.keras")


def load_network(path: Path) -> Any:
    """Return a trained network."""
    return keras.models.load_model(path, compile=False)


def train_folds(data: Path, backbone: Path, out: Path, recipe: Recipe, turns: Sequence[int | None]) -> None:
    """Train the networks of `turns` that are not yet in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    radiographs = read_radiographs(data)
    folds = fold_of_patients(radiographs, FOLDS, recipe.seed)
    (out / "folds.json").write_text(json.dumps(folds))
    (out / "recipe.json").write_text(json.dumps(asdict(recipe)))
    samples = make_samples(radiographs)
    _log.info("%d images to train on", len(samples))
    for fold in turns:
        path = network_path(out, fold)
        if path.exists():
            continue
        keras.utils.set_random_seed(recipe.seed)
        network = build_network(backbone)
        chosen = [sample for item, sample in samples if fold is None or folds[item.patient] != fold]
        fit(network, chosen, recipe, path.stem)
        network.save(path)
        keras.backend.clear_session()

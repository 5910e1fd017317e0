"""Train a model of several findings on a published set: ``make train ARGS="--layout nih --data DIR"``.

The network is the shipped one's (EfficientNet-Lite0, answers per patch, soft maximum) with one map per label. Images
are prepared once, by the service's own preprocessing, into a file on disk, so that 100,000 of them fit a small machine.
What comes out is ``network.keras``, ``weights.tflite`` and ``metrics.json``: AUC by label on the test patients with
intervals, and the shortcut controls. Whether it may be shown to anybody is for those numbers to say.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras  # type: ignore[import-untyped]  # has no types
import numpy as np
import numpy.typing as npt
import tensorflow as tf  # type: ignore[import-untyped]  # has no types
from keras import layers, ops

from ai_container.preprocess import SIDE, prepare_dicom
from ai_container.statistics import auc, bootstrap
from ai_container.training.controls import (
    border_only,
    copy_against_copy,
    label_from_source,
    source_from_border,
)
from ai_container.training.layouts import LAYOUTS, Example, read_layout
from ai_container.training.lite import to_lite
from ai_container.training.network import GRID, load_backbone
from ai_container.training.radiographs import read_grid

__all__ = ["MultiRecipe", "PatchMaximum", "build_multilabel", "prepare", "train_layout"]

_log = logging.getLogger(__name__)
_CONTROLLED = 400
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class MultiRecipe:
    """Hyperparameters.

    Parameters
    ----------
    steps, batch : int
        Of training.
    boxed : float
        Weight of the patches inside and outside readers' boxes, where a set has them.
    """

    steps: int = 4000
    batch: int = 32
    learning_rate: float = 3e-4
    weight_decay: float = 1e-4
    smoothing: float = 0.02
    boxed: float = 1.0
    seed: int = 20241


@keras.saving.register_keras_serializable("imaging")
class PatchMaximum(layers.Layer):  # type: ignore[misc]  # keras has no types
    """Soft maximum over the patches of each label, then a learned scale and offset."""

    def __init__(self, sharpness: float = 3.0, **options: Any) -> None:
        super().__init__(**options)
        self.sharpness = sharpness

    def build(self, shape: Any) -> None:
        """Make scale and offset of each label."""
        self.scale = self.add_weight(name="scale", shape=(shape[-1],), initializer="ones")
        self.offset = self.add_weight(name="offset", shape=(shape[-1],), initializer="zeros")

    def call(self, patches: Any) -> Any:
        """Return the logits."""
        soft = ops.logsumexp(patches * self.sharpness, axis=(1, 2)) - float(np.log(GRID * GRID))
        return soft / self.sharpness * self.scale + self.offset

    def get_config(self) -> dict[str, Any]:
        """Return what `from_config` needs."""
        return {**super().get_config(), "sharpness": self.sharpness}


def build_multilabel(outputs: int, backbone: Path | None) -> Any:
    """Return the network: input (224, 224, 1) from 0 to 1; ``logit`` (n,) and ``patches`` (n, 14, 14).

    Parameters
    ----------
    backbone : Path or None
        EfficientNet-Lite0 without head (.keras); None: four small convolutions, which learn little and quickly.
    """
    image = keras.Input((SIDE, SIDE, 1), name="image")
    if backbone is None:
        middle = image
        for width in (8, 16, 24, 32):
            middle = layers.Conv2D(width, 3, 2, "same", activation="relu")(middle)
        joined = middle
    else:
        frozen = load_backbone(backbone)
        for layer in frozen.layers:
            layer.trainable = not isinstance(layer, layers.BatchNormalization)
        stages = keras.Model(frozen.input, [frozen.get_layer("b10_add").output, frozen.get_layer("head_act").output])
        middle, top = stages(ops.repeat(image * 2.0 - 1.0, 3, axis=-1))
        top = layers.UpSampling2D(2, interpolation="bilinear")(layers.Conv2D(128, 1)(top))
        joined = layers.ReLU(6.0)(layers.Add()([top, layers.Conv2D(128, 1)(middle)]))
        joined = layers.SpatialDropout2D(0.2)(joined)
    places = layers.Conv2D(outputs, 1, bias_initializer=keras.initializers.Constant(-2.0), name="places")(joined)
    logit = PatchMaximum(name="logit")(places)
    patches = layers.Permute((3, 1, 2), name="patches")(places)
    return keras.Model(image, {"logit": logit, "patches": patches})


def prepare(examples: Sequence[Example], path: Path) -> npt.NDArray[np.uint8]:
    """Return the network's inputs as bytes (n, 224, 224), made once and kept in a file."""
    names = "\n".join(str(item.path) for item in examples)
    listed = path.with_suffix(".txt")
    if path.is_file() and listed.is_file() and listed.read_text("utf-8") == names:
        return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]
    grids = np.lib.format.open_memmap(path, "w+", np.uint8, (len(examples), SIDE, SIDE))
    for number, item in enumerate(examples):
        grid = prepare_dicom(item.path.read_bytes()).grid if item.path.suffix == ".dcm" else read_grid(item.path)
        grids[number] = np.rint(grid * 255)
        if number % 1000 == 999:
            _log.info("%d of %d images prepared", number + 1, len(examples))
    grids.flush()
    listed.write_text(names, "utf-8")
    return grids


def _targets(examples: Sequence[Example], labels: Sequence[str]) -> Floats:
    return np.array([[label in item.labels for label in labels] for item in examples], np.float32)


def _covers(example: Example) -> Floats:
    """Return how much of each patch the readers' boxes cover, (14, 14)."""
    side, cell = 1024, 1024 // GRID
    mask = np.zeros((side, side), np.float32)
    for x, y, width, height in example.boxes:
        mask[round(y) : round(y + height), round(x) : round(x + width)] = 1
    return np.asarray(mask[: cell * GRID, : cell * GRID].reshape(GRID, cell, GRID, cell).mean((1, 3)), np.float32)


def _fit(
    network: Any, grids: npt.NDArray[np.uint8], examples: Sequence[Example], wanted: Floats, recipe: MultiRecipe
) -> None:
    """Train in place: as many images with a rare label as with a common one in the long run."""
    random = np.random.default_rng(recipe.seed)
    chosen = np.array([number for number, item in enumerate(examples) if item.split == "train"])
    share = wanted[chosen].mean(0).clip(1e-3, 1)
    weight = 1 + (wanted[chosen] / np.sqrt(share)).max(1)
    weight = weight / weight.sum()
    schedule = keras.optimizers.schedules.CosineDecay(recipe.learning_rate, recipe.steps, alpha=0.02)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=recipe.weight_decay, clipnorm=5.0)
    optimizer.build(network.trainable_variables)
    # a box says where the first label is, and nothing of the others
    boxed = any(item.boxes for item in examples)

    @tf.function  # type: ignore[untyped-decorator]
    def step(images: Any, target: Any, cover: Any, has_boxes: Any) -> Any:
        smooth = target * (1 - recipe.smoothing) + recipe.smoothing / 2
        with tf.GradientTape() as tape:
            answer = network(images, training=True)
            loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(smooth, answer["logit"]))
            if boxed:
                inside = tf.cast(cover > 0.5, tf.float32)
                by_patch = tf.nn.sigmoid_cross_entropy_with_logits(inside, answer["patches"][:, 0])
                judged = tf.cast((cover > 0.5) | (cover < 0.1), tf.float32) * has_boxes[:, None, None]
                loss += recipe.boxed * tf.reduce_sum(by_patch * judged) / (tf.reduce_sum(judged) + 1.0)
        optimizer.apply_gradients(
            zip(tape.gradient(loss, network.trainable_variables), network.trainable_variables, strict=True)
        )
        return loss

    recent: list[float] = []
    for number in range(1, recipe.steps + 1):
        drawn = chosen[random.choice(len(chosen), recipe.batch, p=weight)]
        images = grids[drawn].astype(np.float32)[..., None] / 255
        mirrored = random.random(recipe.batch) < 0.5
        cover = np.stack([_covers(examples[place]) for place in drawn]) if boxed else np.zeros((recipe.batch, 1, 1))
        images[mirrored], cover[mirrored] = images[mirrored, :, ::-1], cover[mirrored, :, ::-1]
        images = np.clip(images ** np.exp(random.uniform(-0.3, 0.3, (recipe.batch, 1, 1, 1))), 0, 1)
        has_boxes = np.array([bool(examples[place].boxes) for place in drawn], np.float32)
        parts = (images, wanted[drawn], cover, has_boxes)
        recent.append(float(step(*(tf.constant(part, tf.float32) for part in parts))))
        if number % 100 == 0:
            _log.info("step %d of %d: loss %.4f", number, recipe.steps, np.mean(recent[-100:]))


def _scored(network: Any, grids: Sequence[Floats]) -> npt.NDArray[Any]:
    parts = [
        np.asarray(network(np.stack(grids[start : start + 32])[..., None], training=False)["logit"])
        for start in range(0, len(grids), 32)
    ]
    return np.concatenate(parts)


def _by_label(logits: npt.NDArray[Any], truth: npt.NDArray[Any], patients: Sequence[str], labels: Sequence[str]) -> Any:
    found = {}
    for place, label in enumerate(labels):
        score, there = logits[:, place], truth[:, place] > 0.5
        if not there.any() or there.all():
            continue  # no AUC without both kinds

        def measure(
            drawn: npt.NDArray[np.intp], score: npt.NDArray[Any] = score, there: npt.NDArray[Any] = there
        ) -> float:
            return auc(score[drawn][there[drawn]], score[drawn][~there[drawn]])

        found[label] = {**bootstrap(measure, patients, rounds=200), "positives": int(there.sum())}
    return found


def train_layout(name: str, data: Path, out: Path, backbone: Path | None, recipe: MultiRecipe) -> dict[str, Any]:
    """Train on a published set, measure on its test patients, write network and metrics; return the metrics.

    Raises
    ------
    Permanent
        See `ai_container.training.layouts.read_layout`.
    """
    examples, labels = read_layout(name, data), LAYOUTS[name].labels
    out.mkdir(parents=True, exist_ok=True)
    grids = prepare(examples, out / "grids.npy")
    wanted = _targets(examples, labels)
    network = build_multilabel(len(labels), backbone)
    _fit(network, grids, examples, wanted, recipe)
    network.save(out / "network.keras")
    (out / "weights.tflite").write_bytes(to_lite(network))
    tested = [number for number, item in enumerate(examples) if item.split == "test"]
    images = [grids[number].astype(np.float32) / 255 for number in tested]
    patients, truth = [examples[number].patient for number in tested], wanted[tested]
    some = slice(0, _CONTROLLED)
    sources = [item.source for item in examples]
    every = max(1, len(examples) // _CONTROLLED)
    metrics = {
        "layout": name,
        "labels": list(labels),
        "images": {split: sum(item.split == split for item in examples) for split in ("train", "validation", "test")},
        "auc": _by_label(_scored(network, images), truth, patients, labels) if tested else {},
        "controls": {
            "border_only_auc": _by_label(
                _scored(network, [border_only(image) for image in images]), truth, patients, labels
            )
            if tested
            else {},
            "copy_against_copy": copy_against_copy(lambda part: _scored(network, part), images[some]) if tested else {},
            "source_from_border_auc": source_from_border(
                [grids[number].astype(np.float32) / 255 for number in range(0, len(examples), every)],
                sources[::every],
                [item.patient for item in examples][::every],
            ),
            "label_from_source_auc": dict(zip(labels, label_from_source(sources, wanted > 0.5), strict=True)),
        },
        "recipe": vars(recipe),
        "backbone": backbone.name if backbone else "none",
    }
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", "utf-8")
    return metrics

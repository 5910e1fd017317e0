"""Fit the patch network: what makes a batch, how images are varied, and the loss."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras  # type: ignore[import-untyped]  # has no types
import numpy as np
import numpy.typing as npt
import tensorflow as tf  # type: ignore[import-untyped]  # has no types

from ai_container.preprocess import SIDE
from ai_container.training.network import GRID
from ai_container.training.samples import Sample

__all__ = ["Recipe", "fit"]

_log = logging.getLogger(__name__)
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters, chosen before any fold was looked at."""

    steps: int = 600
    learning_rate: float = 3e-4
    weight_decay: float = 1e-4
    smoothing: float = 0.05
    patch_weight: float = 1.0
    seed: int = 20241
    # (group, images per batch)
    batch: tuple[tuple[str, int], ...] = (
        ("opacity", 5),
        ("unread_pneumonia", 1),
        ("not_normal", 3),
        ("normal", 2),
        ("rsna_normal_pa", 1),
        ("rsna_normal_ap", 1),
        ("lungs_opacity", 2),
        ("lungs_other", 1),
    )


def _batches(samples: Sequence[Sample], recipe: Recipe, random: np.random.Generator) -> Iterator[tuple[Floats, ...]]:
    """Yield batches without end, each group gone through in a new order every round."""
    pools = {name: [s for s in samples if s.group == name] for name, _ in recipe.batch}
    queues: dict[str, list[Sample]] = {name: [] for name in pools}
    while True:
        chosen: list[Sample] = []
        for name, count in recipe.batch:
            for _ in range(count):
                if not queues[name]:
                    queues[name] = [pools[name][i] for i in random.permutation(len(pools[name]))]
                chosen.append(queues[name].pop())
        yield (
            np.stack([s.planes for s in chosen]).astype(np.float32),
            np.array([s.target for s in chosen], np.float32),
            np.array([s.image_weight for s in chosen], np.float32),
            np.array([s.patch_weight for s in chosen], np.float32),
            _transforms(len(chosen), random),
            _tones(len(chosen), random),
        )


def _transforms(count: int, random: np.random.Generator) -> Floats:
    """Return projective transforms: rotation to 8 degrees, scale 0.85-1.1, shift to 6 %, mirrored half of the time."""
    angle = np.deg2rad(random.uniform(-8, 8, count))
    scale = random.uniform(0.85, 1.1, count)
    mirror = np.where(random.random(count) < 0.5, -1.0, 1.0)
    shift = random.uniform(-0.06, 0.06, (2, count)) * SIDE
    a, b = np.cos(angle) * scale * mirror, -np.sin(angle) * scale
    c, d = np.sin(angle) * scale * mirror, np.cos(angle) * scale
    middle = (SIDE - 1) / 2
    zero = np.zeros(count)
    rows = [a, b, middle - (a + b) * middle + shift[0], c, d, middle - (c + d) * middle + shift[1], zero, zero]
    return np.stack(rows, 1).astype(np.float32)


def _tones(count: int, random: np.random.Generator) -> Floats:
    """Return gamma, gain and offset per image."""
    return np.stack(
        [
            np.exp(random.uniform(-0.35, 0.35, count)),
            random.uniform(0.85, 1.15, count),
            random.uniform(-0.08, 0.08, count),
        ],
        1,
    ).astype(np.float32)


def _vary(planes: Any, transforms: Any, tones: Any) -> tuple[Any, Any, Any]:
    """Return image (batch, 224, 224, 1), box cover and judgeable cover (batch, 14, 14), from 0 to 1."""
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=planes,
        transforms=transforms,
        output_shape=tf.constant([SIDE, SIDE]),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )
    image = tf.pow(tf.clip_by_value(moved[..., :1], 0.0, 1.0), tones[:, 0, None, None, None])
    image = tf.clip_by_value(image * tones[:, 1, None, None, None] + tones[:, 2, None, None, None], 0.0, 1.0)
    image += tf.random.normal(tf.shape(image), stddev=0.01)
    cover = tf.nn.avg_pool2d(moved[..., 1:], SIDE // GRID, SIDE // GRID, "VALID")
    return image, cover[..., 0], cover[..., 1]


def _loss(
    answer: Any, target: Any, image_weight: Any, patch_weight: Any, boxes: Any, judged: Any, recipe: Recipe
) -> Any:
    smooth = target * (1 - recipe.smoothing) + recipe.smoothing / 2
    by_image = tf.nn.sigmoid_cross_entropy_with_logits(smooth, answer["logit"])
    of_images = tf.reduce_sum(by_image * image_weight) / tf.reduce_sum(image_weight)
    positive = tf.cast(boxes > 0.5, tf.float32)
    negative = tf.cast(boxes < 0.1, tf.float32)
    weight = (
        2.0 * positive * tf.cast(judged > 0.3, tf.float32) + negative * tf.cast(judged > 0.5, tf.float32)
    ) * patch_weight[:, None, None]
    by_patch = tf.nn.sigmoid_cross_entropy_with_logits(positive, answer["patches"])
    of_patches = tf.reduce_sum(by_patch * weight) / tf.reduce_sum(weight)
    return of_images + recipe.patch_weight * of_patches


def fit(network: Any, samples: Sequence[Sample], recipe: Recipe, name: str) -> None:
    """Train `network` in place; the same seed gives the same batches."""
    random = np.random.default_rng(recipe.seed)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, recipe.steps - 50, warmup_target=recipe.learning_rate, warmup_steps=50, alpha=0.02
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=recipe.weight_decay, clipnorm=5.0)
    variables = network.trainable_variables
    optimizer.build(variables)

    @tf.function  # type: ignore[untyped-decorator]
    def step(planes: Any, target: Any, image_weight: Any, patch_weight: Any, transforms: Any, tones: Any) -> Any:
        image, boxes, judged = _vary(planes, transforms, tones)
        with tf.GradientTape() as tape:
            answer = network(image, training=True)
            loss = _loss(answer, target, image_weight, patch_weight, boxes, judged, recipe)
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    began = time.monotonic()
    recent: list[float] = []
    for number, batch in enumerate(_batches(samples, recipe, random), 1):
        recent.append(float(step(*(tf.constant(part) for part in batch))))
        if number % 50 == 0:
            _log.info(
                "%s step %d of %d: loss %.4f, %.0f s",
                name,
                number,
                recipe.steps,
                np.mean(recent[-50:]),
                time.monotonic() - began,
            )
        if number == recipe.steps:
            return

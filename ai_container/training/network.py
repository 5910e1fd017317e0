"""The network: EfficientNet-Lite0 with a head that answers per patch, supervised by the readers' boxes.

A map made after the fact (Grad-CAM) pointed into a box in 4 of 100 images; a head that has to answer 14 x 14 times,
once per patch of 16 x 16 pixels, says where it looked because that is its answer. The image's logit is a soft maximum
of the patches.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras  # type: ignore[import-untyped]  # has no types
import numpy as np
from keras import layers, ops

from ai_container.preprocess import SIDE

__all__ = ["GRID", "LogMeanExp", "build_network", "load_backbone"]

GRID = 14
_FROZEN_UP_TO = "b2_add"


@keras.saving.register_keras_serializable("imaging")
class LogMeanExp(layers.Layer):  # type: ignore[misc] # keras has no types
    """Soft maximum over the patches, log(mean(exp(r x)))/r, then a learned scale and offset."""

    def __init__(self, sharpness: float = 3.0, **options: Any) -> None:
        super().__init__(**options)
        self.sharpness = sharpness

    def build(self, _: Any) -> None:
        """Make the scale and offset."""
        self.scale = self.add_weight(name="scale", shape=(), initializer="ones")
        self.offset = self.add_weight(name="offset", shape=(), initializer="zeros")

    def call(self, patches: Any) -> Any:
        """Return logits (batch,) of patch logits (batch, 14, 14, 1)."""
        flat = ops.reshape(patches, (-1, GRID * GRID)) * self.sharpness
        soft = (ops.logsumexp(flat, axis=1) - float(np.log(GRID * GRID))) / self.sharpness
        return soft * self.scale + self.offset

    def get_config(self) -> dict[str, Any]:
        """Return what `from_config` needs."""
        return {**super().get_config(), "sharpness": self.sharpness}


def load_backbone(path: Path) -> Any:
    """Return EfficientNet-Lite0 without its head, ImageNet weights, input (224, 224, 3) from -1 to 1."""
    return keras.models.load_model(path, compile=False)


def build_network(backbone_path: Path) -> Any:
    """Return the trainable model: input (224, 224, 1) from 0 to 1; outputs ``logit`` and ``patches`` (14, 14).

    Batch norm stays frozen, and so do the first stages: their filters carry over, and what a program of resampling
    leaves in an image is best not learned.
    """
    backbone = load_backbone(backbone_path)
    frozen = True
    for layer in backbone.layers:
        layer.trainable = not frozen and not isinstance(layer, layers.BatchNormalization)
        frozen = frozen and layer.name != _FROZEN_UP_TO
    stages = keras.Model(backbone.input, [backbone.get_layer("b10_add").output, backbone.get_layer("head_act").output])
    image = keras.Input((SIDE, SIDE, 1), name="image")
    middle, top = stages(ops.repeat(image * 2.0 - 1.0, 3, axis=-1))
    top = layers.Conv2D(128, 1, name="patch_top")(top)
    top = layers.UpSampling2D(2, interpolation="bilinear", name="patch_up")(top)
    joined = layers.Add(name="patch_join")([top, layers.Conv2D(128, 1, name="patch_middle")(middle)])
    joined = layers.ReLU(6.0)(joined)
    joined = layers.DepthwiseConv2D(3, padding="same", name="patch_context")(joined)
    joined = layers.Conv2D(128, 1, name="patch_mix")(joined)
    joined = layers.ReLU(6.0)(joined)
    joined = layers.SpatialDropout2D(0.2)(joined)
    patches = layers.Conv2D(1, 1, name="patch_logits", bias_initializer=keras.initializers.Constant(-2.0))(joined)
    logit = LogMeanExp(name="logit")(patches)
    return keras.Model(image, {"logit": logit, "patches": layers.Reshape((GRID, GRID), name="patches")(patches)})

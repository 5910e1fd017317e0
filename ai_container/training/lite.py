"""Keras to .tflite: weights as float16, arithmetic in float32."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import keras  # type: ignore[import-untyped]  # has no types
import tensorflow as tf  # type: ignore[import-untyped]  # has no types
from keras import layers, ops

from ai_container.preprocess import SIDE
from ai_container.training.network import load_backbone

__all__ = ["gate_network", "to_lite"]


def gate_network(backbone: Path) -> Any:
    """Return the frozen feature network of the pixel gate: ``middle`` (112), ``top`` (1280), ``corners`` (5120)."""
    frozen = load_backbone(backbone)
    stages = keras.Model(frozen.input, [frozen.get_layer("b10_add").output, frozen.get_layer("head_act").output])
    image = keras.Input((SIDE, SIDE, 1), name="image")
    middle, top = stages(ops.repeat(image * 2.0 - 1.0, 3, axis=-1))
    return keras.Model(
        image,
        {
            "middle": layers.GlobalAveragePooling2D(name="middle")(middle),
            "top": layers.GlobalAveragePooling2D(name="top")(top),
            "corners": layers.Flatten(name="corners")(layers.AveragePooling2D(4, 3)(top)),
        },
    )


def to_lite(network: Any) -> bytes:
    """Return the .tflite file of a network with input ``image`` and named outputs, signature ``serving_default``."""
    with tempfile.TemporaryDirectory() as folder:
        signature = [keras.InputSpec(shape=(1, SIDE, SIDE, 1), dtype="float32", name="image")]
        network.export(folder, format="tf_saved_model", input_signature=signature, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
        return bytes(converter.convert())

"""A .tflite network rebuilt in TensorFlow, op by op: what Keras and ``tf.function`` make of the very same weights.

Only the operations of the shipped networks are there; another one fails by its name.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["Graph"]

_DTYPES = {0: np.float32, 1: np.float16, 2: np.int32, 4: np.int64, 6: np.bool_}


class Graph:
    """The network as a callable on TensorFlow tensors.

    Parameters
    ----------
    content : bytes
        The .tflite file.
    """

    def __init__(self, content: bytes) -> None:
        from ai_edge_litert import schema_py_generated as schema

        model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(bytearray(content), 0))
        names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
        graph = model.subgraphs[0]
        self._input = int(graph.inputs[0])
        self._constants: dict[int, np.ndarray] = {}
        for number, tensor in enumerate(graph.tensors):
            data = model.buffers[tensor.buffer].data
            if data is not None and len(data):
                shape = tensor.shape if tensor.shape is not None else []
                self._constants[number] = np.frombuffer(bytes(data), _DTYPES[tensor.type]).reshape(shape)
        self._operators = []
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            name = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
            inputs, outputs = [int(i) for i in operator.inputs], [int(o) for o in operator.outputs]
            if name == "DEQUANTIZE" and inputs[0] in self._constants:
                self._constants[outputs[0]] = self._constants[inputs[0]].astype(np.float32)
            else:
                self._operators.append((name, inputs, outputs, operator.builtinOptions))
        signature = model.signatureDefs[0]
        self._outputs = {
            (item.name.decode() if isinstance(item.name, bytes) else item.name): int(item.tensorIndex)
            for item in signature.outputs
        }

    def __call__(self, image: Any) -> dict[str, Any]:
        """Return the named outputs for images (batch, 224, 224, 1)."""
        import tensorflow as tf

        held: dict[int, Any] = {number: tf.constant(value) for number, value in self._constants.items()}
        held[self._input] = image
        for name, inputs, outputs, options in self._operators:
            arguments = [held[number] if number >= 0 else None for number in inputs]
            held[outputs[0]] = _run(tf, name, arguments, options)
        return {name: held[number] for name, number in self._outputs.items()}


def _activated(tf: Any, value: Any, options: Any) -> Any:
    kind = int(options.fusedActivationFunction)
    return {0: lambda: value, 1: lambda: tf.nn.relu(value), 3: lambda: tf.nn.relu6(value)}[kind]()


def _shape(tf: Any, value: Any, shape: Any) -> Any:
    """Reshape with the batch left free: the file fixes it at 1."""
    wanted = [int(size) for size in shape.numpy()] if hasattr(shape, "numpy") else [int(size) for size in shape]
    return tf.reshape(value, [-1, *wanted[1:]])


def _run(tf: Any, name: str, arguments: list[Any], options: Any) -> Any:
    first = arguments[0]
    if name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        padding, strides = ("SAME", "VALID")[options.padding], (options.strideH, options.strideW)
        if name == "CONV_2D":
            value = tf.nn.conv2d(first, tf.transpose(arguments[1], (1, 2, 3, 0)), strides, padding)
        else:
            value = tf.nn.depthwise_conv2d(first, tf.transpose(arguments[1], (1, 2, 3, 0)), [1, *strides, 1], padding)
        return _activated(tf, value if arguments[2] is None else value + arguments[2], options)
    if name == "RESHAPE":
        return _shape(tf, first, tf.get_static_value(arguments[1]))
    if name == "TILE":
        return tf.tile(first, arguments[1])
    if name == "RESIZE_BILINEAR":
        return tf.image.resize(first, arguments[1], "bilinear")
    if name == "AVERAGE_POOL_2D":
        padding = ("SAME", "VALID")[options.padding]
        return tf.nn.avg_pool2d(
            first, (options.filterHeight, options.filterWidth), (options.strideH, options.strideW), padding
        )
    if name in ("MEAN", "SUM", "REDUCE_MAX"):
        reduce = {"MEAN": tf.reduce_mean, "SUM": tf.reduce_sum, "REDUCE_MAX": tf.reduce_max}[name]
        return reduce(first, arguments[1], keepdims=bool(options.keepDims))
    if name in ("ADD", "SUB", "MUL"):
        operation = {"ADD": tf.add, "SUB": tf.subtract, "MUL": tf.multiply}[name]
        return _activated(tf, operation(first, arguments[1]), options)
    simple = {"EXP": tf.exp, "LOG": tf.math.log, "EQUAL": tf.equal, "SELECT_V2": tf.where, "DEQUANTIZE": tf.identity}
    if name not in simple:
        raise NotImplementedError(name)
    return simple[name](*arguments)

"""Run a .tflite file by LiteRT: the serving path, which needs no TensorFlow."""

from __future__ import annotations

import queue
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["LiteModel"]

Floats = npt.NDArray[np.float32]


class LiteModel:
    """A model with one float input and named float outputs.

    An interpreter is not thread-safe: a call takes one out of a pool and puts it back.

    Parameters
    ----------
    content : bytes
        The .tflite file; it has the signature ``serving_default``.
    interpreters : int
        How many calls may run at once.
    threads : int
        Threads of each.
    """

    def __init__(self, content: bytes, interpreters: int = 2, threads: int = 1) -> None:
        from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-untyped]  # has no types

        self._content = content  # the interpreters read it in place
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue()
        for _ in range(interpreters):
            interpreter = Interpreter(model_content=content, num_threads=threads)
            interpreter.allocate_tensors()
            self._idle.put(interpreter.get_signature_runner("serving_default"))

    def run(self, image: Floats) -> Mapping[str, Floats]:
        """Return the outputs for one image.

        Parameters
        ----------
        image : ndarray of float32, (224, 224)
            From 0 to 1.

        Returns
        -------
        mapping of str to ndarray
            By the names of the signature, without the batch axis.
        """
        runner = self._idle.get()
        try:
            answer = runner(image=image[None, :, :, None])
            return {name: np.array(value[0], np.float32) for name, value in answer.items()}
        finally:
            self._idle.put(runner)

"""Run a .tflite file by LiteRT: the serving path, which needs no TensorFlow.

Requests in flight share the interpreters: whoever gets one takes what waits with him, up to the largest batch. Which
size pays is a matter of measurement (``tests/benchmarks/ai_service.py``): on a CPU an image costs the same alone and in
a batch, so that the default is one image a run and one interpreter a core.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ai_container.metrics import BATCH_SIZE

__all__ = ["LiteModel"]

Floats = npt.NDArray[np.float32]


@dataclass
class _Waiting:
    """An image on its way through the network."""

    image: Floats
    done: threading.Event = field(default_factory=threading.Event)
    answer: Mapping[str, Floats] | None = None
    failure: BaseException | None = None


class LiteModel:
    """A model with one float input and named float outputs.

    An interpreter is not thread-safe: a call takes one out of a pool and puts it back.

    Parameters
    ----------
    content : bytes
        The .tflite file; it has the signature ``serving_default``.
    interpreters : int
        How many runs may go on at once.
    threads : int
        Threads of each.
    largest_batch : int
        How many waiting images one run takes. A network whose file fixes the batch at 1 keeps to 1.
    """

    def __init__(self, content: bytes, interpreters: int = 2, threads: int = 1, largest_batch: int = 1) -> None:
        self._content = content  # the interpreters read it in place
        self._threads = threads
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue()
        self._lock = threading.Lock()
        self._pending: deque[_Waiting] = deque()
        self.largest_batch = largest_batch if largest_batch > 1 and self._takes_batches() else 1
        for _ in range(interpreters):
            self._idle.put(self._runner())

    def _runner(self) -> Any:
        from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-untyped]  # has no types

        interpreter = Interpreter(model_content=self._content, num_threads=self._threads)
        interpreter.allocate_tensors()
        return interpreter.get_signature_runner("serving_default")

    def _takes_batches(self) -> bool:
        """Try two images: a file exported with a fixed batch fails to be prepared, and its interpreter is spent."""
        runner = self._runner()
        shape = runner.get_input_details()["image"]["shape"]
        try:
            answer = runner(image=np.zeros((2, *shape[1:]), np.float32))
        except (RuntimeError, ValueError):
            return False
        return all(value.shape[:1] == (2,) for value in answer.values())

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
        mine = _Waiting(image)
        with self._lock:
            self._pending.append(mine)
        while not mine.done.is_set():
            runner = self._idle.get()
            try:
                batch = self._take()
                if batch:
                    _run(runner, batch)
            finally:
                self._idle.put(runner)
            if not batch:
                mine.done.wait()  # another thread's run has it
        if mine.failure is not None:
            raise mine.failure
        assert mine.answer is not None  # noqa: S101 done without a failure means that there is an answer
        return mine.answer

    def _take(self) -> list[_Waiting]:
        with self._lock:
            return [self._pending.popleft() for _ in range(min(len(self._pending), self.largest_batch))]


def _run(runner: Any, batch: list[_Waiting]) -> None:
    BATCH_SIZE.observe(len(batch))
    try:
        answer = runner(image=np.stack([item.image for item in batch])[..., None])
        for place, item in enumerate(batch):
            item.answer = {name: np.array(value[place], np.float32) for name, value in answer.items()}
    except BaseException as error:
        for item in batch:
            item.failure = error
        if not isinstance(error, Exception):
            raise
    finally:
        for item in batch:
            item.done.set()

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

import ai_container
from ai_container.runtime import LiteModel

WEIGHTS = Path(ai_container.__file__).parent / "bundles" / "chest-opacity" / "1.0.0" / "weights.tflite"


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    random = np.random.default_rng(3)
    return [random.random((224, 224), np.float32) for _ in range(6)]


@pytest.fixture(scope="module")
def batchable() -> bytes:
    """A network that takes any batch: the mean of the image, and the image's upper left corner."""
    import tensorflow as tf

    class Network(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 224, 224, 1], tf.float32, "image")])
        def __call__(self, image: object) -> dict[str, object]:
            return {"logit": tf.reduce_mean(image, (1, 2, 3)), "patches": image[:, :14, :14, 0]}

    network = Network()
    function = network.__call__.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], network)
    return bytes(converter.convert())


def test_a_file_with_a_fixed_batch_keeps_to_one(images: list[np.ndarray]) -> None:
    model = LiteModel(WEIGHTS.read_bytes(), interpreters=1, largest_batch=8)
    assert model.largest_batch == 1
    assert model.run(images[0])["patches"].shape == (14, 14)


def test_what_waits_runs_together_and_everybody_gets_his_own(
    batchable: bytes, images: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LiteModel(batchable, interpreters=1, largest_batch=4)
    assert model.largest_batch == 4
    sizes: list[int] = []
    monkeypatch.setattr("ai_container.runtime.BATCH_SIZE.observe", sizes.append)
    runner = model._idle.get()  # nobody can run
    answers: dict[int, float] = {}

    def ask(number: int) -> None:
        answers[number] = float(model.run(images[number])["logit"])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for _ in range(2000):
        if len(model._pending) == 6:
            break
        threading.Event().wait(0.005)
    model._idle.put(runner)
    for thread in threads:
        thread.join(20)
    assert sizes == [4, 2]
    assert answers == pytest.approx({number: float(images[number].mean()) for number in range(6)}, abs=1e-4)


def test_a_failure_in_a_batch_reaches_everybody_and_the_next_run_works(
    batchable: bytes, images: list[np.ndarray]
) -> None:
    model = LiteModel(batchable, interpreters=1, largest_batch=4)
    runner = model._idle.get()
    failures: list[BaseException] = []

    def ask(image: np.ndarray) -> None:
        try:
            model.run(image)
        except ValueError as error:
            failures.append(error)

    threads = [threading.Thread(target=ask, args=(image,)) for image in (images[0], np.zeros((3, 3), np.float32))]
    for thread in threads:
        thread.start()
    for _ in range(2000):
        if len(model._pending) == 2:
            break
        threading.Event().wait(0.005)
    model._idle.put(runner)
    for thread in threads:
        thread.join(20)
    assert len(failures) == 2
    assert model.run(images[0])["logit"] == pytest.approx(images[0].mean(), abs=1e-4)


@pytest.mark.requirement("R2")
def test_runtimes_give_equal_scores(images: list[np.ndarray]) -> None:
    """The optimised kernels that serve, and LiteRT's plain reference kernels: to 1e-4."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = Interpreter(model_content=WEIGHTS.read_bytes(), experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    plain.allocate_tensors()
    runner = plain.get_signature_runner("serving_default")
    served = LiteModel(WEIGHTS.read_bytes(), interpreters=1)
    for image in images[:2]:
        reference = runner(image=image[None, :, :, None])
        found = served.run(image)
        assert found["logit"] == pytest.approx(reference["logit"][0], abs=1e-4)
        assert np.abs(found["patches"] - reference["patches"][0]).max() < 1e-3

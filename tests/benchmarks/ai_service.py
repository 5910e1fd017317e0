"""Speed of the model service, each figure beside a floor measured in the same run, and a table of runtimes.

``python -m tests.benchmarks.ai_service [--peers PYTHON]``: PYTHON is an interpreter with onnxruntime, tf2onnx and
openvino, which are no dependencies of the project; what it lacks is named as not run.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from PIL import Image
from pydicom import dcmread
from pydicom.uid import JPEGLSLossless

from ai_container.analyser import Analyser
from ai_container.header_facts import ImageFacts
from ai_container.heatmap import overlay_png
from ai_container.image_analysis import Timings
from ai_container.preprocess import prepare_dicom
from ai_container.regions import regions
from ai_container.registry import Registry
from imaging_core.dicom.child import DecodePool
from imaging_core.settings import load_settings
from tests.ai_container.conftest import changed, sample, saved

__all__ = ["run"]

_ROUNDS = 15
_IN_FLIGHT = 16
_FACTS = ImageFacts(modality="CR", body_part="chest", view="frontal", age_years=60)


def run(peers: str = "") -> list[str]:
    """Return the section's lines."""
    settings = load_settings()
    registry = Registry.from_settings(settings)
    bundle = registry.active()[0]
    with DecodePool.from_settings(settings) as pool:
        analyser = Analyser(registry, pool)
        analyser.warm_up()
        lines = ["## Model service", "", *_one_image(analyser), *_throughput(analyser), *_heatmap(analyser)]
    return [*lines, *_process(), *_runtimes(bundle.weights, peers)]


def radiograph() -> dict[str, bytes]:
    """Return a 2,000 x 2,500 CR, uncompressed and as the archive keeps it (JPEG-LS)."""
    chest = sample("RG1_UNCR.dcm")
    pixels = dcmread(io.BytesIO(chest)).pixel_array.astype(np.int32)
    large = np.asarray(Image.fromarray(pixels).resize((2500, 2000))).astype(np.uint16)
    plain = changed(chest, PixelData=large.tobytes(), Rows=2000, Columns=2500)
    dataset = dcmread(io.BytesIO(plain))
    dataset.compress(JPEGLSLossless, generate_instance_uid=False)
    return {"uncompressed": plain, "JPEG-LS": saved(dataset)}


def _medians(*acts: Callable[[], object], rounds: int = _ROUNDS) -> list[float]:
    """Return each act's median in milliseconds, taken in turns so that other load falls on all alike."""
    for act in acts:
        act()
    spent: list[list[float]] = [[] for _ in acts]
    for _ in range(rounds):
        for act, times in zip(acts, spent, strict=True):
            began = time.perf_counter()
            act()
            times.append((time.perf_counter() - began) * 1000)
    return [statistics.median(times) for times in spent]


def _one_image(analyser: Analyser) -> list[str]:
    model = next(iter(analyser.models.values()))
    lines = [
        "One 2,000 x 2,500 CR, decode to result without publishing, in the service's path (decode in a child, gate,",
        "network, calibration). Floor: decode to the network's input in process, and the bare network. Beside it the",
        "stricter floor: pydicom's pixels alone, and the bare network, without windowing, shrinking or gate.",
        "",
        "| file | service | decode to input | bare network | ratio (goal 1.5) | pydicom's pixels | stricter ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, data in radiograph().items():
        grid = prepare_dicom(data).grid
        whole, decode, network, pixels = _medians(
            lambda data=data: analyser.preview_dicom(data, None, Timings()),
            lambda data=data: prepare_dicom(data),
            lambda grid=grid: model._network.run(grid),
            lambda data=data: dcmread(io.BytesIO(data)).pixel_array,
        )
        lines.append(
            f"| {name} | {whole:.0f} ms | {decode:.0f} ms | {network:.1f} ms | {whole / (decode + network):.2f} "
            f"| {pixels:.0f} ms | {whole / (pixels + network):.2f} |"
        )
    return [*lines, ""]


def _rate(act: Callable[[int], object], count: int, threads: int) -> float:
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(act, range(threads * 2)))
        began = time.perf_counter()
        list(pool.map(act, range(count)))
        return count / (time.perf_counter() - began)


def _throughput(analyser: Analyser) -> list[str]:
    """Return rates: the networks behind their queue, and whole requests, each against bare runs on all cores."""
    from ai_edge_litert.interpreter import Interpreter

    model = next(iter(analyser.models.values()))
    data = radiograph()["uncompressed"]
    prepared = prepare_dicom(data)
    cores = os.cpu_count() or 1
    bare: list[Callable[[], object]] = []
    for _ in range(cores):
        interpreter = Interpreter(model_content=model.bundle.weights, num_threads=1)
        interpreter.allocate_tensors()
        runner = interpreter.get_signature_runner("serving_default")
        bare.append(lambda runner=runner: runner(image=prepared.grid[None, :, :, None]))
    ratios, served, floors = [], [], []
    for _ in range(3):
        floor = _rate_bare(bare, 80)
        rate = _rate(lambda _: model._network.run(prepared.grid), 160, _IN_FLIGHT)
        ratios.append(rate / floor)
        served.append(rate)
        floors.append(floor)
    gated, alone, decode = _medians(
        lambda: model.score(prepared, _FACTS, Timings()),
        lambda: model._network.run(prepared.grid),
        lambda: prepare_dicom(data),
        rounds=10,
    )
    whole = _rate(lambda _: analyser.preview_dicom(data, None, Timings()), 48, _IN_FLIGHT)
    most = cores * 1000 / (decode + gated)
    return [
        "| throughput with 16 in flight | images/s | floor in the same run | ratio |",
        "|---|---|---|---|",
        f"| the network behind its queue | {statistics.median(served):.0f} "
        f"| bare interpreters, one a core, back to back: {statistics.median(floors):.0f} "
        f"| {statistics.median(ratios):.2f} (goal 0.8) |",
        f"| whole requests (decode, gate, network) | {whole:.0f} "
        f"| {cores} cores that do nothing but decode, gate and network: {most:.0f} | {whole / most:.2f} |",
        f"| gate beside the network | | network {alone:.1f} ms, with its gate {gated:.1f} ms | {gated / alone:.2f} |",
        "",
    ]


def _rate_bare(runners: Sequence[Callable[[], object]], each: int) -> float:
    def work(act: Callable[[], object]) -> None:
        for _ in range(each):
            act()

    with ThreadPoolExecutor(len(runners)) as pool:
        began = time.perf_counter()
        list(pool.map(work, runners))
        return len(runners) * each / (time.perf_counter() - began)


def _heatmap(analyser: Analyser) -> list[str]:
    model = next(iter(analyser.models.values()))
    prepared = prepare_dicom(radiograph()["uncompressed"])
    strength = model.run(prepared.grid)[0].strength
    inference, picture, boxes = _medians(
        lambda: model.score(prepared, _FACTS, Timings()),
        lambda: overlay_png(strength, prepared.rows, prepared.columns),
        lambda: regions(strength, prepared.rows, prepared.columns),
    )
    return [
        "| heatmap | time | share of gate and network |",
        "|---|---|---|",
        f"| PNG with alpha | {picture:.1f} ms | {picture / inference:.0%} |",
        f"| regions | {boxes:.1f} ms | {boxes / inference:.0%} |",
        f"| both | {picture + boxes:.1f} ms | {(picture + boxes) / inference:.0%} (goal 30 %) |",
        "",
    ]


def _process() -> list[str]:
    """Return cold start and memory of the service as gunicorn starts it (no FHIR and no storage are needed for it)."""
    from tests.conftest import free_ports

    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        command = [sys.executable, "-P", "-m", "imaging_core.cli", "up", "--data-dir", folder, "--only", "blob,fhir"]
        subprocess.run(command, check=True, env={**os.environ, **free_ports()}, stdout=subprocess.DEVNULL)
        try:
            return _started(Path(folder))
        finally:
            down = [sys.executable, "-P", "-m", "imaging_core.cli", "down", "--data-dir", folder]
            subprocess.run(down, check=True, stdout=subprocess.DEVNULL)


def _started(folder: Path) -> list[str]:
    from imaging_core.settings import operator_settings

    settings = operator_settings(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "FHIR_BASE_URL": settings.fhir_base_url,
        "FHIR_AUTH": "bearer",
        "FHIR_TOKEN": settings.fhir_token.get_secret_value(),
        "STORAGE_CONNECTION_STRING": settings.storage_connection_string.get_secret_value(),
        "AI_TOKEN": "benchmark",
    }
    command = [sys.executable, "-P", "-m", "gunicorn", "ai_container.wsgi:app"]
    command += ["-c", "python:ai_container.gunicorn_config", "--bind", f"127.0.0.1:{port}"]
    began = time.perf_counter()
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
                while True:
                    with contextlib.suppress(httpx.TransportError):
                        if http.get("/readyz").status_code == 200:
                            break
                    if time.perf_counter() - began > 60:
                        raise TimeoutError("not ready after a minute")
                    time.sleep(0.02)
                ready = time.perf_counter() - began
                headers = {"Authorization": "Bearer benchmark", "Content-Type": "application/dicom"}
                data = radiograph()["uncompressed"]
                with ThreadPoolExecutor(_IN_FLIGHT) as threads:
                    posts = [
                        threads.submit(http.post, "/v1/analyses:preview", content=data, headers=headers)
                        for _ in range(32)
                    ]
                    for post in posts:
                        post.result().raise_for_status()
            memory = _memory(server.pid)
        finally:
            server.terminate()
            server.wait(60)
    return [
        "| service process | figure | goal |",
        "|---|---|---|",
        f"| cold start to ready | {ready:.1f} s | 6 s |",
        f"| memory after 32 images of 10 MB, 16 in flight (LiteRT; proportional set size, children included) "
        f"| {memory:.0f} MiB | 400 MiB |",
        "",
    ]


def _memory(pid: int) -> float:
    whole = 0.0
    process = psutil.Process(pid)
    for item in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            whole += item.memory_full_info().pss
    return whole / 2**20


_TENSORFLOW = """
import json, statistics, sys, time
import numpy as np, psutil, tensorflow as tf
from tests.benchmarks.tflite_graph import Graph
images = np.load(sys.argv[2])
graph = Graph(open(sys.argv[1], "rb").read())
class Layer(tf.keras.layers.Layer):
    def call(self, image):
        return graph(image)
image = tf.keras.Input((224, 224, 1))
keras_model = tf.keras.Model(image, Layer()(image))
function = tf.function(graph, input_signature=[tf.TensorSpec([None, 224, 224, 1], tf.float32)])
compiled = tf.function(graph, input_signature=[tf.TensorSpec([1, 224, 224, 1], tf.float32)], jit_compile=True)
found = {}
for name, act in (
    ("Keras predict", lambda x: keras_model.predict(x, verbose=0)),
    ("tf.function", lambda x: function(tf.constant(x))),
    ("tf.function, XLA", lambda x: compiled(tf.constant(x))),
):
    scores = [float(np.asarray(act(x[None])["logit"])[0]) for x in images]
    times = []
    for _ in range(20):
        began = time.perf_counter()
        act(images[:1])
        times.append((time.perf_counter() - began) * 1000)
    batch = None
    if "XLA" not in name:
        eight = np.repeat(images[:1], 8, 0)
        act(eight)
        runs = []
        for _ in range(4):
            began = time.perf_counter()
            act(eight)
            runs.append((time.perf_counter() - began) * 1000 / 8)
        batch = statistics.median(runs)
    found[name] = {"one": statistics.median(times), "batch": batch, "scores": scores}
found["memory"] = psutil.Process().memory_info().rss / 2**20
print(json.dumps(found))
"""

_PEERS = """
import json, statistics, sys, time
import numpy as np
images = np.load(sys.argv[2])
found = {}
def measure(name, act):
    scores = [float(np.asarray(act(x[None])).ravel()[0]) for x in images]
    times = []
    for _ in range(30):
        began = time.perf_counter()
        act(images[:1])
        times.append((time.perf_counter() - began) * 1000)
    found[name] = {"one": statistics.median(times), "batch": None, "scores": scores}
try:
    import openvino
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(sys.argv[1]), "CPU", {"INFERENCE_NUM_THREADS": 1})
    outputs = [port for port in compiled.outputs if len(port.shape) == 1]
    measure("OpenVINO", lambda x: compiled(x)[outputs[0]])
except Exception as error:
    found["OpenVINO"] = {"error": type(error).__name__}
try:
    import onnxruntime, tf2onnx.convert
    model, _ = tf2onnx.convert.from_tflite(sys.argv[1], opset=17)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    wanted = [item.name for item in session.get_outputs() if len(item.shape) == 1]
    measure("ONNX Runtime", lambda x: session.run(wanted[:1], {name: x})[0])
except Exception as error:
    found["ONNX Runtime"] = {"error": type(error).__name__}
print(json.dumps(found))
"""


def _runtimes(weights: bytes, peers: str) -> list[str]:
    from ai_container.runtime import LiteModel

    random = np.random.default_rng(1)
    grid = prepare_dicom(radiograph()["uncompressed"]).grid
    images = np.stack([grid, random.random((224, 224), np.float32), grid[::-1]])[..., None].astype(np.float32)
    model = LiteModel(weights, interpreters=1)
    (one,) = _medians(lambda: model.run(images[0, :, :, 0]))
    scores = [float(model.run(image[..., 0])["logit"]) for image in images]
    rows: dict[str, dict[str, Any]] = {"LiteRT (what serves)": {"one": one, "batch": None, "scores": scores}}
    with tempfile.TemporaryDirectory() as folder:
        path, pictures = Path(folder) / "weights.tflite", Path(folder) / "images.npy"
        path.write_bytes(weights)
        np.save(pictures, images)
        found = _asked(sys.executable, _TENSORFLOW, path, pictures)
        memory = found.pop("memory", None)
        rows |= found or {name: {"error": "not run"} for name in ("Keras predict", "tf.function")}
        rows |= (
            _asked(peers, _PEERS, path, pictures)
            if peers
            else {name: {"error": "not run: no --peers"} for name in ("OpenVINO", "ONNX Runtime")}
        )
    lines = [
        "Runtimes for the shipped network, one thread where the runtime lets one choose:",
        "",
        "| runtime | one image | an image of a batch of 8 | largest difference of the logit from LiteRT |",
        "|---|---|---|---|",
    ]
    for name, row in rows.items():
        if "error" in row:
            lines.append(f"| {name} | not run ({row['error']}) | | |")
            continue
        difference = max(abs(a - b) for a, b in zip(row["scores"], scores, strict=True))
        batch = f"{row['batch']:.1f} ms" if row["batch"] else "fixed at 1"
        lines.append(f"| {name} | {row['one']:.1f} ms | {batch} | {difference:.1e} |")
    if memory:
        lines += ["", f"A process with TensorFlow and this network holds {memory:.0f} MiB (goal 900 MiB)."]
    return [*lines, ""]


def _asked(python: str, code: str, *arguments: Path) -> dict[str, Any]:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [python, "-c", code, *(str(argument) for argument in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)
    if done.returncode:
        return {}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", default="", help="an interpreter with onnxruntime, tf2onnx and openvino")
    print("\n".join(run(parser.parse_args().peers)))

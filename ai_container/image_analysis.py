"""One image through one model: gate, network, calibrated probability, map. No FHIR, no storage."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ai_container.bundle import Bundle, Output
from ai_container.gate import (
    PixelGate,
    Verdict,
    as_it_lay,
    confirms,
    may_be_corrected,
    refuse_by_header,
    refuse_by_pixels,
    straightened,
)
from ai_container.header_facts import ImageFacts
from ai_container.heatmap import probability_map
from ai_container.metrics import GATE_REFUSALS, MODEL_SECONDS, OUT_OF_DISTRIBUTION, POSE_CORRECTIONS
from ai_container.preprocess import ModelInput
from ai_container.runtime import LiteModel
from imaging_core.errors import Permanent

__all__ = ["ImageOutcome", "ImageScore", "Model", "Timings"]

Floats = npt.NDArray[np.float32]


@dataclass
class Timings:
    """Milliseconds by step, summed over the images of a request."""

    spent: dict[str, float] = field(default_factory=dict)

    def measure(self, step: str, began: float) -> float:
        """Add the time since `began` (`time.perf_counter`) to a step; return now."""
        now = time.perf_counter()
        self.spent[step] = self.spent.get(step, 0.0) + (now - began) * 1000
        return now

    def rounded(self) -> dict[str, float]:
        """Return the steps, rounded to a tenth of a millisecond."""
        return {step: round(value, 1) for step, value in self.spent.items()}


@dataclass(frozen=True)
class ImageScore:
    """What a model says of one finding on one image.

    Parameters
    ----------
    output : Output
        The finding.
    logit : float
        As the network gives it.
    probability : float
        Calibrated.
    strength : ndarray of float32, (14, 14)
        Where, from 0 to 1, in the frame of the image as it is stored.
    """

    output: Output
    logit: float
    probability: float
    strength: Floats


@dataclass(frozen=True)
class ImageOutcome:
    """Scores, one per finding, or the reason why there are none.

    Parameters
    ----------
    gate : mapping of str to float
        What the pixel gate measured.
    corrected : str
        Pose in which the image lay before it was straightened; empty: it was upright.
    """

    scores: tuple[ImageScore, ...] = ()
    reason: str = ""
    gate: Mapping[str, float] = field(default_factory=dict)
    corrected: str = ""


class Model:
    """A bundle with its networks loaded.

    Parameters
    ----------
    bundle : Bundle
        What to serve.
    interpreters, threads, largest_batch : int
        See `LiteModel`.
    """

    def __init__(self, bundle: Bundle, interpreters: int = 2, threads: int = 1, largest_batch: int = 1) -> None:
        self.bundle = bundle
        self._network = LiteModel(bundle.weights, interpreters, threads, largest_batch)
        self._gate = PixelGate(bundle.gate_network, bundle.gate_statistics, interpreters, threads, largest_batch)

    def refuse_by_header(self, facts: ImageFacts, assume_adult: bool) -> str:
        """Return why the header alone keeps this image from the model; empty: it does not."""
        return refuse_by_header(self.bundle.scope, facts, assume_adult)

    def score(self, prepared: ModelInput, facts: ImageFacts, timings: Timings) -> ImageOutcome:
        """Look at one image that the header lets pass."""
        model = self.bundle.reference
        began = time.perf_counter()
        grid, verdict, corrected = self._upright(prepared.grid, facts)
        reason = refuse_by_pixels(verdict, facts)
        judged = "refused" if reason == "out-of-distribution" else "passed"
        OUT_OF_DISTRIBUTION.labels(model=model, verdict=judged).inc()
        now = timings.measure("gate", began)
        MODEL_SECONDS.labels(model=model, stage="gate").observe(now - began)
        if reason:
            GATE_REFUSALS.labels(model=model, reason=reason).inc()
            return ImageOutcome(reason=reason, gate=verdict.measured())
        if corrected:
            POSE_CORRECTIONS.labels(model=model, pose=corrected).inc()
        scores = self.run(grid, corrected)
        MODEL_SECONDS.labels(model=model, stage="network").observe(timings.measure("model", now) - now)
        return ImageOutcome(scores, "", verdict.measured(), corrected)

    def _upright(self, grid: Floats, facts: ImageFacts) -> tuple[Floats, Verdict, str]:
        """Return the image, what the gate says of it, and from which pose it was straightened, if it was."""
        verdict = self._gate.judge(grid)
        if may_be_corrected(verdict, facts):
            upright = straightened(grid, verdict.pose)
            again = self._gate.judge(upright)
            if confirms(again):
                return upright, again, verdict.pose
        return grid, verdict, ""

    def run(self, grid: Floats, pose: str = "upright") -> tuple[ImageScore, ...]:
        """Return what the network says of an upright image; maps in the frame in which it lay.

        Raises
        ------
        Permanent
            ``model-unusable``: the network has other outputs than ``model.yaml`` says.
        """
        answer = self._network.run(grid)
        logits = np.atleast_1d(answer["logit"])
        patches = answer["patches"] if answer["patches"].ndim == 3 else answer["patches"][None]
        if not len(logits) == len(patches) == len(self.bundle.outputs):
            raise Permanent(
                "model-unusable", f"{self.bundle.reference}: {len(logits)} outputs, not {len(self.bundle.outputs)}"
            )
        return tuple(
            ImageScore(
                output,
                float(logit),
                output.rule.probability(float(logit)),
                as_it_lay(probability_map(places, 1.0, 0.0), pose),
            )
            for output, logit, places in zip(self.bundle.outputs, logits, patches, strict=True)
        )

    def warm_up(self) -> None:
        """Run both networks once, so that the first request does not pay for it."""
        grid = np.zeros((224, 224), np.float32)
        self._gate.judge(grid)
        self.run(grid)

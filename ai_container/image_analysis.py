"""One image through one model: gate, network, calibrated probability, map. No FHIR, no storage."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ai_container.bundle import Bundle, Output
from ai_container.gate import PixelGate, refuse_by_header, refuse_by_pixels
from ai_container.header_facts import ImageFacts
from ai_container.heatmap import probability_map
from ai_container.preprocess import ModelInput
from ai_container.runtime import LiteModel

__all__ = ["ImageOutcome", "ImageScore", "Model", "Timings"]


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
    """What a model says of one image.

    Parameters
    ----------
    output : Output
        The finding.
    logit : float
        As the network gives it.
    probability : float
        Calibrated.
    strength : ndarray of float32, (14, 14)
        Where, from 0 to 1.
    """

    output: Output
    logit: float
    probability: float
    strength: npt.NDArray[np.float32]


@dataclass(frozen=True)
class ImageOutcome:
    """Scores, or the reason why there are none.

    Parameters
    ----------
    gate : mapping of str to float
        What the pixel gate measured, for metrics.
    """

    scores: tuple[ImageScore, ...] = ()
    reason: str = ""
    gate: Mapping[str, float] = field(default_factory=dict)


class Model:
    """A bundle with its networks loaded.

    Parameters
    ----------
    bundle : Bundle
        What to serve.
    interpreters, threads : int
        See `LiteModel`.
    """

    def __init__(self, bundle: Bundle, interpreters: int = 2, threads: int = 1) -> None:
        self.bundle = bundle
        self._network = LiteModel(bundle.weights, interpreters, threads)
        self._gate = PixelGate(bundle.gate_network, bundle.gate_statistics, interpreters, threads)

    def refuse_by_header(self, facts: ImageFacts, assume_adult: bool) -> str:
        """Return why the header alone keeps this image from the model; empty: it does not."""
        return refuse_by_header(self.bundle.scope, facts, assume_adult)

    def score(self, prepared: ModelInput, facts: ImageFacts, timings: Timings) -> ImageOutcome:
        """Look at one image that the header lets pass."""
        now = time.perf_counter()
        verdict = self._gate.judge(prepared.grid)
        now = timings.measure("gate", now)
        reason = refuse_by_pixels(verdict, facts)
        if reason:
            return ImageOutcome(reason=reason, gate=verdict.measured())
        answer = self._network.run(prepared.grid)
        timings.measure("model", now)
        output = self.bundle.outputs[0]
        logit = float(answer["logit"])
        return ImageOutcome(
            scores=(
                ImageScore(output, logit, output.rule.probability(logit), probability_map(answer["patches"], 1.0, 0.0)),
            ),
            gate=verdict.measured(),
        )

    def warm_up(self) -> None:
        """Run both networks once, so that the first request does not pay for it."""
        grid = np.zeros((224, 224), np.float32)
        self._gate.judge(grid)
        self._network.run(grid)

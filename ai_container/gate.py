"""The input gate: what a model was not made for never reaches it.

The header answers first (modality, body part, view, age). Then the pixels: how far the image is from adult frontal
chest radiographs (residual of frozen ImageNet features after a projection on the training images' main directions),
and how it lies (a linear classifier of upright, inverted, and turned by 90, 180 or 270 degrees). The pixel gate knows
nothing of the finding.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ai_container.bundle import Scope
from ai_container.header_facts import ImageFacts
from ai_container.preprocess import SIDE
from ai_container.runtime import LiteModel

__all__ = [
    "CERTAIN_LIMIT",
    "CERTAIN_MARGIN",
    "POSES",
    "UNSURE_LIMIT",
    "PixelGate",
    "Verdict",
    "as_it_lay",
    "confirms",
    "gate_features",
    "may_be_corrected",
    "refuse_by_header",
    "refuse_by_pixels",
    "straightened",
]

POSES = ("upright", "inverted", "turned-90", "turned-180", "turned-270")
# In units of the 98 % quantile of the training images. Radiographs of another hospital lie at 0.4 to 10, most below
# 4; brain MR, photographs and a leg from 3.7 up, most beyond 8. The two limits weigh one error against the other.
CERTAIN_LIMIT = 6.0  # the header says chest and frontal
UNSURE_LIMIT = 3.0  # the header leaves one of the two open
# Least margin at which a pose is beyond doubt; `python -m ai_container.training.gate_metrics` measures what it costs.
CERTAIN_MARGIN = 0.5
_THUMB = 16
_QUARTERS = {"turned-90": 1, "turned-180": 2, "turned-270": 3}

Floats = npt.NDArray[np.float32]


def refuse_by_header(scope: Scope, facts: ImageFacts, assume_adult: bool = False) -> str:
    """Return why a model of this scope must not see the image; empty: the header has nothing against it.

    Parameters
    ----------
    scope : Scope
        What the model was made for.
    facts : ImageFacts
        From the header; what it leaves open is for the pixel gate, but not the age: a picture does not tell it.
    assume_adult : bool
        Setting ASSUME_ADULT: an age that can't be had counts as adult.
    """
    if not facts.image_class or facts.modality not in scope.modalities:
        return "no-model"
    if facts.body_part is not None and facts.body_part not in scope.body_parts:
        return "no-model"
    if facts.for_processing or facts.frames > 1:
        return "out-of-distribution"
    if facts.view is not None and facts.view not in scope.views:
        return "not-frontal"
    if facts.age_years is None:
        return "" if assume_adult else "age-unknown"
    if facts.age_years < scope.least_age:
        return "child"
    if facts.age_years >= scope.most_age:
        return "out-of-distribution"
    return "rotated" if facts.turned else ""


@dataclass(frozen=True)
class Verdict:
    """What the pixel gate measured.

    Parameters
    ----------
    distance : float
        Residual in units of the training images' 98 % quantile.
    pose : str
        One of `POSES`.
    margin : float
        By how much the pose's score is above the next one's.
    """

    distance: float
    pose: str
    margin: float

    def measured(self) -> Mapping[str, float]:
        """Return the numbers, for metrics."""
        return {"distance": self.distance, "margin": self.margin}


def straightened(grid: Floats, pose: str) -> Floats:
    """Return an image that lies in `pose` as it would lie upright; maps are turned the same way."""
    if pose == "inverted":
        return np.asarray(1.0 - grid, np.float32)
    return np.ascontiguousarray(np.rot90(grid, -_QUARTERS.get(pose, 0)))


def as_it_lay(strength: Floats, pose: str) -> Floats:
    """Return a map of the straightened image in the frame of the image as it is stored."""
    return np.ascontiguousarray(np.rot90(strength, _QUARTERS.get(pose, 0)))


def may_be_corrected(verdict: Verdict, facts: ImageFacts) -> bool:
    """Return whether an image that does not lie upright may be tried upright: the pose must be beyond doubt.

    A rotation that contradicts the orientation in the header is no case for a guess.
    """
    if verdict.pose == "upright" or verdict.margin < CERTAIN_MARGIN or verdict.distance > CERTAIN_LIMIT:
        return False
    return verdict.pose == "inverted" or not facts.orientation_known


def confirms(verdict: Verdict) -> bool:
    """Return whether the straightened image is a plain upright chest radiograph."""
    return verdict.pose == "upright" and verdict.margin >= CERTAIN_MARGIN and verdict.distance <= UNSURE_LIMIT


def refuse_by_pixels(verdict: Verdict, facts: ImageFacts) -> str:
    """Return why the pixels keep the image from the model; empty: they do not."""
    certain = facts.body_part is not None and facts.view is not None
    if verdict.distance > (CERTAIN_LIMIT if certain else UNSURE_LIMIT):
        return "out-of-distribution"
    if verdict.pose == "inverted":
        return "inverted"
    return "" if verdict.pose == "upright" else "rotated"


def gate_features(network: LiteModel, grid: Floats) -> tuple[Floats, Floats]:
    """Return (what the distance is measured in, what the pose is read from).

    Parameters
    ----------
    network : LiteModel
        Frozen features: ``middle``, ``top`` (averaged over the image), ``corners`` (the top averaged over four
        overlapping parts).
    grid : ndarray of float32, (224, 224)
        See `ai_container.preprocess`.
    """
    answer = network.run(grid)
    side = SIDE // _THUMB
    thumb = grid.reshape(_THUMB, side, _THUMB, side).mean((1, 3)).ravel()
    return answer["top"], np.concatenate([answer["middle"], answer["top"], answer["corners"], thumb])


class PixelGate:
    """The half of the gate that looks at the image.

    Parameters
    ----------
    network, statistics : bytes
        ``gate.tflite`` and ``gate.npz`` of a bundle.
    interpreters, threads, largest_batch : int
        See `LiteModel`.
    """

    def __init__(
        self, network: bytes, statistics: bytes, interpreters: int = 2, threads: int = 1, largest_batch: int = 1
    ) -> None:
        self._network = LiteModel(network, interpreters, threads, largest_batch)
        with np.load(io.BytesIO(statistics), allow_pickle=False) as stored:
            part = {name: np.asarray(stored[name], np.float32) for name in stored.files}
        self._mean, self._spread, self._axes = part["mean"], part["spread"], part["axes"]
        self._unit = float(part["unit"])
        self._pose_weights, self._pose_offset = part["pose_weights"], part["pose_offset"]

    def judge(self, grid: Floats) -> Verdict:
        """Measure one prepared image, (224, 224) from 0 to 1."""
        top, all_features = gate_features(self._network, grid)
        standard = (top - self._mean) / self._spread
        residual = standard - (standard @ self._axes.T) @ self._axes
        scores = all_features @ self._pose_weights + self._pose_offset
        best = int(scores.argmax())
        rest = float(np.delete(scores, best).max())
        return Verdict(float((residual**2).mean()) / self._unit, POSES[best], float(scores[best]) - rest)

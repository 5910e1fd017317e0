"""From the network's logit to a probability and to what may be said: present, absent, or not decided."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

__all__ = ["DecisionRule"]


@dataclass(frozen=True)
class DecisionRule:
    """Platt calibration, threshold and abstention band of one finding.

    Parameters
    ----------
    scale, offset : float
        Probability = 1 / (1 + exp(-(scale x logit + offset))).
    threshold : float
        Probability from which the finding would count as present if a choice were forced.
    low, high : float
        Between them nothing is decided. Below `low` at most a promised share of images with the finding, above `high`
        at most that share of images without it (class-conditional conformal quantiles on held-out patients).
    """

    scale: float
    offset: float
    threshold: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.low <= self.threshold <= self.high <= 1.0:
            raise ValueError("0 <= low <= threshold <= high <= 1 does not hold")

    def probability(self, logit: float) -> float:
        """Return the calibrated probability."""
        score = max(-60.0, min(60.0, self.scale * logit + self.offset))
        return 1.0 / (1.0 + math.exp(-score))

    def state(self, probability: float) -> Literal["present", "absent", "indeterminate"]:
        """Return what is said; inside the band the answer is ``indeterminate``, never the nearer side (R3)."""
        if probability >= self.high:
            return "present"
        return "absent" if probability < self.low else "indeterminate"

"""Drift: what a model sees and says today, beside what it saw and said on its training images.

Per model and day the service counts scores, gate verdicts and image statistics in fixed bins, and compares the last
days with the bundle's ``reference.json`` by the population stability index (PSI). The counts lie in Blob Storage, where
every worker adds its own under the blob's ETag: they outlive a restart, and several workers make one distribution. They
hold no patient, no study and no single image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ai_container.study_analysis import ImageMeasure

__all__ = ["BINS", "Comparison", "Counts", "compare", "psi", "psi_noise"]

# Edges of the bins of each quantity; what lies outside falls into the first or last bin.
BINS: Mapping[str, tuple[float, ...]] = {
    "score": tuple(i / 10 for i in range(1, 10)),
    "brightness": tuple(i / 20 for i in range(5, 15)),
    "contrast": tuple(i / 40 for i in range(5, 14)),
    "distance": (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 6.0),
}
_GATE = "gate"
_PASSED = "passed"
# Shares below this count as this: a bin that is empty on one side would make the index infinite.
_LEAST_SHARE = 1e-3


@dataclass
class Counts:
    """Counts by quantity and bin.

    Parameters
    ----------
    images : int
        Images that came as far as the pixel gate.
    bins : dict
        ``score:<finding>``, ``brightness``, ``contrast``, ``distance``: counts by bin. ``gate``: by verdict.
    """

    images: int = 0
    bins: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, measure: ImageMeasure) -> None:
        """Count one image."""
        self.images += 1
        self._count(_GATE, measure.reason or _PASSED)
        for name, probability in measure.probabilities:
            self._count(f"score:{name}", _bin("score", probability))
        if not measure.reason:
            self._count("brightness", _bin("brightness", measure.brightness))
            self._count("contrast", _bin("contrast", measure.contrast))
        self._count("distance", _bin("distance", measure.distance))

    def _count(self, quantity: str, place: str) -> None:
        counts = self.bins.setdefault(quantity, {})
        counts[place] = counts.get(place, 0) + 1

    def merge(self, other: Counts) -> None:
        """Add another's counts."""
        self.images += other.images
        for quantity, counts in other.bins.items():
            mine = self.bins.setdefault(quantity, {})
            for place, count in counts.items():
                mine[place] = mine.get(place, 0) + count

    def as_json(self) -> dict[str, object]:
        """Return what `Counts.parsed` reads."""
        return {"images": self.images, "bins": self.bins}

    @classmethod
    def parsed(cls, content: Mapping[str, object]) -> Counts:
        """Parse counts.

        Raises
        ------
        ValueError
            It is no such thing.
        """
        images, bins = content.get("images"), content.get("bins")
        if not isinstance(images, int) or not isinstance(bins, Mapping):
            raise ValueError("not counts")
        return cls(images, {str(q): {str(p): int(n) for p, n in counts.items()} for q, counts in bins.items()})


def _bin(quantity: str, value: float) -> str:
    return str(sum(value >= edge for edge in BINS[quantity]))


@dataclass(frozen=True)
class Comparison:
    """One quantity against the training reference.

    Parameters
    ----------
    psi : float
        Population stability index.
    noise : float
        What the index would be on average if nothing had changed, with so few images.
    state : str
        ``stable`` (below 0.1), ``moderate`` (below 0.25), ``shifted``; ``too-few`` where the noise alone is 0.05.
    """

    quantity: str
    psi: float
    noise: float
    state: str


def psi(now: Sequence[int], reference: Sequence[int]) -> float:
    """Return the population stability index of two histograms with the same bins: sum of (p - q) ln(p / q)."""
    total, known = sum(now), sum(reference)
    if not total or not known:
        return 0.0
    found = 0.0
    for count, expected in zip(now, reference, strict=True):
        p, q = max(count / total, _LEAST_SHARE), max(expected / known, _LEAST_SHARE)
        found += (p - q) * math.log(p / q)
    return found


def psi_noise(images: int, reference: int, bins: int) -> float:
    """Return the index's mean where both histograms were drawn from one distribution.

    It follows a chi-square of (bins - 1) degrees of freedom times (1/n + 1/m) (Yurdakul 2018).
    """
    return (bins - 1) * (1 / images + 1 / reference) if images and reference else math.inf


def compare(counts: Counts, reference: Counts) -> list[Comparison]:
    """Return each quantity that the reference knows, by name."""
    found = []
    for quantity in sorted(reference.bins):
        expected = reference.bins[quantity]
        seen = counts.bins.get(quantity, {})
        kind = quantity.partition(":")[0]
        places = (
            sorted(set(expected) | set(seen))
            if kind == _GATE
            else [str(number) for number in range(len(BINS[kind]) + 1)]
        )
        now, then = [seen.get(p, 0) for p in places], [expected.get(p, 0) for p in places]
        bins = max(2, sum(bool(a or b) for a, b in zip(now, then, strict=True)))
        noise = psi_noise(sum(now), sum(then), bins)
        value = psi(now, then)
        found.append(Comparison(quantity, value, noise, _state(value, noise)))
    return found


def _state(value: float, noise: float) -> str:
    if noise >= 0.05:
        return "too-few"
    return "stable" if value < 0.1 else "moderate" if value < 0.25 else "shifted"

"""Measures of the model card: AUC, calibration, conformal limits, localisation; bootstrap intervals over patients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "auc",
    "auc_within_folds",
    "bootstrap",
    "calibration_error",
    "calibration_error_floor",
    "conformal_limits",
    "energy_in_box",
    "linear_probe",
    "platt",
    "points_into_box",
    "sigmoid",
]

Reals = npt.NDArray[np.float64]


def sigmoid(values: Any) -> Reals:
    """Return the logistic function."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(np.asarray(values, np.float64), -60, 60))))


def auc(positive: Any, negative: Any) -> float:
    """Return the share of pairs in which the positive scores higher, ties counted half."""
    high, low = np.asarray(positive, np.float64), np.sort(np.asarray(negative, np.float64))
    if not len(high) or not len(low):
        return float("nan")
    below = np.searchsorted(low, high, "left") + np.searchsorted(low, high, "right")
    return float(below.sum() / (2 * len(high) * len(low)))


def auc_within_folds(scores: Any, labels: Any, folds: Any) -> float:
    """Return the AUC over pairs of the same fold.

    Each fold has a network of its own with a scale of its own: a pair across folds would compare two networks, and
    its order says nothing.
    """
    score, label, fold = np.asarray(scores, np.float64), np.asarray(labels, bool), np.asarray(folds)
    won = pairs = 0.0
    for number in np.unique(fold):
        high, low = score[(fold == number) & label], score[(fold == number) & ~label]
        if len(high) and len(low):
            won += auc(high, low) * len(high) * len(low)
            pairs += len(high) * len(low)
    return won / pairs if pairs else float("nan")


def bootstrap(
    measure: Callable[[npt.NDArray[np.intp]], float], patients: Sequence[str], seed: int = 7, rounds: int = 1000
) -> dict[str, float]:
    """Return a measure with its 95 % percentile interval, patients drawn with replacement.

    Parameters
    ----------
    measure : callable
        Takes the indices of the images drawn.
    patients : sequence of str
        Of each image.
    """
    random = np.random.default_rng(seed)
    names, group = np.unique(np.asarray(patients), return_inverse=True)
    members = [np.flatnonzero(group == number) for number in range(len(names))]
    values = []
    for _ in range(rounds):
        drawn = random.integers(0, len(names), len(names))
        value = measure(np.concatenate([members[number] for number in drawn]))
        if np.isfinite(value):
            values.append(value)
    low, high = np.percentile(values, (2.5, 97.5))
    return {
        "value": round(measure(np.arange(len(patients))), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
    }


def platt(logits: Any, labels: Any) -> tuple[float, float]:
    """Return scale and offset of Platt's calibration, by Newton's method with his smoothed targets."""
    x, y = np.asarray(logits, np.float64), np.asarray(labels, np.float64)
    positives, negatives = y.sum(), (1 - y).sum()
    target = np.where(y > 0.5, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    weights = np.array([1.0, 0.0])
    design = np.stack([x, np.ones_like(x)], 1)
    for _ in range(100):
        probability = sigmoid(design @ weights)
        gradient = design.T @ (probability - target)
        hessian = design.T @ (design * (probability * (1 - probability))[:, None]) + 1e-6 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        weights -= step
        if np.abs(step).max() < 1e-9:
            break
    return float(weights[0]), float(weights[1])


def calibration_error(probabilities: Any, labels: Any, bins: int = 8) -> float:
    """Return the expected calibration error over bins that hold equally many images."""
    p, y = np.asarray(probabilities, np.float64), np.asarray(labels, np.float64)
    order = np.argsort(p, kind="stable")
    parts = np.array_split(order, bins)
    return float(sum(len(part) * abs(p[part].mean() - y[part].mean()) for part in parts if len(part)) / len(p))


def calibration_error_floor(probabilities: Any, bins: int = 8, seed: int = 5, rounds: int = 300) -> float:
    """Return the error that perfectly calibrated probabilities would show on average, with as many images."""
    p, random = np.asarray(probabilities, np.float64), np.random.default_rng(seed)
    return float(np.mean([calibration_error(p, random.random(len(p)) < p, bins) for _ in range(rounds)]))


def conformal_limits(probabilities: Any, labels: Any, error: float) -> tuple[float, float]:
    """Return (low, high): class-conditional split-conformal limits.

    Of new images with the finding at most a share `error` falls below `low`; of those without it at most `error`
    reaches `high` (exchangeable images assumed). They may cross: then nothing has to be left undecided.
    """
    p, y = np.asarray(probabilities, np.float64), np.asarray(labels) > 0.5
    with_finding, without = np.sort(p[y]), np.sort(p[~y])[::-1]
    low = with_finding[max(0, int(np.floor(error * (len(with_finding) + 1))) - 1)]
    high = without[max(0, int(np.floor(error * (len(without) + 1))) - 1)]
    return float(low), float(np.nextafter(high, 2.0))


def points_into_box(strength: Any, cover: Any) -> bool:
    """Return whether the strongest patch is at least half inside a readers' box."""
    return bool(np.asarray(cover).ravel()[int(np.argmax(strength))] >= 0.5)


def energy_in_box(strength: Any, cover: Any) -> float:
    """Return the share of the map's sum that lies inside the readers' boxes."""
    values = np.asarray(strength, np.float64)
    return float((values * np.asarray(cover)).sum() / max(values.sum(), 1e-12))


def linear_probe(features: Any, labels: Any, folds: Any, penalty: float = 30.0) -> Reals:
    """Return held-out scores of a ridge probe: what a line through these features can tell, patients apart by fold."""
    x, y, fold = np.asarray(features, np.float64), np.asarray(labels, np.float64) * 2 - 1, np.asarray(folds)
    scores = np.zeros(len(x))
    for held in np.unique(fold):
        train, test = fold != held, fold == held
        mean, spread = x[train].mean(0), x[train].std(0) + 1e-3
        z, other = (x[train] - mean) / spread, (x[test] - mean) / spread
        kernel = z @ z.T + penalty * np.sqrt(x.shape[1]) * np.eye(train.sum())
        scores[test] = other @ (z.T @ np.linalg.solve(kernel, y[train] - y[train].mean()))
    return scores

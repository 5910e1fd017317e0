"""What the networks say of patients that they never saw: every number of the model card."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ai_container.statistics import (
    auc,
    auc_within_folds,
    bootstrap,
    calibration_error,
    calibration_error_floor,
    conformal_limits,
    energy_in_box,
    linear_probe,
    platt,
    points_into_box,
    sigmoid,
)
from ai_container.training.controls import border_only
from ai_container.training.folds import FOLDS, load_network, network_path
from ai_container.training.network import GRID
from ai_container.training.radiographs import Radiograph, box_mask, read_grid

__all__ = ["ERROR_PROMISED", "HeldOut", "border_only", "copies", "evaluate", "evaluated", "held_out_scores"]

_log = logging.getLogger(__name__)
ERROR_PROMISED = 0.10
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class HeldOut:
    """An image with what the network of the fold that it was held out from said.

    Parameters
    ----------
    logit, border_logit : float
        Of the image, and of its outer border alone.
    patches : ndarray, (14, 14)
        Patch logits.
    """

    item: Radiograph
    fold: int
    grid: Floats
    logit: float
    border_logit: float
    patches: Floats


def _run(network: Any, grids: Sequence[Floats]) -> tuple[Floats, Floats]:
    logits, patches = [], []
    for start in range(0, len(grids), 32):
        answer = network(np.stack(grids[start : start + 32])[..., None], training=False)
        logits.append(np.asarray(answer["logit"]))
        patches.append(np.asarray(answer["patches"]))
    return np.concatenate(logits), np.concatenate(patches)


def evaluated(radiographs: Sequence[Radiograph]) -> list[Radiograph]:
    """Return what is scored: NIH adults that a radiologist read, their RSNA copies, every fifth other RSNA normal."""
    read = [item for item in radiographs if item.dataset == "nih_chestxray14" and item.adult and item.reading]
    twins = {item.rsna_id for item in read if item.rsna_id}
    normal = [item for item in radiographs if item.dataset == "rsna_normal" and item.adult]
    return [
        *read,
        *(item for item in normal if item.rsna_id in twins),
        *[item for item in normal if item.rsna_id not in twins][::5],
    ]


def held_out_scores(items: Sequence[Radiograph], folds: Mapping[str, int], out: Path) -> list[HeldOut]:
    """Score whole-frame images by the network that did not train on their patient; those in no fold by the first."""
    found = []
    for fold in range(FOLDS):
        network = load_network(network_path(out, fold))
        chosen = [item for item in items if folds.get(item.patient, 0) == fold]
        grids = [read_grid(item.path) for item in chosen]
        logits, patches = _run(network, grids)
        border, _ = _run(network, [border_only(grid) for grid in grids])
        found += [
            HeldOut(*row) for row in zip(chosen, [fold] * len(chosen), grids, logits, border, patches, strict=True)
        ]
        _log.info("fold %d: %d images scored", fold, len(chosen))
    return found


def copies(scores: Sequence[HeldOut]) -> list[tuple[HeldOut, HeldOut]]:
    """Return images that are here twice: as NIH and as RSNA processed them."""
    nih = {row.item.rsna_id: row for row in scores if row.item.dataset == "nih_chestxray14" and row.item.rsna_id}
    return [
        (nih[row.item.rsna_id], row) for row in scores if row.item.dataset == "rsna_normal" and row.item.rsna_id in nih
    ]


def _read(scores: Sequence[HeldOut]) -> list[HeldOut]:
    return [row for row in scores if row.item.dataset == "nih_chestxray14" and row.item.reading and row.item.adult]


def _between(rows: Sequence[HeldOut], reading: str, border: bool = False, view: str = "") -> dict[str, float]:
    """AUC of opacity against another reading within NIH and within folds, patients drawn."""
    chosen = [row for row in rows if row.item.reading in ("opacity", reading) and view in ("", row.item.view)]
    label = np.array([row.item.reading == "opacity" for row in chosen])
    score = np.array([row.border_logit if border else row.logit for row in chosen])
    fold = np.array([row.fold for row in chosen])

    def measure(drawn: npt.NDArray[np.intp]) -> float:
        return auc_within_folds(score[drawn], label[drawn], fold[drawn])

    result = bootstrap(measure, [row.item.patient for row in chosen])
    return {**result, "positives": int(label.sum()), "negatives": int((~label).sum())}


def _cross_calibrated(rows: Sequence[HeldOut]) -> tuple[npt.NDArray[np.float64], dict[str, Any]]:
    """Calibrate each fold by the others; also count what the abstention band promised and what it kept."""
    logit = np.array([row.logit for row in rows])
    label = np.array([row.item.reading == "opacity" for row in rows], float)
    fold = np.array([row.fold for row in rows])
    probability = np.zeros(len(rows))
    tally: dict[str, int] = defaultdict(int)
    for held in range(FOLDS):
        scale, offset = platt(logit[fold != held], label[fold != held])
        probability[fold == held] = sigmoid(scale * logit[fold == held] + offset)
        low, high = conformal_limits(sigmoid(scale * logit[fold != held] + offset), label[fold != held], ERROR_PROMISED)
        low, high = min(low, high), max(low, high)
        for p, y in zip(probability[fold == held], label[fold == held], strict=True):
            tally["positives" if y else "negatives"] += 1
            if low <= p < high:
                tally["indeterminate_positives" if y else "indeterminate_negatives"] += 1
            elif y and p < low:
                tally["missed"] += 1
            elif not y and p >= high:
                tally["false_alarms"] += 1
    return probability, dict(tally)


def _localisation(rows: Sequence[HeldOut]) -> dict[str, Any]:
    """Pointing game and energy in the box, beside a prior that never looks: the mean box map of the other folds."""
    boxed = [row for row in rows if row.item.reading == "opacity" and row.item.boxes]
    cover = [_cover(row) for row in boxed]
    prior = {
        fold: np.mean([c for row, c in zip(boxed, cover, strict=True) if row.fold != fold], axis=0)
        for fold in range(FOLDS)
    }
    patients = [row.item.patient for row in boxed]
    columns = {
        "pointing": [points_into_box(row.patches, c) for row, c in zip(boxed, cover, strict=True)],
        "pointing_prior": [points_into_box(prior[row.fold], c) for row, c in zip(boxed, cover, strict=True)],
        "energy": [energy_in_box(sigmoid(row.patches), c) for row, c in zip(boxed, cover, strict=True)],
        "energy_prior": [energy_in_box(prior[row.fold], c) for row, c in zip(boxed, cover, strict=True)],
    }
    values = {name: np.array(column, float) for name, column in columns.items()}
    values["pointing_minus_prior"] = values["pointing"] - values["pointing_prior"]
    values["energy_minus_prior"] = values["energy"] - values["energy_prior"]
    result: dict[str, Any] = {
        name: bootstrap(lambda drawn, v=column: float(v[drawn].mean()), patients)  # type: ignore[misc]
        for name, column in values.items()
    }
    return {"images": len(boxed), "box_cover": round(float(np.mean(cover)), 4), **result}


def _cover(row: HeldOut) -> Floats:
    side = 224 // GRID
    return np.asarray(box_mask(row.item.boxes).reshape(GRID, side, GRID, side).mean((1, 3)), np.float32)


def _probe(
    features: npt.NDArray[Any], labels: npt.NDArray[Any], folds: npt.NDArray[Any], patients: Sequence[str]
) -> dict[str, float]:
    score = linear_probe(features, labels, folds)
    return bootstrap(lambda drawn: auc_within_folds(score[drawn], labels[drawn], folds[drawn]), patients)


def evaluate(scores: Sequence[HeldOut], features: Any) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the metrics, and the decision rule that the final network takes over from the held-out folds.

    Parameters
    ----------
    scores : sequence of HeldOut
        All whole-frame images of adults.
    features : callable
        Frozen features (n, k) of a list of grids, for the linear probes of the controls.
    """
    rows = _read(scores)
    probability, band = _cross_calibrated(rows)
    label = np.array([row.item.reading == "opacity" for row in rows])
    fold = np.array([row.fold for row in rows])
    patients = [row.item.patient for row in rows]
    logit = np.array([row.logit for row in rows])
    metrics: dict[str, Any] = {
        "opacity_vs_normal": _between(rows, "normal"),
        "opacity_vs_not_normal": _between(rows, "not_normal"),
        "opacity_vs_normal_pooled": _pooled(rows, probability, "normal"),
        "opacity_vs_not_normal_pooled": _pooled(rows, probability, "not_normal"),
        "opacity_vs_normal_by_fold": _by_fold(rows, "normal"),
        "opacity_vs_not_normal_by_fold": _by_fold(rows, "not_normal"),
        "opacity_vs_not_normal_ap_only": _between(rows, "not_normal", view="AP"),
        "opacity_vs_not_normal_pa_only": _between(rows, "not_normal", view="PA"),
        "opacity_vs_rsna_normal_distrust": _against_rsna(scores),
        "calibration_error": bootstrap(lambda drawn: calibration_error(probability[drawn], label[drawn]), patients),
        "calibration_error_floor": round(calibration_error_floor(probability), 4),
        "abstention": {"promised_error": ERROR_PROMISED, **band},
        "localisation": _localisation(rows),
    }
    chosen = np.array([row.item.reading in ("opacity", "normal") for row in rows])
    borders = features([border_only(row.grid) for row, keep in zip(rows, chosen, strict=True) if keep])
    metrics["border_only"] = {
        "model_on_border_opacity_vs_normal": _between(rows, "normal", border=True),
        "model_on_border_opacity_vs_not_normal": _between(rows, "not_normal", border=True),
        "linear_probe_opacity_vs_normal": _probe(
            borders, label[chosen], fold[chosen], [p for p, keep in zip(patients, chosen, strict=True) if keep]
        ),
    }
    pairs = copies(scores)
    both = [row for pair in pairs for row in pair]
    source = np.array([row.item.dataset == "rsna_normal" for row in both])
    metrics["copies"] = {
        "pairs": len(pairs),
        "model_rsna_vs_nih": round(auc([b.logit for _, b in pairs], [a.logit for a, _ in pairs]), 4),
        "mean_absolute_logit_difference": round(float(np.mean([abs(a.logit - b.logit) for a, b in pairs])), 4),
        "linear_probe_of_border_tells_source": _probe(
            features([border_only(row.grid) for row in both]),
            source,
            np.array([row.fold for row in both]),
            [row.item.patient for row in both],
        ),
    }
    scale, offset = platt(logit, label)
    final = sigmoid(scale * logit + offset)
    low, high = conformal_limits(final, label, ERROR_PROMISED)
    low, high = min(low, high), max(low, high)
    threshold = _best_threshold(final, label, low, high)
    metrics["at_threshold"] = {
        "sensitivity": round(float((final[label] >= threshold).mean()), 4),
        "specificity_vs_not_normal_and_normal": round(float((final[~label] < threshold).mean()), 4),
    }
    metrics["prevalence_of_calibration"] = round(float(label.mean()), 4)
    rule = {"scale": scale, "offset": offset, "threshold": threshold, "low": low, "high": high}
    return metrics, {name: round(value, 6) for name, value in rule.items()}


def _by_fold(rows: Sequence[HeldOut], reading: str) -> list[float]:
    return [_between([row for row in rows if row.fold == fold], reading)["value"] for fold in range(FOLDS)]


def _pooled(rows: Sequence[HeldOut], probability: npt.NDArray[Any], reading: str) -> float:
    """AUC of the cross-calibrated probabilities over all pairs, those of two networks included."""
    label = np.array([row.item.reading for row in rows])
    return round(auc(probability[label == "opacity"], probability[label == reading]), 4)


def _against_rsna(scores: Sequence[HeldOut]) -> float:
    chosen = [row for row in scores if row.item.dataset == "rsna_normal" or row.item.reading == "opacity"]
    label = [row.item.reading == "opacity" for row in chosen]
    return round(auc_within_folds([row.logit for row in chosen], label, [row.fold for row in chosen]), 4)


def _best_threshold(probability: npt.NDArray[Any], label: npt.NDArray[np.bool_], low: float, high: float) -> float:
    """Return the threshold inside the band with the largest sum of sensitivity and specificity."""
    inside = [p for p in np.unique(probability) if low <= p <= high] or [(low + high) / 2]
    gains = [(probability[label] >= p).mean() + (probability[~label] < p).mean() for p in inside]
    return float(inside[int(np.argmax(gains))])

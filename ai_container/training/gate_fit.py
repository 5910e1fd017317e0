"""Fit the pixel gate on adult frontal radiographs as they are, inverted and turned; measure it on others."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ai_container.gate import CERTAIN_LIMIT, POSES, UNSURE_LIMIT, gate_features
from ai_container.runtime import LiteModel

__all__ = ["GateFeatures", "fit_gate", "measure_gate", "read_features"]

_DIRECTIONS = 64
_PENALTY = 30.0
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class GateFeatures:
    """Features of some images: for the distance (n, 1280), for the pose (n, 6768)."""

    distance: Floats
    pose: Floats

    def take(self, rows: npt.NDArray[Any]) -> GateFeatures:
        """Return those of some rows."""
        return GateFeatures(self.distance[rows], self.pose[rows])


def turned(grid: Floats, pose: str) -> Floats:
    """Return an upright image in another pose."""
    if pose == "upright":
        return grid
    if pose == "inverted":
        return np.asarray(1.0 - grid, np.float32)
    return np.ascontiguousarray(np.rot90(grid, int(pose.removeprefix("turned-")) // 90))


def read_features(network: bytes, grids: Sequence[Floats], pose: str = "upright") -> GateFeatures:
    """Return the features of images put into a pose, by the runtime that will serve."""
    model = LiteModel(network, interpreters=1, threads=1)
    rows = [gate_features(model, turned(grid, pose)) for grid in grids]
    return GateFeatures(np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows]))


def fit_gate(poses: Mapping[str, GateFeatures]) -> dict[str, Floats]:
    """Return the statistics of ``gate.npz``; `poses` holds the same images in each of `POSES`."""
    upright = poses["upright"].distance
    mean, spread = upright.mean(0), upright.std(0) + 1e-3
    standard = (upright - mean) / spread
    axes = np.linalg.svd(standard, full_matrices=False)[2][:_DIRECTIONS]
    # The quantile comes from images that the axes were not fitted to, else it would be too tight.
    half = np.arange(len(standard)) % 2 == 0
    fitted = np.linalg.svd(standard[half], full_matrices=False)[2][:_DIRECTIONS]
    left = standard[~half] - (standard[~half] @ fitted.T) @ fitted
    features = np.concatenate([poses[name].pose for name in POSES])
    labels = np.eye(len(POSES), dtype=np.float32)[np.repeat(np.arange(len(POSES)), len(upright))]
    centre, scale = features.mean(0), features.std(0) + 1e-3
    z = ((features - centre) / scale).astype(np.float32)
    kernel = z @ z.T + _PENALTY * np.sqrt(z.shape[1]) * np.eye(len(z), dtype=np.float32)
    weights = z.T @ np.linalg.solve(kernel, labels - labels.mean(0)) / scale[:, None]
    return {
        "mean": mean.astype(np.float32),
        "spread": spread.astype(np.float32),
        "axes": axes.astype(np.float32),
        "unit": np.float32(np.quantile((left**2).mean(1), 0.98)),
        "pose_weights": weights.astype(np.float32),
        "pose_offset": (labels.mean(0) - centre @ weights).astype(np.float32),
    }


def packed(statistics: Mapping[str, Any]) -> bytes:
    """Return the .npz file of the statistics."""
    out = io.BytesIO()
    np.savez(out, **statistics)
    return out.getvalue()


def _refused(statistics: Mapping[str, Any], features: GateFeatures, limit: float) -> npt.NDArray[np.bool_]:
    standard = (features.distance - statistics["mean"]) / statistics["spread"]
    residual = standard - (standard @ statistics["axes"].T) @ statistics["axes"]
    far = (residual**2).mean(1) / statistics["unit"] > limit
    pose = (features.pose @ statistics["pose_weights"] + statistics["pose_offset"]).argmax(1)
    return np.asarray(far | (pose != 0))


def measure_gate(statistics: Mapping[str, Any], features: GateFeatures) -> dict[str, float]:
    """Return the share of images refused, where the header names chest and view, and where it does not."""
    return {
        "images": len(features.distance),
        "refused_header_certain": round(float(_refused(statistics, features, CERTAIN_LIMIT).mean()), 4),
        "refused_header_open": round(float(_refused(statistics, features, UNSURE_LIMIT).mean()), 4),
    }

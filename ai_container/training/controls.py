"""Shortcut controls: what a network could know without looking at the lungs. Part of every training, not a choice.

- **border only**: the network's own AUC on images of which only the outer 12 % is left. Well above one half: it reads
  the frame, not the chest.
- **copy against copy**: the same image processed in two ways must score alike (AUC of one against the other near one
  half).
- **source prediction**: how well a line through the border's pixels tells where an image came from, and how well the
  source alone, without any image, tells the label. Where both are high the label can be learnt from the source, and no
  test within this set would show it.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ai_container.preprocess import SIDE, harmonise
from ai_container.statistics import auc, bootstrap, linear_probe

__all__ = ["border_only", "copy_against_copy", "label_from_source", "reprocessed", "source_from_border"]

_BORDER = 27  # 12 % of 224
_FOLDS = 4
Floats = npt.NDArray[np.float32]


def border_only(grid: Floats) -> Floats:
    """Return the image with everything but its outer 12 % on each side replaced by the mean."""
    out = np.full_like(grid, grid.mean())
    for part in (np.s_[:_BORDER], np.s_[-_BORDER:], np.s_[:, :_BORDER], np.s_[:, -_BORDER:]):
        out[part] = grid[part]
    return out


def reprocessed(grid: Floats) -> Floats:
    """Return the image as another archive might have kept it: resampled, compressed by JPEG, stretched again."""
    picture = Image.fromarray(np.rint(grid * 255).astype(np.uint8)).resize((180, 180), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=70)
    with Image.open(io.BytesIO(out.getvalue())) as again:
        return harmonise(np.asarray(again.resize((SIDE, SIDE), Image.Resampling.LANCZOS)))


def copy_against_copy(score: Callable[[Sequence[Floats]], npt.NDArray[Any]], grids: Sequence[Floats]) -> dict[str, Any]:
    """Return how far a network's logits (n, labels) tell an image from its own copy in another processing."""
    original, copy = score(grids), score([reprocessed(grid) for grid in grids])
    return {
        "pairs": len(grids),
        "auc": [round(auc(copy[:, place], original[:, place]), 4) for place in range(original.shape[1])],
        "mean_absolute_logit_difference": round(float(np.abs(copy - original).mean()), 4),
    }


def _border_features(grid: Floats) -> Floats:
    side = SIDE // 16
    thumb = border_only(grid).reshape(16, side, 16, side).mean((1, 3))
    edge = np.ones((16, 16), bool)
    edge[2:-2, 2:-2] = False
    return np.asarray(thumb[edge], np.float32)


def source_from_border(
    grids: Sequence[Floats], sources: Sequence[str], patients: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return the AUC of a linear probe of the border for each source that has 20 images, patients apart."""
    features = np.stack([_border_features(grid) for grid in grids])
    names = {patient: number % _FOLDS for number, patient in enumerate(sorted(set(patients)))}
    folds = np.array([names[patient] for patient in patients])
    found = {}
    for source in sorted(set(sources)):
        label = np.array([item == source for item in sources])
        if min(label.sum(), (~label).sum()) < 20:
            continue
        scores = linear_probe(features, label, folds)

        def measure(
            drawn: npt.NDArray[np.intp], scores: npt.NDArray[Any] = scores, label: npt.NDArray[Any] = label
        ) -> float:
            return auc(scores[drawn][label[drawn]], scores[drawn][~label[drawn]])

        found[source] = bootstrap(measure, patients, rounds=200)
    return found


def label_from_source(sources: Sequence[str], labels: npt.NDArray[np.bool_]) -> list[float]:
    """Return, by label, the AUC of the source's own share of that label: no image is looked at.

    Parameters
    ----------
    labels : ndarray of bool, (images, labels)
    """
    found = []
    for column in labels.T:
        seen: dict[str, list[bool]] = defaultdict(list)
        for source, value in zip(sources, column, strict=True):
            seen[source].append(bool(value))
        score = np.array([np.mean(seen[source]) for source in sources])
        found.append(round(auc(score[column], score[~column]), 4))
    return found

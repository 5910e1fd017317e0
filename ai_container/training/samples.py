"""Which images are trained on, and as what.

Pairs that would teach the source rather than the disease are kept out: NIH images labelled "no finding" by the text
miner and never read by a radiologist come from another acquisition era than those labelled "pneumonia" and are not
used. Negatives are what radiologists read as normal, or as not normal without opacity, in NIH (the same era as the
positives) and in RSNA, half of them AP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ai_container.preprocess import SIDE
from ai_container.training.radiographs import Radiograph, box_mask, lung_only_grid, read_grid

__all__ = ["Sample", "group_of", "make_samples"]


@dataclass(frozen=True)
class Sample:
    """A training image.

    Parameters
    ----------
    planes : ndarray of float16, (224, 224, 3)
        Image, box mask, mask of where patches may be judged.
    target, image_weight : float
        Image label and how much it counts: 0 for lung-only images, whose shape alone gives the reading away.
    """

    group: str
    planes: npt.NDArray[np.float16]
    target: float
    image_weight: float
    patch_weight: float


def group_of(item: Radiograph) -> str | None:
    """Return the group of an image in the recipe's batches; None: not to be trained on."""
    if item.dataset == "nih_chestxray14" and item.adult:
        if item.reading == "opacity":
            return "opacity" if item.boxes else None
        if item.reading:
            return item.reading
        return "unread_pneumonia" if item.label == "pneumonia" else None
    if item.dataset == "rsna_normal" and item.adult:
        return f"rsna_normal_{item.view.lower()}"
    if item.dataset == "rsna_lungs" and item.adult:
        return "lungs_opacity" if item.reading == "opacity" else "lungs_other"
    return None


def make_samples(radiographs: Sequence[Radiograph]) -> list[tuple[Radiograph, Sample]]:
    """Read every image that may be trained on."""
    found = []
    for item in radiographs:
        group = group_of(item)
        if group is None:
            continue
        planes = np.ones((SIDE, SIDE, 3), np.float16)
        if group.startswith("lungs"):
            planes[..., 0], planes[..., 2] = lung_only_grid(item.path)
        else:
            planes[..., 0] = read_grid(item.path)
        planes[..., 1] = box_mask(item.boxes)
        weak = group == "unread_pneumonia"
        found.append(
            (
                item,
                Sample(
                    group=group,
                    planes=planes,
                    target=0.6 if weak else float("opacity" in group),
                    image_weight=0.0 if group.startswith("lungs") else 0.5 if weak else 1.0,
                    patch_weight=0.0 if weak else 1.0,
                ),
            )
        )
    return found

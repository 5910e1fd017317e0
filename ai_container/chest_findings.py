"""The findings of ChestX-ray14, the vocabulary in which this project says what was *not* looked for.

A report that names one finding and is silent on thirteen reads as if the thirteen were absent. So what no model of the
study covers is listed as not assessed, in the result file and in the report's words.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["CHESTXRAY14", "uncovered"]

# Wang et al., ChestX-ray8, CVPR 2017: label as published, then English and French words.
CHESTXRAY14: dict[str, tuple[str, str]] = {
    "Atelectasis": ("Atelectasis", "Atélectasie"),
    "Cardiomegaly": ("Cardiomegaly", "Cardiomégalie"),
    "Consolidation": ("Consolidation", "Condensation"),
    "Edema": ("Oedema", "Œdème"),
    "Effusion": ("Pleural effusion", "Épanchement pleural"),
    "Emphysema": ("Emphysema", "Emphysème"),
    "Fibrosis": ("Fibrosis", "Fibrose"),
    "Hernia": ("Hernia", "Hernie"),
    "Infiltration": ("Infiltration", "Infiltrat"),
    "Mass": ("Mass", "Masse"),
    "Nodule": ("Nodule", "Nodule"),
    "Pleural_Thickening": ("Pleural thickening", "Épaississement pleural"),
    "Pneumonia": ("Pneumonia", "Pneumonie"),
    "Pneumothorax": ("Pneumothorax", "Pneumothorax"),
}


def uncovered(covered: Iterable[str]) -> tuple[str, ...]:
    """Return the labels that are not among `covered`, in the table's order."""
    found = frozenset(covered)
    return tuple(label for label in CHESTXRAY14 if label not in found)

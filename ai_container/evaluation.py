"""What a model says on a site's own labelled images: the numbers that an AI committee asks for before it activates one.

Nothing is published and nothing is stored. The labels are the site's: a CSV file with the columns ``path`` (below the
file's own folder), ``label`` (1: the finding is there, 0: it is not) and, where known, ``patient`` and ``age``.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ai_container.analyser import Analyser
from ai_container.bundle import Bundle
from ai_container.header_facts import ImageFacts
from ai_container.image_analysis import Timings
from ai_container.statistics import auc, bootstrap, calibration_error
from ai_container.study_analysis import StudyAnalysis
from imaging_core.errors import Permanent, Rejected

__all__ = ["Labelled", "evaluate", "read_labels"]

_PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
_MOST_PIXELS = 100_000_000


@dataclass(frozen=True)
class Labelled:
    """An image with its label.

    Parameters
    ----------
    age : float or None
        Years, for a picture without a header; a DICOM file's own header counts.
    """

    path: Path
    label: bool
    patient: str
    age: float | None


def read_labels(path: Path) -> list[Labelled]:
    """Read a site's labels.

    Raises
    ------
    Permanent
        ``bad-field``: a column or a file is missing, a label is neither 0 nor 1, or a path leaves the folder.
    """
    folder = path.parent.resolve()
    found = []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.DictReader(file), 2):
                image = (folder / row["path"]).resolve()
                if row["label"] not in ("0", "1") or not image.is_relative_to(folder) or not image.is_file():
                    raise Permanent("bad-field", f"{path.name}, line {number}: a file below the folder, and 0 or 1")
                age = row.get("age") or ""
                found.append(
                    Labelled(image, row["label"] == "1", row.get("patient") or row["path"], float(age) if age else None)
                )
    except (OSError, KeyError, ValueError, UnicodeDecodeError) as error:
        raise Permanent("bad-field", f"{path.name}: {type(error).__name__}: {error}") from error
    if not found:
        raise Permanent("bad-field", f"{path.name} names no image")
    return found


def _analysed(analyser: Analyser, item: Labelled, reference: str) -> StudyAnalysis | None:
    data = item.path.read_bytes()
    try:
        if item.path.suffix.lower() in _PICTURES:
            facts = ImageFacts(modality="DX", body_part="chest", age_years=item.age)
            return analyser.preview_picture(data, facts, _MOST_PIXELS, reference, Timings())
        return analyser.preview_dicom(data, reference, Timings())
    except Rejected:
        return None


def evaluate(analyser: Analyser, bundle: Bundle, items: Sequence[Labelled], finding: str = "") -> dict[str, Any]:
    """Return what a model says of labelled images.

    Parameters
    ----------
    finding : str
        Key of the output that the labels are of; empty: the first.

    Returns
    -------
    dict
        ``images``, ``analysed``, ``refused`` by reason, ``auc`` with its 95 % interval over patients, ``sensitivity``
        and ``specificity`` at the threshold, ``states`` by label, ``calibration_error``; a measure that needs both
        labels is None without them.

    Raises
    ------
    Permanent
        ``not-found``: the model has no such finding.
    """
    outputs = [output for output in bundle.outputs if finding in ("", output.key)]
    if not outputs:
        raise Permanent("not-found", f"{bundle.reference} has no finding {finding}")
    output = outputs[0]
    refused: Counter[str] = Counter()
    states: dict[str, Counter[str]] = {"0": Counter(), "1": Counter()}
    probability, label, patient = [], [], []
    for item in items:
        analysis = _analysed(analyser, item, bundle.reference)
        if analysis is None or not analysis.findings:
            refused[analysis.not_analysed[0][1] if analysis else "pixels-unreadable"] += 1
            continue
        said = next(found for found in analysis.findings if found.output is output)
        states[str(int(item.label))][said.state] += 1
        probability.append(said.probability)
        label.append(item.label)
        patient.append(item.patient)
    scores, truth = np.array(probability), np.array(label, bool)
    both = bool(truth.any() and not truth.all())
    at = output.rule.threshold
    return {
        "model": bundle.reference,
        "finding": output.key,
        "images": len(items),
        "analysed": len(scores),
        "refused": dict(sorted(refused.items())),
        "positives": int(truth.sum()),
        "auc": bootstrap(lambda drawn: auc(scores[drawn][truth[drawn]], scores[drawn][~truth[drawn]]), patient)
        if both
        else None,
        "sensitivity": round(float((scores[truth] >= at).mean()), 4) if truth.any() else None,
        "specificity": round(float((scores[~truth] < at).mean()), 4) if (~truth).any() else None,
        "states": {name: dict(sorted(counts.items())) for name, counts in states.items()},
        "calibration_error": round(calibration_error(scores, truth), 4) if both else None,
    }

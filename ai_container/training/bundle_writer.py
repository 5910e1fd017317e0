"""Write the bundle: weights, gate, metrics, ``model.yaml`` with every hash, and the model card made from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ai_container.training.model_card import model_card

__all__ = ["write_bundle"]

_DESCRIPTION = Path(__file__).with_name("chest_opacity.yaml")
_SUMMARY = ("opacity_vs_normal", "opacity_vs_not_normal", "calibration_error")


def _described(version: str, rule: Mapping[str, float], metrics: Mapping[str, Any], files: Mapping[str, str]) -> Any:
    description = yaml.safe_load(_DESCRIPTION.read_text("utf-8"))
    output = description["outputs"][0]
    output["threshold"] = rule["threshold"]
    output["abstention"] |= {
        "low": rule["low"],
        "high": rule["high"],
        "promised_error": metrics["abstention"]["promised_error"],
    }
    output["calibration"] |= {
        "scale": rule["scale"],
        "offset": rule["offset"],
        "prevalence": metrics["prevalence_of_calibration"],
    }
    return {
        "name": description.pop("name"),
        "version": version,
        **description,
        "metrics": {name: metrics[name] for name in _SUMMARY},
        "files": dict(files),
    }


def write_bundle(
    folder: Path,
    version: str,
    parts: Mapping[str, bytes],
    metrics: Mapping[str, Any],
    rule: Mapping[str, float],
) -> None:
    """Write all files of a bundle; ``metrics.json`` names the weights that it was measured for.

    Parameters
    ----------
    parts : mapping of str to bytes
        ``weights.tflite``, ``gate.tflite`` and ``gate.npz``.
    rule : mapping of str to float
        See `ai_container.calibration.DecisionRule`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    measured = {"weights_sha256": hashlib.sha256(parts["weights.tflite"]).hexdigest(), **metrics}
    contents = {**parts, "metrics.json": (json.dumps(measured, indent=2, sort_keys=True) + "\n").encode()}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    files = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    description = _described(version, rule, metrics, files)
    text = yaml.safe_dump(description, sort_keys=False, allow_unicode=True, width=110)
    (folder / "model.yaml").write_text(text, encoding="utf-8")
    (folder / "MODEL_CARD.md").write_text(model_card(description, measured), encoding="utf-8")

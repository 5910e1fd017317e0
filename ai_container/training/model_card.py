"""The model card in Markdown, made from ``model.yaml`` and the metrics: goals that were missed are said."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

__all__ = ["model_card"]

_TEMPLATE = Path(__file__).with_name("model_card_template.md")
# measure, where it is in the metrics, goal, whether the goal is a least
_GOALS = [
    ("AUC, radiologist opacity vs radiologist normal", ("opacity_vs_normal",), 0.95, True),
    ("AUC, radiologist opacity vs “not normal”", ("opacity_vs_not_normal",), 0.80, True),
    ("Expected calibration error", ("calibration_error",), 0.05, False),
    ("Border only, this model: opacity vs normal", ("border_only", "model_on_border_opacity_vs_normal"), 0.60, False),
    ("Border only, linear probe: opacity vs normal", ("border_only", "linear_probe_opacity_vs_normal"), 0.60, False),
    (
        "Border only, linear probe: NIH vs RSNA processing",
        ("copies", "linear_probe_of_border_tells_source"),
        0.60,
        False,
    ),
    ("Pointing game", ("localisation", "pointing"), 0.85, True),
    ("Energy in the box", ("localisation", "energy"), 0.45, True),
]
_GATE_GOALS = {
    "adult_frontal": (0.05, False),
    "inverted": (0.95, True),
    "turned-90": (0.95, True),
    "turned-180": (0.95, True),
    "turned-270": (0.95, True),
    "not_chest": (0.99, True),
    "noise": (0.99, True),
    "children_1_to_5_years": (0.90, True),
    "another_hospital_adult": (0.05, False),
}


def _at(metrics: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    found: Any = metrics
    for part in path:
        found = found[part]
    return found


def _met(value: float, goal: float, least: bool) -> str:
    reached = value >= goal if least else value <= goal
    return "met" if reached else f"**missed by {abs(value - goal):.3f}**"


def _kept(share: float, promised: float) -> str:
    return "kept" if share <= promised else "**not kept**"


def _interval(value: Mapping[str, float]) -> str:
    return f"{value['value']:.3f} [{value['low']:.3f}–{value['high']:.3f}]"


def _goal_rows(metrics: Mapping[str, Any]) -> str:
    rows = []
    for name, path, goal, least in _GOALS:
        value = _at(metrics, path)
        sign = "≥" if least else "≤"
        rows.append(f"| {name} | {_interval(value)} | {sign} {goal:.2f} | {_met(value['value'], goal, least)} |")
    copies = metrics["copies"]
    same = copies["model_rsna_vs_nih"]
    verdict = "met" if 0.45 <= same <= 0.55 else "**missed**"
    rows.append(f"| Copy vs copy, this model ({copies['pairs']} pairs) | {same:.3f} | 0.45–0.55 | {verdict} |")
    return "\n".join(rows)


def _gate_rows(metrics: Mapping[str, Any]) -> str:
    rows = []
    for name, value in metrics["gate"].items():
        goal, least = _GATE_GOALS[name]
        sure, unsure = value["refused_header_certain"], value["refused_header_open"]
        sign = "≥" if least else "≤"
        rows.append(
            f"| {name.replace('_', ' ')} | {value['images']} | {sure:.3f} | {unsure:.3f} | {sign} {goal:.2f} "
            f"| {_met(sure, goal, least)} |"
        )
    return "\n".join(rows)


def model_card(description: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """Return the card."""
    output, place, band = description["outputs"][0], metrics["localisation"], metrics["abstention"]
    undecided = band.get("indeterminate_positives", 0) + band.get("indeterminate_negatives", 0)
    missed = band.get("missed", 0) / band["positives"]
    alarms = band.get("false_alarms", 0) / band["negatives"]
    return Template(_TEMPLATE.read_text("utf-8")).substitute(
        name=description["name"],
        version=description["version"],
        intended_use=description["intended_use"]["en"],
        folds=metrics["folds"],
        goals=_goal_rows(metrics),
        opacity_images=metrics["opacity_vs_normal"]["positives"],
        normal_images=metrics["opacity_vs_normal"]["negatives"],
        not_normal_images=metrics["opacity_vs_not_normal"]["negatives"],
        normal_by_fold=", ".join(f"{value:.3f}" for value in metrics["opacity_vs_normal_by_fold"]),
        not_normal_by_fold=", ".join(f"{value:.3f}" for value in metrics["opacity_vs_not_normal_by_fold"]),
        pooled=f"{metrics['opacity_vs_normal_pooled']:.3f}",
        not_normal_pooled=f"{metrics['opacity_vs_not_normal_pooled']:.3f}",
        calibration_floor=f"{metrics['calibration_error_floor']:.3f}",
        within_ap=_interval(metrics["opacity_vs_not_normal_ap_only"]),
        within_pa=_interval(metrics["opacity_vs_not_normal_pa_only"]),
        rsna_auc=f"{metrics['opacity_vs_rsna_normal_distrust']:.3f}",
        boxed_images=place["images"],
        box_cover=f"{100 * place['box_cover']:.0f}",
        **{name: _interval(value) for name, value in place.items() if isinstance(value, Mapping)},
        prevalence=f"{metrics['prevalence_of_calibration']:.2f}",
        low=f"{output['abstention']['low']:.3f}",
        high=f"{output['abstention']['high']:.3f}",
        threshold=f"{output['threshold']:.3f}",
        sensitivity=f"{metrics['at_threshold']['sensitivity']:.2f}",
        specificity=f"{metrics['at_threshold']['specificity_vs_not_normal_and_normal']:.2f}",
        promised=f"{100 * band['promised_error']:.0f}",
        missed=band.get("missed", 0),
        missed_share=f"{100 * missed:.1f}",
        missed_kept=_kept(missed, band["promised_error"]),
        alarm_share=f"{100 * alarms:.1f}",
        alarm_kept=_kept(alarms, band["promised_error"]),
        positives=band["positives"],
        false_alarms=band.get("false_alarms", 0),
        negatives=band["negatives"],
        undecided=undecided,
        all=band["positives"] + band["negatives"],
        not_assessed=", ".join(item["en"].lower() for item in description["not_assessed"]),
        gate=_gate_rows(metrics),
        training_data="\n".join(
            f"- {item['name']}: {item['licence']}. {item['reference']}." for item in description["training_data"]
        ),
    )

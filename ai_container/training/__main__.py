"""Command line: ``python -m ai_container.training --data DIR --out DIR``."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import click
import numpy as np

from ai_container.training.bundle_writer import write_bundle
from ai_container.training.evaluate import evaluate, evaluated, held_out_scores
from ai_container.training.fit import Recipe
from ai_container.training.folds import FOLDS, load_network, network_path, start_tensorflow, train_folds
from ai_container.training.gate_fit import packed, read_features
from ai_container.training.gate_report import gate_statistics
from ai_container.training.layouts import LAYOUTS
from ai_container.training.lite import gate_network, to_lite
from ai_container.training.multilabel import MultiRecipe, train_layout
from ai_container.training.radiographs import fold_of_patients, read_radiographs

_BACKBONE = "efficientnet_lite0_imagenet_notop.keras"


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True, help="Folder with manifest.csv.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for networks and the bundle.")
@click.option(
    "--backbone", type=click.Path(path_type=Path), help="EfficientNet-Lite0, ImageNet, without head (.keras)."
)
@click.option("--bundle", type=click.Path(path_type=Path), help="Where the bundle goes; default OUT/bundle.")
@click.option("--version", default="1.0.0", show_default=True, help="Version of the bundle.")
@click.option("--steps", default=Recipe.steps, show_default=True, help="Training steps of each network.")
@click.option("--threads", default=2, show_default=True, help="TensorFlow threads.")
@click.option("--layout", type=click.Choice(sorted(LAYOUTS)), help="A published set instead: see layouts.py.")
@click.option("--no-backbone", is_flag=True, help="With --layout: a small network without pretrained weights.")
def main(
    data: Path,
    out: Path,
    backbone: Path | None,
    bundle: Path | None,
    version: str,
    steps: int,
    threads: int,
    layout: str | None,
    no_backbone: bool,
) -> None:
    """Train the folds and the final network (those not yet in OUT), measure, write the bundle.

    With --layout a model of that set's labels is trained and measured instead; it becomes no bundle by itself.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    if layout:
        chosen = MultiRecipe(steps=steps)
        start_tensorflow(chosen.seed, threads)
        pretrained = None if no_backbone else backbone or data.parent / "weights" / _BACKBONE
        click.echo(json.dumps(train_layout(layout, data, out, pretrained, chosen), indent=2))
        return
    recipe = Recipe(steps=steps)
    start_tensorflow(recipe.seed, threads)
    backbone = backbone or data.parent / "weights" / _BACKBONE
    train_folds(data, backbone, out, recipe, [*range(FOLDS), None])
    radiographs = read_radiographs(data)
    folds = fold_of_patients(radiographs, FOLDS, recipe.seed)
    gate = to_lite(gate_network(backbone))
    statistics, refused = gate_statistics(radiographs, folds, data, gate, recipe.seed)

    def features(grids: list[Any]) -> Any:
        return np.asarray(read_features(gate, grids).distance)

    metrics, rule = evaluate(held_out_scores(evaluated(radiographs), folds, out), features)
    metrics |= {"folds": FOLDS, "steps": recipe.steps, "seed": recipe.seed, "gate": refused}
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2))
    weights = to_lite(load_network(network_path(out, None)))
    parts = {"weights.tflite": weights, "gate.tflite": gate, "gate.npz": packed(statistics)}
    write_bundle(bundle or out / "bundle", version, parts, metrics, rule)


if __name__ == "__main__":
    main()

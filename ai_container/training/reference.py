"""Write a bundle's ``reference.json``: what its scores, gate and images look like on the training images.

``python -m ai_container.training.reference --data DIR`` runs the bundle as it is served over adult frontal radiographs
and counts by `ai_container.drift`. The weights are not touched; ``model.yaml`` gets the file's hash.

The images are those of the training set, and a network is surer on what it has seen: the reference's scores lie a
little further apart than those of new patients from the same source would, so a small index is no proof of drift.
"""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import click
import yaml

from ai_container.bundle import load_bundle
from ai_container.drift import Counts
from ai_container.header_facts import ImageFacts
from ai_container.image_analysis import Model, Timings
from ai_container.preprocess import prepare_display
from ai_container.study_analysis import ImageMeasure
from ai_container.training.radiographs import read_radiographs

__all__ = ["write_reference"]

_FACTS = ImageFacts(modality="DX", body_part="chest", view="frontal", age_years=50)
_MOST_PIXELS = 100_000_000


def write_reference(folder: Path, images: list[Path]) -> Counts:
    """Count a bundle's measures over images and keep them in its folder."""
    model = Model(load_bundle(folder))
    counts = Counts()
    for path in images:
        prepared = prepare_display(path.read_bytes(), _MOST_PIXELS)
        outcome = model.score(prepared, _FACTS, Timings())
        counts.add(
            ImageMeasure(
                outcome.reason,
                tuple((score.output.key, score.probability) for score in outcome.scores),
                float(prepared.grid.mean()),
                float(prepared.grid.std()),
                float(outcome.gate.get("distance", 0.0)),
            )
        )
    content = (json.dumps(counts.as_json(), indent=1, sort_keys=True) + "\n").encode()
    (folder / "reference.json").write_bytes(content)
    described = folder / "model.yaml"
    description = yaml.safe_load(described.read_text("utf-8"))
    description["files"]["reference.json"] = hashlib.sha256(content).hexdigest()
    described.write_text(yaml.safe_dump(description, sort_keys=False, allow_unicode=True, width=110), "utf-8")
    return counts


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True, help="Folder with manifest.csv.")
@click.option("--bundle", type=click.Path(path_type=Path, exists=True), required=True, help="The bundle's folder.")
@click.option("--images", default=1000, show_default=True, help="Images at most.")
def main(data: Path, bundle: Path, images: int) -> None:
    """Write what the bundle's scores and images look like on the training images."""
    adults = [
        item for item in read_radiographs(data) if item.adult and item.dataset in ("nih_chestxray14", "rsna_normal")
    ]
    random.Random(7).shuffle(adults)  # noqa: S311 a reproducible choice, nothing secret
    counts = write_reference(bundle, [item.path for item in adults[:images]])
    click.echo(f"{counts.images} images")


if __name__ == "__main__":
    main()

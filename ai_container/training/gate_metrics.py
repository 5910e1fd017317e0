"""What the input gate does to images of many kinds: refuse, correct, let pass.

``python -m ai_container.training.gate_metrics --data DIR`` measures the gate as it is served, corrections included, on
images that the gate was not fitted to. Ages are kept from it here, so that the table says what the *pixels* tell of a
child; the header's age refuses every child by rule.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from ai_container.bundle import load_bundle
from ai_container.gate import (
    POSES,
    PixelGate,
    Verdict,
    confirms,
    may_be_corrected,
    refuse_by_pixels,
    straightened,
)
from ai_container.header_facts import ImageFacts
from ai_container.preprocess import SIDE, harmonise
from ai_container.registry import version_key
from ai_container.training.gate_fit import turned
from ai_container.training.gate_report import FITTED, noise, not_chest
from ai_container.training.radiographs import ADULT_YEARS, Radiograph, read_grid, read_radiographs

__all__ = ["GateRow", "gate_rows", "table"]

_PACKAGED = Path(__file__).parents[1] / "bundles"
_CERTAIN = ImageFacts(modality="DX", body_part="chest", view="frontal", age_years=40)
_OPEN = ImageFacts(modality="DX", age_years=40)
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class GateRow:
    """What became of images of one kind.

    Parameters
    ----------
    refused, refused_open : float
        Share refused where the header names chest and frontal view, and where it names neither.
    corrected : float
        Share straightened and then let pass (header certain).
    wrong : float
        Share straightened by a pose in which they did not lie: never to happen.
    """

    images: int
    refused: float
    refused_open: float
    corrected: float
    wrong: float


def _outcome(gate: PixelGate, grid: Floats, facts: ImageFacts) -> tuple[str, str]:
    """Return (reason, pose that was corrected), as `ai_container.image_analysis.Model.score` has it."""
    verdict: Verdict = gate.judge(grid)
    if may_be_corrected(verdict, facts):
        again = gate.judge(straightened(grid, verdict.pose))
        if confirms(again):
            return refuse_by_pixels(again, facts), verdict.pose
    return refuse_by_pixels(verdict, facts), ""


def _row(gate: PixelGate, grids: Sequence[Floats], pose: str) -> GateRow:
    certain = [_outcome(gate, grid, _CERTAIN) for grid in grids]
    open_ = [_outcome(gate, grid, _OPEN) for grid in grids]
    return GateRow(
        images=len(grids),
        refused=_share([bool(reason) for reason, _ in certain]),
        refused_open=_share([bool(reason) for reason, _ in open_]),
        corrected=_share([bool(corrected) and not reason for reason, corrected in certain]),
        wrong=_share([corrected not in ("", pose) for _, corrected in (*certain, *open_)]),
    )


def _share(hits: Sequence[bool]) -> float:
    return round(float(np.mean(hits)), 4) if hits else float("nan")


def _cropped(grid: Floats, part: str) -> Floats:
    """Return one half of an image at full size: a radiograph that was cut before it was sent."""
    half = SIDE // 2
    cut = grid[:half] if part == "upper" else grid[half:] if part == "lower" else grid[:, :half]
    return harmonise(np.repeat(np.repeat(cut, SIDE // cut.shape[0], 0), SIDE // cut.shape[1], 1))


def gate_rows(folder: Path, data: Path, each: int, seed: int = 20241) -> dict[str, GateRow]:
    """Measure the gate of a bundle.

    Parameters
    ----------
    folder : Path
        The bundle's.
    data : Path
        Folder with ``manifest.csv``; see `ai_container.training.radiographs`.
    each : int
        Images of each kind at most.
    """
    bundle = load_bundle(folder)
    gate = PixelGate(bundle.gate_network, bundle.gate_statistics, interpreters=1)
    radiographs = read_radiographs(data)
    draw = random.Random(seed)  # noqa: S311 a reproducible choice, nothing secret
    adults = [item for item in radiographs if item.adult and item.dataset in ("nih_chestxray14", "rsna_normal")]
    draw.shuffle(adults)
    fitted = {item.patient for item in adults[:FITTED]}
    held = [item for item in adults[FITTED:] if item.patient not in fitted][:each]
    upright = [read_grid(item.path) for item in held]
    rows = {
        ("adult frontal" if pose == "upright" else f"adult, {pose}"): _row(
            gate, [turned(grid, pose) for grid in upright], pose
        )
        for pose in POSES
    }
    for part in ("upper", "lower", "left"):
        rows[f"adult, {part} half only"] = _row(gate, [_cropped(grid, part) for grid in upright], "upright")
    others = {
        "adult, another hospital": _of(radiographs, each, dataset="hannover_covid"),
        "child of 1 to 5 years, another hospital": _of(radiographs, each, dataset="kermany_pediatric"),
        "child under 10 years, same sources": _children(radiographs, each, 0, 10),
        "child of 10 to 15 years, same sources": _children(radiographs, each, 10, ADULT_YEARS),
    }
    for name, items in others.items():
        rows[name] = _row(gate, [read_grid(item.path) for item in items], "upright")
    rows["not a chest"] = _row(gate, [read_grid(path) for path in not_chest(data, draw)[:: max(1, 466 // each)]], "")
    rows["noise"] = _row(gate, noise(), "")
    return rows


def _of(radiographs: Sequence[Radiograph], each: int, dataset: str) -> list[Radiograph]:
    found = [item for item in radiographs if item.dataset == dataset]
    return found[:: max(1, len(found) // each)][:each]


def _children(radiographs: Sequence[Radiograph], each: int, least: int, below: int) -> list[Radiograph]:
    sources = ("nih_chestxray14", "rsna_normal")
    return [
        item for item in radiographs if item.dataset in sources and item.age is not None and least <= item.age < below
    ][:each]


def table(rows: dict[str, GateRow]) -> str:
    """Return the measures as a Markdown table."""
    lines = [
        "| images | n | refused, header certain | refused, header open | corrected | wrongly corrected |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        shares = (row.refused, row.refused_open, row.corrected, row.wrong)
        lines.append(f"| {name} | {row.images} | " + " | ".join(f"{share:.3f}" for share in shares) + " |")
    return "\n".join(lines)


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True, help="Folder with manifest.csv.")
@click.option("--bundle", type=click.Path(path_type=Path, exists=True), help="Default: the newest chest-opacity here.")
@click.option("--each", default=150, show_default=True, help="Images of each kind at most.")
@click.option("--json", "as_json", is_flag=True, help="Numbers instead of a table.")
def main(data: Path, bundle: Path | None, each: int, as_json: bool) -> None:
    """Measure the input gate on images that it was not fitted to."""
    versions = sorted((_PACKAGED / "chest-opacity").iterdir(), key=lambda path: version_key(path.name))
    rows = gate_rows(bundle or versions[-1], data, each)
    shown = json.dumps({name: asdict(row) for name, row in rows.items()}, indent=1) if as_json else table(rows)
    sys.stdout.write(shown + "\n")


if __name__ == "__main__":
    main()

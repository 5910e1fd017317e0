from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

import ai_container
from ai_container.bundle import load_bundle
from ai_container.header_facts import ImageFacts
from ai_container.registry import Registry
from imaging_core.errors import Permanent

FOLDERS = sorted(path.parent for path in (Path(ai_container.__file__).parent / "bundles").glob("*/*/model.yaml"))
ADULT = ImageFacts(modality="DX", body_part="chest", view="frontal", age_years=50)


@pytest.fixture(params=FOLDERS, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


def test_there_is_a_bundle() -> None:
    assert FOLDERS


def test_metrics_belong_to_the_weights(folder: Path) -> None:
    digest = hashlib.sha256((folder / "weights.tflite").read_bytes()).hexdigest()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["weights_sha256"] == digest
    assert load_bundle(folder).sha256 == digest


def test_size(folder: Path) -> None:
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 20 * 1024 * 1024


def test_the_card_says_what_was_measured_and_what_was_missed(folder: Path) -> None:
    card = (folder / "MODEL_CARD.md").read_text("utf-8")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert "$" not in card
    assert f"{metrics['opacity_vs_not_normal']['value']:.3f}" in card
    assert f"{metrics['localisation']['pointing_prior']['value']:.3f}" in card
    for line in (line for line in card.splitlines() if "| ≥ 0.80 |" in line):
        assert ("missed" in line) == (metrics["opacity_vs_not_normal"]["value"] < 0.80)
    assert "not a certified medical device" in card


def test_both_languages_and_codes(folder: Path) -> None:
    bundle = load_bundle(folder)
    for text in (bundle.title, bundle.summary, *bundle.not_assessed, *(output.text for output in bundle.outputs)):
        assert text.en
        assert text.fr
    for output in bundle.outputs:
        assert output.system == "http://snomed.info/sct"
        assert re.fullmatch(r"\d{6,18}", output.code)
        assert 0 < output.rule.low <= output.rule.threshold <= output.rule.high < 1


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    target = tmp_path / "chest-opacity" / "9.9.9"
    shutil.copytree(FOLDERS[-1], target)
    return target


def _describe(folder: Path, **changes: object) -> None:
    description = yaml.safe_load((folder / "model.yaml").read_text("utf-8"))
    (folder / "model.yaml").write_text(yaml.safe_dump({**description, **changes}), encoding="utf-8")


@pytest.mark.parametrize("name", ["weights.tflite", "gate.tflite", "gate.npz", "metrics.json"])
def test_a_changed_file_is_refused(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[-1] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(Permanent, match=r"not the file that model\.yaml names"):
        load_bundle(copy)


def test_a_missing_file_and_a_path_out_of_the_bundle_are_refused(copy: Path) -> None:
    _describe(copy, files={"../../../etc/hostname": "0"})
    with pytest.raises(Permanent, match="no file of the bundle"):
        load_bundle(copy)
    (copy / "model.yaml").unlink()
    with pytest.raises(Permanent, match="bad-setting"):
        load_bundle(copy)


def test_the_newest_version_that_is_not_for_research_is_active(copy: Path) -> None:
    _describe(copy, version="9.9.9")
    first, second = load_bundle(FOLDERS[-1]), load_bundle(copy)
    registry = Registry([second, first])
    assert registry.is_active(second)
    assert registry.pick(ADULT) is second
    assert registry.get(first.reference) is first
    _describe(copy, version="9.9.9", research=True)
    assert Registry([first, load_bundle(copy)]).pick(ADULT) is first


def test_unknown_and_doubled_models_are_refused(copy: Path) -> None:
    bundle = load_bundle(FOLDERS[-1])
    with pytest.raises(Permanent, match="two model bundles"):
        Registry([bundle, bundle])
    with pytest.raises(Permanent, match="not-found"):
        Registry([bundle]).get("chest-opacity:0.0.1")


@pytest.mark.requirement("R3")
@pytest.mark.parametrize(
    ("facts", "found"),
    [
        (ADULT, True),
        (ImageFacts(modality="CR"), True),  # nothing else known: the gate decides
        (ImageFacts(modality="DX", body_part="chest", age_years=4), True),  # refused with the reason "child"
        (ImageFacts(modality="DX", body_part="other"), False),
        (ImageFacts(modality="MR", body_part="chest"), False),
    ],
)
def test_pick(registry: Registry, facts: ImageFacts, found: bool) -> None:
    assert (registry.pick(facts) is not None) is found

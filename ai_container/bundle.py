"""A model bundle: a folder with weights, ``model.yaml``, ``metrics.json`` and ``MODEL_CARD.md``, held by hashes.

``model.yaml`` is parsed once, into frozen values; a bundle whose files are not those it names does not load.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ai_container.calibration import DecisionRule
from ai_container.chest_findings import CHESTXRAY14
from imaging_core.errors import Permanent

__all__ = ["Bundle", "Localised", "Output", "Scope", "load_bundle"]


@dataclass(frozen=True)
class Localised:
    """A text in the two languages of the system."""

    en: str
    fr: str


@dataclass(frozen=True)
class Scope:
    """The examinations that a model was made for.

    Parameters
    ----------
    modalities, body_parts, views : frozenset of str
        As `ai_container.header_facts` names them.
    least_age, most_age : float
        Years; the age must be at least the first and less than the second.
    """

    modalities: frozenset[str]
    body_parts: frozenset[str]
    views: frozenset[str]
    least_age: float
    most_age: float


@dataclass(frozen=True)
class Output:
    """One finding of a model.

    Parameters
    ----------
    key : str
        Short name.
    system, code, display : str
        The finding's code.
    body_site, body_site_display : str
        SNOMED CT.
    rule : DecisionRule
        Calibration and decision.
    covers : tuple of str
        Labels of ChestX-ray14 that this finding stands for; see `ai_container.chest_findings`.
    """

    key: str
    system: str
    code: str
    display: str
    text: Localised
    body_site: str
    body_site_display: str
    rule: DecisionRule
    covers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bundle:
    """A model that can be served.

    Parameters
    ----------
    folder : Path
        Where it was loaded from.
    name, version, task : str
        ``name:version`` is unique in a registry.
    weights, gate_network, gate_statistics : bytes
        ``weights.tflite``, ``gate.tflite``, ``gate.npz``.
    sha256 : str
        Of the weights.
    not_assessed : tuple of Localised
        Findings that this model says nothing about.
    research : bool
        Not meant for a report without a person's request.
    description : mapping
        The whole of ``model.yaml``.
    training_reference : mapping
        ``reference.json``: what scores, gate and images looked like on the training images; empty where it is not
        given, and then no drift can be told.
    """

    folder: Path
    name: str
    version: str
    task: str
    title: Localised
    summary: Localised
    manufacturer: str
    scope: Scope
    outputs: tuple[Output, ...]
    not_assessed: tuple[Localised, ...]
    research: bool
    sha256: str
    weights: bytes
    gate_network: bytes
    gate_statistics: bytes
    description: Mapping[str, Any]
    training_reference: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reference(self) -> str:
        """``name:version``."""
        return f"{self.name}:{self.version}"


def _localised(value: Mapping[str, str]) -> Localised:
    return Localised(str(value["en"]), str(value["fr"]))


def _output(value: Mapping[str, Any]) -> Output:
    return Output(
        key=str(value["key"]),
        system=str(value["system"]),
        code=str(value["code"]),
        display=str(value["display"]),
        text=_localised(value["text"]),
        body_site=str(value["body_site"]["code"]),
        body_site_display=str(value["body_site"]["display"]),
        rule=DecisionRule(
            scale=float(value["calibration"]["scale"]),
            offset=float(value["calibration"]["offset"]),
            threshold=float(value["threshold"]),
            low=float(value["abstention"]["low"]),
            high=float(value["abstention"]["high"]),
        ),
        covers=_labels(value.get("covers", ())),
    )


def _labels(value: Sequence[Any]) -> tuple[str, ...]:
    found = tuple(str(item) for item in value)
    unknown = sorted(set(found) - set(CHESTXRAY14))
    if unknown:
        raise ValueError(f"covers: not a label of ChestX-ray14: {', '.join(unknown)}")
    return found


def _scope(value: Mapping[str, Any]) -> Scope:
    return Scope(
        modalities=frozenset(value["modalities"]),
        body_parts=frozenset(value["body_parts"]),
        views=frozenset(value["views"]),
        least_age=float(value["age_years"]["least"]),
        most_age=float(value["age_years"]["below"]),
    )


def load_bundle(folder: Path) -> Bundle:
    """Read and check a bundle.

    Raises
    ------
    Permanent
        ``model-hash-mismatch``: a file is not the one that ``model.yaml`` names; ``bad-setting``: a file is missing, or
        the description can't be used.
    """
    try:
        description = yaml.safe_load((folder / "model.yaml").read_text("utf-8"))
        contents = {}
        for name, expected in description["files"].items():
            if Path(name).name != name:
                raise Permanent("bad-setting", f"model bundle {folder.name}: {name!r} is no file of the bundle")
            contents[name] = (folder / name).read_bytes()
            if hashlib.sha256(contents[name]).hexdigest() != expected:
                raise Permanent(
                    "model-hash-mismatch", f"model bundle {folder.name}: {name} is not the file that model.yaml names"
                )
        return Bundle(
            folder=folder,
            name=str(description["name"]),
            version=str(description["version"]),
            task=str(description["task"]),
            title=_localised(description["title"]),
            summary=_localised(description["summary"]),
            manufacturer=str(description["manufacturer"]),
            scope=_scope(description["scope"]),
            outputs=tuple(_output(item) for item in description["outputs"]),
            not_assessed=tuple(_localised(item) for item in description["not_assessed"]),
            research=bool(description["research"]),
            sha256=str(description["files"]["weights.tflite"]),
            weights=contents["weights.tflite"],
            gate_network=contents["gate.tflite"],
            gate_statistics=contents["gate.npz"],
            description=description,
            training_reference=json.loads(contents.get("reference.json", b"{}")),
        )
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise Permanent("bad-setting", f"model bundle {folder.name}: {type(error).__name__}: {error}") from error

"""What models say of a study: parsed values, and how those of its images become the study's.

The study's probability is the largest calibrated one of its images, and its state follows from that (R2). An image
that no model was made for is named with the reason, and gives no finding (R3).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ai_container.bundle import Bundle, Localised, Output
from ai_container.chest_findings import CHESTXRAY14, uncovered
from ai_container.header_facts import ImageFacts
from ai_container.image_analysis import ImageScore
from ai_container.preprocess import ModelInput

__all__ = [
    "AnalysedImage",
    "Collected",
    "ImageMeasure",
    "InstanceRef",
    "KeyImage",
    "StudyAnalysis",
    "StudyFinding",
    "with_not_assessed",
]


@dataclass(frozen=True)
class InstanceRef:
    """An instance of the request: its UID and the name of its blob in container ``images``."""

    sop_uid: str
    blob: str


@dataclass(frozen=True)
class AnalysedImage:
    """An instance that was read.

    Parameters
    ----------
    reason : str
        Why it gave no finding; empty: it did.
    rows, columns : int
        0 where the pixels were not read.
    corrected : str
        Pose from which it was straightened before it was analysed; empty: it lay upright.
    sop_class_uid : str
        SOPClassUID.
    header : mapping
        DICOM JSON model, without pixels: what objects of the same study are made from.
    """

    sop_uid: str
    series_uid: str
    blob: str
    sha256: str
    rows: int
    columns: int
    reason: str
    corrected: str = ""
    sop_class_uid: str = ""
    header: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class KeyImage:
    """The image with the largest probability, and what was seen on it."""

    sop_uid: str
    score: ImageScore
    prepared: ModelInput


@dataclass(frozen=True)
class StudyFinding:
    """One finding of the study, with the probability of each image (SOP UID, probability)."""

    output: Output
    probability: float
    per_image: tuple[tuple[str, float], ...]

    @property
    def state(self) -> str:
        """``present``, ``absent`` or ``indeterminate``."""
        return self.output.rule.state(self.probability)


@dataclass(frozen=True)
class ImageMeasure:
    """What drift is told by: of one image that came as far as the pixel gate.

    Parameters
    ----------
    reason : str
        The gate's; empty: it passed.
    probabilities : tuple of (finding, probability)
        Empty where the gate refused.
    brightness, contrast : float
        Mean and standard deviation of the prepared image.
    distance : float
        The gate's; see `ai_container.gate.Verdict`.
    """

    reason: str
    probabilities: tuple[tuple[str, float], ...]
    brightness: float
    contrast: float
    distance: float


@dataclass(frozen=True)
class StudyAnalysis:
    """What one model says of one study.

    Parameters
    ----------
    bundle : Bundle or None
        None: no model was there for any image.
    images : tuple of AnalysedImage
        Instances that were read.
    not_analysed : tuple of (SOP UID, reason)
        Also of those that did not have to be read.
    modalities : frozenset of str
        Of the images that a model was there for.
    acquired, portable
        Of the first analysed image; see `ImageFacts`.
    not_assessed : tuple of Localised
        Findings that no model of the study looked for.
    assumed_adult : bool
        An age could not be had, and the site's setting ASSUME_ADULT stood in for it.
    measures : tuple of ImageMeasure
        For drift.
    """

    study_uid: str
    bundle: Bundle | None
    findings: tuple[StudyFinding, ...]
    images: tuple[AnalysedImage, ...]
    not_analysed: tuple[tuple[str, str], ...]
    key_image: KeyImage | None
    modalities: frozenset[str] = frozenset()
    acquired: str = ""
    portable: bool = False
    not_assessed: tuple[Localised, ...] = ()
    assumed_adult: bool = False
    measures: tuple[ImageMeasure, ...] = ()


@dataclass
class Collected:
    """What gathers over the images of a study for one model."""

    bundle: Bundle | None
    images: list[AnalysedImage] = field(default_factory=list)
    not_analysed: list[tuple[str, str]] = field(default_factory=list)
    scores: list[tuple[str, tuple[ImageScore, ...]]] = field(default_factory=list)
    facts: list[ImageFacts] = field(default_factory=list)
    measures: list[ImageMeasure] = field(default_factory=list)
    key_image: KeyImage | None = None
    assumed_adult: bool = False

    def add_scores(self, sop_uid: str, scores: tuple[ImageScore, ...], prepared: ModelInput) -> None:
        """Take an image's scores; the strongest against its own threshold becomes the key image."""
        self.scores.append((sop_uid, scores))
        strongest = max(scores, key=_weight)
        if self.key_image is None or _weight(strongest) > _weight(self.key_image.score):
            self.key_image = KeyImage(sop_uid, strongest, prepared)

    def concluded(self, study_uid: str) -> StudyAnalysis:
        """Return what follows for the study."""
        findings = []
        for place, output in enumerate(self.bundle.outputs if self.bundle and self.scores else ()):
            per_image = tuple((sop_uid, scores[place].probability) for sop_uid, scores in self.scores)
            findings.append(StudyFinding(output, max(probability for _, probability in per_image), per_image))
        return StudyAnalysis(
            study_uid=study_uid,
            bundle=self.bundle,
            findings=tuple(findings),
            images=tuple(self.images),
            not_analysed=tuple(self.not_analysed),
            key_image=self.key_image,
            modalities=frozenset(facts.modality for facts in self.facts),
            acquired=next((facts.acquired for facts in self.facts if facts.acquired), ""),
            portable=any(facts.portable for facts in self.facts),
            assumed_adult=self.assumed_adult,
            measures=tuple(self.measures),
        )


def _weight(score: ImageScore) -> float:
    """Return the probability in units of its threshold: of one finding it orders as the probability does."""
    return score.probability / max(score.output.rule.threshold, 1e-6)


def with_not_assessed(analyses: Iterable[StudyAnalysis]) -> tuple[StudyAnalysis, ...]:
    """Return the analyses of one study, each with the chest findings that none of them looked for.

    A model whose gate refused the study's images has looked for nothing. A bundle that does not say which labels its
    findings cover is believed in what it lists itself.
    """
    found = tuple(analyses)
    covered = {label for item in found for finding in item.findings for label in finding.output.covers}
    told = tuple(Localised(*CHESTXRAY14[label]) for label in uncovered(covered))
    result = []
    for item in found:
        if item.bundle is None or "chest" not in item.bundle.scope.body_parts:
            result.append(item if item.bundle is None else replace(item, not_assessed=item.bundle.not_assessed))
        elif item.findings and not any(finding.output.covers for finding in item.findings):
            result.append(replace(item, not_assessed=item.bundle.not_assessed))
        else:
            result.append(replace(item, not_assessed=told))
    return tuple(result)

"""One study through the models: which images are looked at, by which model, and what follows for the study.

The study's probability is the largest calibrated one of its images, and its state follows from that (R2). An image
that no model was made for is named with the reason, and gives no finding (R3).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ai_container.bundle import Bundle, Output
from ai_container.header_facts import ImageFacts, read_facts
from ai_container.image_analysis import ImageScore, Model, Timings
from ai_container.metrics import ANALYSED_IMAGES
from ai_container.preprocess import ModelInput, prepare_dicom
from ai_container.registry import Registry
from imaging_core.dicom.child import DecodePool
from imaging_core.dicom.header import DicomHeader
from imaging_core.errors import Permanent, Rejected

__all__ = ["AnalysedImage", "Analyser", "InstanceRef", "KeyImage", "StudyAnalysis", "StudyFinding"]


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
    """

    sop_uid: str
    series_uid: str
    blob: str
    sha256: str
    rows: int
    columns: int
    reason: str


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


@dataclass
class _Collected:
    """What gathers over the images of a study."""

    images: list[AnalysedImage] = field(default_factory=list)
    not_analysed: list[tuple[str, str]] = field(default_factory=list)
    scores: list[tuple[str, ImageScore]] = field(default_factory=list)
    facts: list[ImageFacts] = field(default_factory=list)
    bundle: Bundle | None = None
    key_image: KeyImage | None = None


class Analyser:
    """The models at hand and the children that decode.

    Parameters
    ----------
    registry : Registry
        Bundles; every one is loaded at once.
    pool : DecodePool
        Where untrusted bytes are read.
    assume_adult : bool
        Setting ASSUME_ADULT.
    """

    def __init__(self, registry: Registry, pool: DecodePool, assume_adult: bool = False) -> None:
        self.registry = registry
        self._pool = pool
        self._assume_adult = assume_adult
        self._models = {bundle.reference: Model(bundle) for bundle in registry.all()}

    def warm_up(self) -> None:
        """Start the children and run every network once."""
        self._pool.warm_up()
        for model in self._models.values():
            model.warm_up()

    def study(
        self,
        study_uid: str,
        instances: Sequence[InstanceRef],
        read: Callable[[str], bytes],
        model: str | None,
        modalities: Mapping[str, str],
        timings: Timings,
    ) -> StudyAnalysis:
        """Analyse a study.

        Parameters
        ----------
        study_uid : str
            StudyInstanceUID; an instance of another study is refused.
        instances : sequence of InstanceRef
            In any order, each once.
        read : callable
            Returns the bytes of a blob.
        model : str or None
            ``name:version``; None: the active one for each image.
        modalities : mapping of str to str
            Modality by SOP UID, as far as known: what no model takes is not even read.
        timings : Timings
            Added to.

        Raises
        ------
        Permanent
            ``not-found``: no such model; ``uid-mismatch``: a blob holds another instance.
        """
        chosen = self.registry.get(model) if model else None
        taken = {m for bundle in ([chosen] if chosen else self.registry.active()) for m in bundle.scope.modalities}
        collected = _Collected()
        for instance in sorted(instances, key=lambda item: item.sop_uid):
            modality = modalities.get(instance.sop_uid)
            if modality is not None and modality not in taken:
                collected.not_analysed.append((instance.sop_uid, "no-model"))
                continue
            now = time.perf_counter()
            data = read(instance.blob)
            timings.measure("read", now)
            self._instance(study_uid, instance, data, chosen, collected, timings)
        for _, reason in collected.not_analysed:
            ANALYSED_IMAGES.labels(outcome=reason).inc()
        for _ in collected.scores:
            ANALYSED_IMAGES.labels(outcome="analysed").inc()
        return _conclude(study_uid, collected)

    def _instance(
        self,
        study_uid: str,
        instance: InstanceRef,
        data: bytes,
        chosen: Bundle | None,
        collected: _Collected,
        timings: Timings,
    ) -> None:
        now = time.perf_counter()
        try:
            header = self._pool.header(data)
        except Rejected:
            collected.not_analysed.append((instance.sop_uid, "pixels-unreadable"))
            return
        timings.measure("header", now)
        if header.study_uid != study_uid or header.sop_uid != instance.sop_uid:
            raise Permanent("uid-mismatch", "the blob holds another instance than the request says")
        facts = read_facts(header.attributes)
        if header.own:
            collected.not_analysed.append((instance.sop_uid, "no-model"))
            return
        bundle = chosen or self.registry.pick(facts)
        reason, prepared, score = "no-model", None, None
        if bundle is not None:
            try:
                reason, prepared, score = self._look(bundle, facts, data, prepare_dicom, (), timings)
            except Rejected as error:
                reason = "no-pixels" if error.code == "no-pixels" else "pixels-unreadable"
        if bundle is not None and reason != "no-model":
            collected.bundle = collected.bundle or bundle
            collected.facts.append(facts)
        collected.images.append(_image(instance, header, data, prepared, reason))
        if reason:
            collected.not_analysed.append((instance.sop_uid, reason))
        if score is not None and prepared is not None:
            collected.scores.append((instance.sop_uid, score))
            if collected.key_image is None or score.probability > collected.key_image.score.probability:
                collected.key_image = KeyImage(instance.sop_uid, score, prepared)

    def _look(
        self,
        bundle: Bundle,
        facts: ImageFacts,
        data: bytes,
        prepare: Callable[..., ModelInput],
        arguments: tuple[object, ...],
        timings: Timings,
    ) -> tuple[str, ModelInput | None, ImageScore | None]:
        """Return (reason, prepared image, score); the reason is empty where there is a score."""
        model = self._models[bundle.reference]
        reason = model.refuse_by_header(facts, self._assume_adult)
        if reason:
            return reason, None, None
        now = time.perf_counter()
        prepared = self._pool.run(prepare, data, *arguments)
        timings.measure("decode", now)
        outcome = model.score(prepared, facts, timings)
        if outcome.reason:
            return outcome.reason, prepared, None
        return "", prepared, outcome.scores[0]

    def one(
        self,
        data: bytes,
        facts: ImageFacts | None,
        prepare: Callable[..., ModelInput],
        arguments: tuple[object, ...],
        model: str | None,
        timings: Timings,
    ) -> StudyAnalysis:
        """Analyse one image that belongs to no registered study: ``facts`` None reads them from the DICOM header.

        Raises
        ------
        Permanent
            ``not-found``: no such model.
        Rejected
            The bytes can't be read.
        """
        sop_uid = ""
        if facts is None:
            header = self._pool.header(data)
            facts, sop_uid = read_facts(header.attributes), header.sop_uid
        bundle = self.registry.get(model) if model else self.registry.pick(facts)
        if bundle is None:
            return StudyAnalysis("", None, (), (), ((sop_uid, "no-model"),), None)
        reason, prepared, score = self._look(bundle, facts, data, prepare, arguments, timings)
        collected = _Collected(bundle=bundle)
        if reason:
            collected.not_analysed.append((sop_uid, reason))
        if score is not None and prepared is not None:
            collected.scores.append((sop_uid, score))
            collected.key_image = KeyImage(sop_uid, score, prepared)
        return _conclude("", collected)


def _image(
    instance: InstanceRef, header: DicomHeader, data: bytes, prepared: ModelInput | None, reason: str
) -> AnalysedImage:
    return AnalysedImage(
        sop_uid=instance.sop_uid,
        series_uid=header.series_uid,
        blob=instance.blob,
        sha256=hashlib.sha256(data).hexdigest(),
        rows=prepared.rows if prepared else 0,
        columns=prepared.columns if prepared else 0,
        reason=reason,
    )


def _conclude(study_uid: str, collected: _Collected) -> StudyAnalysis:
    findings = []
    if collected.scores:
        per_image = tuple((sop_uid, score.probability) for sop_uid, score in collected.scores)
        largest = max(probability for _, probability in per_image)
        findings.append(StudyFinding(collected.scores[0][1].output, largest, per_image))
    return StudyAnalysis(
        study_uid=study_uid,
        bundle=collected.bundle,
        findings=tuple(findings),
        images=tuple(collected.images),
        not_analysed=tuple(collected.not_analysed),
        key_image=collected.key_image,
        modalities=frozenset(facts.modality for facts in collected.facts),
        acquired=next((facts.acquired for facts in collected.facts if facts.acquired), ""),
        portable=any(facts.portable for facts in collected.facts),
    )

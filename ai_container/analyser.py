"""One study through the models: which images are read, which models look at each, and what follows for the study."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from ai_container.admission import Deadline
from ai_container.bundle import Bundle, Scope
from ai_container.header_facts import ImageFacts
from ai_container.image_analysis import ImageOutcome, Model, Timings
from ai_container.instance_reading import InstanceReading, prepare_picture, read_instance
from ai_container.metrics import ANALYSED_IMAGES
from ai_container.preprocess import ModelInput
from ai_container.registry import Registry, Route
from ai_container.shared_bytes import shared
from ai_container.study_analysis import (
    AnalysedImage,
    Collected,
    ImageMeasure,
    InstanceRef,
    StudyAnalysis,
    with_not_assessed,
)
from imaging_core.dicom.child import DecodePool
from imaging_core.dicom.header import HeaderLimits
from imaging_core.errors import Permanent, Rejected

__all__ = ["Analyser", "Source", "StudyResult"]

_NO_DEADLINE = 24 * 3600.0


@dataclass(frozen=True)
class Source:
    """Where instances come from.

    Parameters
    ----------
    read : callable
        Returns the bytes of a blob.
    held : callable
        Opens a context in which the blob's bytes may be held; it waits until they fit (`ByteBudget`).
    """

    read: Callable[[str], bytes]
    held: Callable[[str], AbstractContextManager[None]] = lambda _: nullcontext()


@dataclass(frozen=True)
class StudyResult:
    """What the models say of a study.

    Parameters
    ----------
    analyses : tuple of StudyAnalysis
        One per task, those with findings first; at least one, without a bundle where no model was there.
    shadows : tuple of StudyAnalysis
        What the models that are not published say.
    """

    analyses: tuple[StudyAnalysis, ...]
    shadows: tuple[StudyAnalysis, ...] = ()


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
    limits : HeaderLimits, optional
        Bounds of a header.
    models : mapping of str to Model
        Loaded already, by reference: taken over.
    interpreters, largest_batch : int
        See `LiteModel`.
    """

    def __init__(
        self,
        registry: Registry,
        pool: DecodePool,
        assume_adult: bool = False,
        *,
        limits: HeaderLimits | None = None,
        models: Mapping[str, Model] | None = None,
        interpreters: int = 2,
        largest_batch: int = 1,
    ) -> None:
        self.registry = registry
        self._pool = pool
        self._assume_adult = assume_adult
        self._limits = limits or HeaderLimits()
        self._hashing = ThreadPoolExecutor(2, "hash")
        loaded = models or {}
        self._fresh: list[Model] = []
        self.models: dict[str, Model] = {}
        for bundle in registry.all():
            model = loaded.get(bundle.reference)
            if model is None or model.bundle.sha256 != bundle.sha256:
                model = _loaded(bundle, interpreters, largest_batch)
                self._fresh.append(model)
            self.models[bundle.reference] = model

    def warm_up(self) -> None:
        """Start the children and run every network that is new once."""
        self._pool.warm_up()
        for model in self._fresh:
            model.warm_up()
        self._fresh.clear()

    def study(
        self,
        study_uid: str,
        instances: Sequence[InstanceRef],
        source: Source,
        model: str | None,
        modalities: Mapping[str, str],
        timings: Timings,
        deadline: Deadline | None = None,
    ) -> StudyResult:
        """Analyse a study.

        Parameters
        ----------
        study_uid : str
            StudyInstanceUID; an instance of another study is refused.
        instances : sequence of InstanceRef
            In any order, each once.
        source : Source
            Where their bytes come from.
        model : str or None
            ``name:version``; None: those that are active for each image, and their shadows.
        modalities : mapping of str to str
            Modality by SOP UID, as far as known: what no model takes is not even read.
        timings : Timings
            Added to.
        deadline : Deadline, optional
            Asked before each instance.

        Raises
        ------
        Permanent
            ``not-found``: no such model; ``uid-mismatch``: a blob holds another instance.
        Retryable
            ``analysis-timeout``.
        """
        chosen = self.registry.get(model) if model else None
        bundles = [chosen] if chosen else self.registry.active()
        taken = {modality for bundle in bundles for modality in bundle.scope.modalities}
        study = _Study(self, study_uid, chosen, tuple(bundles), timings)
        patience = deadline or Deadline(_NO_DEADLINE)
        for instance in sorted(instances, key=lambda item: item.sop_uid):
            patience.check()
            modality = modalities.get(instance.sop_uid)
            if modality is not None and modality not in taken:
                study.unclaimed.append((instance.sop_uid, "no-model"))
                continue
            with source.held(instance.blob):
                now = time.perf_counter()
                data = source.read(instance.blob)
                timings.measure("read", now)
                study.add(instance, data)
        result = study.concluded()
        _count(result.analyses)
        return result

    def read(self, data: bytes, scopes: tuple[Scope, ...]) -> InstanceReading:
        """Read one instance in a child; one whose pixels kill the child is still known by its header.

        Raises
        ------
        Rejected
            The header can't be read.
        """
        with shared(data) as handed:
            try:
                return self._pool.run(read_instance, handed, self._limits, scopes, self._assume_adult)
            except Rejected as error:
                if not error.code.startswith("decode-"):
                    raise
                reading = self._pool.run(read_instance, handed, self._limits, (), self._assume_adult)
                return replace(reading, reason="pixels-unreadable")

    def digest(self, data: bytes) -> Callable[[], str]:
        """Begin to hash an instance beside its decoding; return what waits for the SHA-256."""
        future = self._hashing.submit(lambda: hashlib.sha256(data).hexdigest())
        return future.result

    def route(self, facts: ImageFacts, chosen: Bundle | None) -> Route:
        """Return who looks at an image."""
        if chosen is None:
            return self.registry.route(facts, self._assume_adult)
        reason = self.models[chosen.reference].refuse_by_header(facts, self._assume_adult)
        return Route((), None if reason == "no-model" else chosen, reason) if reason else Route((chosen,))

    def assumes(self, facts: ImageFacts) -> bool:
        """Return whether ASSUME_ADULT stands in for an age that can't be had."""
        return self._assume_adult and facts.age_years is None

    def preview_dicom(self, data: bytes, model: str | None, timings: Timings) -> StudyAnalysis:
        """Analyse one DICOM instance that belongs to no registered study.

        Raises
        ------
        Permanent
            ``not-found``: no such model.
        Rejected
            The bytes can't be read.
        """
        chosen = self.registry.get(model) if model else None
        bundles = [chosen] if chosen else self.registry.active()
        now = time.perf_counter()
        reading = self.read(data, tuple(bundle.scope for bundle in bundles))
        timings.measure("decode", now)
        return self._preview(reading, chosen, timings)

    def preview_picture(
        self, data: bytes, facts: ImageFacts, limit_pixels: int, model: str | None, timings: Timings
    ) -> StudyAnalysis:
        """Analyse a PNG or JPEG of which the caller vouches for `facts`.

        Raises
        ------
        Permanent, Rejected
            As `preview_dicom`.
        """
        chosen = self.registry.get(model) if model else None
        now = time.perf_counter()
        with shared(data) as handed:
            prepared = self._pool.run(prepare_picture, handed, limit_pixels)
        timings.measure("decode", now)
        return self._preview(InstanceReading("", "", "", False, facts, prepared), chosen, timings)

    def _preview(self, reading: InstanceReading, chosen: Bundle | None, timings: Timings) -> StudyAnalysis:
        study = _Study(self, "", chosen, (), timings)
        study.look(InstanceRef(reading.sop_uid, ""), reading, lambda: "")
        return study.concluded().analyses[0]


def _loaded(bundle: Bundle, interpreters: int, largest_batch: int) -> Model:
    try:
        return Model(bundle, interpreters, largest_batch=largest_batch)
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise Permanent("model-unusable", f"{bundle.reference}: {type(error).__name__}") from error


class _Study:
    """What gathers over the instances of one request."""

    def __init__(
        self, analyser: Analyser, study_uid: str, chosen: Bundle | None, bundles: tuple[Bundle, ...], timings: Timings
    ) -> None:
        self._analyser, self._study_uid, self._chosen, self._timings = analyser, study_uid, chosen, timings
        self._scopes = tuple(bundle.scope for bundle in bundles)
        self._collected: dict[str, Collected] = {}
        self._shadows: dict[str, Collected] = {}
        self._no_model: list[AnalysedImage] = []
        self.unclaimed: list[tuple[str, str]] = []

    def add(self, instance: InstanceRef, data: bytes) -> None:
        """Take one instance."""
        digest = self._analyser.digest(data)
        now = time.perf_counter()
        try:
            reading = self._analyser.read(data, self._scopes)
        except Rejected:
            self.unclaimed.append((instance.sop_uid, "pixels-unreadable"))
            return
        self._timings.measure("decode", now)
        if reading.study_uid != self._study_uid or reading.sop_uid != instance.sop_uid:
            raise Permanent("uid-mismatch", "the blob holds another instance than the request says")
        if reading.own:
            self.unclaimed.append((instance.sop_uid, "no-model"))
            return
        self.look(instance, reading, digest)

    def look(self, instance: InstanceRef, reading: InstanceReading, digest: Callable[[], str]) -> None:
        """Give one instance to the models that it is for."""
        route = self._analyser.route(reading.facts, self._chosen)
        if not route.bundles and route.nearest is None:
            self.unclaimed.append((instance.sop_uid, "no-model"))
            self._no_model.append(_image(instance, reading, digest(), None, "no-model"))
            return
        for bundle in route.bundles or (route.nearest,):
            assert bundle is not None  # noqa: S101 there are bundles, or a nearest one
            collected = self._collected.setdefault(bundle.task, Collected(bundle))
            self._score(bundle, collected, instance, reading, digest, "" if route.bundles else route.reason)
            if self._chosen is None and self._study_uid:
                for shadow in self._analyser.registry.shadows(bundle.task):
                    beside = self._shadows.setdefault(shadow.reference, Collected(shadow))
                    model = self._analyser.models[shadow.reference]
                    refused = model.refuse_by_header(reading.facts, self._analyser.assumes(reading.facts))
                    self._score(shadow, beside, instance, reading, digest, refused)

    def _score(
        self,
        bundle: Bundle,
        collected: Collected,
        instance: InstanceRef,
        reading: InstanceReading,
        digest: Callable[[], str],
        refused: str,
    ) -> None:
        outcome = ImageOutcome(reason=refused or reading.reason)
        if not outcome.reason and reading.prepared is not None:
            outcome = self._analyser.models[bundle.reference].score(reading.prepared, reading.facts, self._timings)
            collected.measures.append(_measure(reading.prepared, outcome))
        collected.facts.append(reading.facts)
        collected.assumed_adult |= self._analyser.assumes(reading.facts)
        collected.images.append(_image(instance, reading, digest(), outcome, outcome.reason))
        if outcome.reason:
            collected.not_analysed.append((instance.sop_uid, outcome.reason))
        elif reading.prepared is not None:
            collected.add_scores(instance.sop_uid, outcome.scores, reading.prepared)

    def concluded(self) -> StudyResult:
        """Return the analyses; what no model was there for is named by the first."""
        if not self._collected:
            self._collected[""] = Collected(None)
        analyses = sorted(self._concluded(self._collected), key=lambda item: not item.findings)
        first = analyses[0]
        analyses[0] = _with_unclaimed(first, self.unclaimed, self._no_model)
        return StudyResult(with_not_assessed(analyses), tuple(self._concluded(self._shadows)))

    def _concluded(self, collected: Mapping[str, Collected]) -> Iterator[StudyAnalysis]:
        for name in sorted(collected):
            yield collected[name].concluded(self._study_uid)


def _with_unclaimed(
    analysis: StudyAnalysis, unclaimed: Sequence[tuple[str, str]], images: Sequence[AnalysedImage]
) -> StudyAnalysis:
    return replace(
        analysis,
        not_analysed=tuple(sorted((*analysis.not_analysed, *unclaimed))),
        images=tuple(sorted((*analysis.images, *images), key=lambda item: item.sop_uid)),
    )


def _measure(prepared: ModelInput, outcome: ImageOutcome) -> ImageMeasure:
    return ImageMeasure(
        reason=outcome.reason,
        probabilities=tuple((score.output.key, score.probability) for score in outcome.scores),
        brightness=float(prepared.grid.mean()),
        contrast=float(prepared.grid.std()),
        distance=float(outcome.gate.get("distance", 0.0)),
    )


def _image(
    instance: InstanceRef, reading: InstanceReading, digest: str, outcome: ImageOutcome | None, reason: str
) -> AnalysedImage:
    prepared = reading.prepared
    return AnalysedImage(
        sop_uid=instance.sop_uid,
        series_uid=reading.series_uid,
        blob=instance.blob,
        sha256=digest,
        rows=prepared.rows if prepared else 0,
        columns=prepared.columns if prepared else 0,
        reason=reason,
        corrected=outcome.corrected if outcome else "",
        sop_class_uid=reading.sop_class_uid,
        header=reading.header,
    )


def _count(analyses: Sequence[StudyAnalysis]) -> None:
    for analysis in analyses:
        for _, reason in analysis.not_analysed:
            ANALYSED_IMAGES.labels(outcome=reason).inc()
        for image in analysis.images:
            if not image.reason:
                ANALYSED_IMAGES.labels(outcome="analysed").inc()

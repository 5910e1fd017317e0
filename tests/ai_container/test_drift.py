from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime

import numpy as np
import pytest
from prometheus_client import REGISTRY

from ai_container.bundle import Bundle
from ai_container.drift import BINS, Counts, compare, psi, psi_noise
from ai_container.drift_store import DriftStore
from ai_container.registry import Registry
from ai_container.study_analysis import ImageMeasure, StudyAnalysis
from imaging_core.blobs import BlobStore
from imaging_core.errors import Retryable

TODAY = datetime.now(UTC).date()


def measure(probability: float = 0.3, reason: str = "", brightness: float = 0.5) -> ImageMeasure:
    said = () if reason else (("lung-opacity", probability),)
    return ImageMeasure(reason, said, brightness, 0.25, 0.8)


@pytest.fixture
def bundle(registry: Registry) -> Bundle:
    return registry.all()[0]


@pytest.fixture
def clean(blob_store: BlobStore) -> Iterator[BlobStore]:
    def empty() -> None:
        for blob in list(blob_store.list("models", "drift/")):
            blob_store.delete("models", blob.name)

    empty()
    yield blob_store
    empty()


def analysis(bundle: Bundle, *measures: ImageMeasure) -> StudyAnalysis:
    return StudyAnalysis("1.2", bundle, (), (), (), None, measures=measures)


def test_psi_by_hand() -> None:
    assert psi([50, 50], [50, 50]) == 0
    assert psi([80, 20], [50, 50]) == pytest.approx(0.3 * math.log(1.6) - 0.3 * math.log(0.4))
    assert psi([0, 100], [50, 50]) < 10  # an empty bin is no infinity
    assert psi([], []) == 0


def test_the_noise_is_what_unchanged_images_show() -> None:
    random = np.random.default_rng(0)
    shares = np.full(10, 0.1)
    found = [
        psi(random.multinomial(400, shares).tolist(), random.multinomial(900, shares).tolist()) for _ in range(300)
    ]
    assert np.mean(found) == pytest.approx(psi_noise(400, 900, 10), rel=0.15)


@pytest.mark.parametrize(
    ("probabilities", "state"),
    [([0.15] * 500 + [0.45] * 500, "stable"), ([0.15] * 850 + [0.45] * 150, "shifted"), ([0.15] * 5, "too-few")],
)
def test_states(probabilities: list[float], state: str) -> None:
    reference, now = Counts(), Counts()
    for p in [0.15] * 500 + [0.45] * 500:
        reference.add(measure(p))
    for p in probabilities:
        now.add(measure(p))
    found = {item.quantity: item for item in compare(now, reference)}
    assert found["score:lung-opacity"].state == state


def test_a_gate_that_refuses_more_is_seen() -> None:
    reference, now = Counts(), Counts()
    for number in range(1000):
        reference.add(measure(reason="out-of-distribution" if number < 10 else ""))
        now.add(measure(reason="inverted" if number < 300 else ""))
    found = {item.quantity: item for item in compare(now, reference)}
    assert found["gate"].state == "shifted"
    assert found["brightness"].state == "stable"
    assert now.bins["gate"] == {"inverted": 300, "passed": 700}


def test_values_outside_the_bins_fall_into_the_outer_ones() -> None:
    counts = Counts()
    counts.add(measure(probability=-1, brightness=2.0))
    assert counts.bins["score:lung-opacity"] == {"0": 1}
    assert counts.bins["brightness"] == {str(len(BINS["brightness"])): 1}


@pytest.mark.parametrize("content", [{}, {"images": "x", "bins": {}}, {"images": 1, "bins": []}])
def test_counts_that_are_none(content: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="counts"):
        Counts.parsed(content)


def test_counts_outlive_a_restart_and_workers_make_one_distribution(clean: BlobStore, bundle: Bundle) -> None:
    first, second = DriftStore(clean), DriftStore(clean)
    first.add(analysis(bundle, measure(), measure()))
    second.add(analysis(bundle, measure(reason="inverted")))
    first.save()
    second.save()
    first.add(analysis(bundle, measure()))
    first.save()
    first.save()  # nothing new
    restarted = DriftStore(clean)
    found = restarted.window(bundle.reference)
    assert found.images == 4
    assert found.bins["gate"] == {"inverted": 1, "passed": 3}
    second.add(analysis(bundle, measure()))  # not saved yet, and counted by who has it
    assert second.window(bundle.reference).images == 5
    assert restarted.window(bundle.reference, today=date(2020, 1, 1)).images == 0


def test_workers_that_save_at_once_lose_nothing(clean: BlobStore, bundle: Bundle) -> None:
    stores = [DriftStore(clean) for _ in range(4)]

    def work(store: DriftStore) -> None:
        for _ in range(5):
            store.add(analysis(bundle, measure()))
            store.save()

    threads = [threading.Thread(target=work, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert DriftStore(clean).window(bundle.reference).images == 20


class _Away:
    """The store, whose writes arrive while their answers get lost."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs, self.lost = blobs, True

    def get_with_etag(self, container: str, name: str) -> tuple[bytes, str]:
        return self._blobs.get_with_etag(container, name)

    def replace(self, container: str, name: str, data: bytes, **options: object) -> bool:
        stored = self._blobs.replace(container, name, data, **options)  # type: ignore[arg-type]  # passed through
        if self.lost:
            raise Retryable("storage-unavailable", "the answer is lost")
        return stored


def test_a_save_whose_answer_is_lost_is_not_counted_twice(clean: BlobStore, bundle: Bundle) -> None:
    away = _Away(clean)
    store = DriftStore(away)  # type: ignore[arg-type]  # the two calls that a save makes
    store.add(analysis(bundle, measure(), measure()))
    with pytest.raises(Retryable):
        store.save()
    store.add(analysis(bundle, measure()))
    away.lost = False
    store.save()
    assert DriftStore(clean).window(bundle.reference).images == 3


def test_broken_counts_begin_anew(clean: BlobStore, bundle: Bundle) -> None:
    clean.put("models", f"drift/{bundle.name}/{bundle.version}/{TODAY.isoformat()}.json", b"\x00nonsense")
    store = DriftStore(clean)
    store.add(analysis(bundle, measure()))
    store.save()
    assert DriftStore(clean).window(bundle.reference).images == 1


def test_the_report_and_the_metrics(clean: BlobStore, bundle: Bundle) -> None:
    store = DriftStore(clean)
    for _ in range(3):
        store.add(analysis(bundle, measure()))
    said = store.report(bundle)
    assert said["images"] == 3
    assert said["reference_images"] >= 500  # the bundle has a training reference
    assert {"score:lung-opacity", "gate", "brightness", "contrast", "distance"} == set(said["psi"])
    assert all(item["state"] == "too-few" for item in said["psi"].values())
    assert REGISTRY.get_sample_value("ai_drift_images", {"model": bundle.reference}) == 3
    assert REGISTRY.get_sample_value("ai_drift_psi", {"model": bundle.reference, "what": "gate"}) is not None

"""The models that a running service holds: loaded in the background, exchanged whenever people activate others."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ai_container import activation, dicom_results
from ai_container.activation import Activation
from ai_container.admission import Admission, ByteBudget, Deadline
from ai_container.analyser import Analyser, Source
from ai_container.bundle import Bundle
from ai_container.bundle_store import BundleStore
from ai_container.drift_store import DriftStore
from ai_container.metrics import MODEL_INFO, MODEL_LOAD_FAILURES, MODEL_READY
from ai_container.registry import Registry, packaged_bundles
from fhir_adapter.client import FhirClient, client_from_settings
from imaging_core import telemetry
from imaging_core.blobs import BlobStore
from imaging_core.dicom.child import DecodePool
from imaging_core.dicom.header import HeaderLimits
from imaging_core.errors import ImagingError, Permanent, Retryable
from imaging_core.settings import Settings

__all__ = ["Parts"]

_MOST_EXTRA = 4
_FIRST_LOAD_S = 60.0
_AGAIN_S = 2.0
log = telemetry.get_logger(__name__)


class Parts:
    """What the service holds: models, decode children, stores. Loading starts in the background at once.

    Parameters
    ----------
    settings : Settings
        ``storage_*``, ``fhir_*``, ``ai_*``, ``model_*``, ``assume_adult``, ``site_*`` and the decode limits are read.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.blobs = BlobStore.from_settings(settings)
        self.fhir: FhirClient = client_from_settings(settings)
        self.admission = Admission(settings.ai_concurrency, settings.ai_queue, settings.ai_request_seconds)
        self.drift = DriftStore(self.blobs)
        self._budget = ByteBudget(settings.ai_bytes_in_work)
        self._bundles = BundleStore.from_settings(settings, self.blobs)
        self._pool = DecodePool.from_settings(settings)
        self._loading = threading.Lock()
        self._packaged: list[Bundle] = []
        self._extra: dict[str, Bundle] = {}  # asked for by name, the latest last
        self._activation = Activation()
        self._etag: str | None = None
        self._analyser: Analyser | None = None
        self._failure: ImagingError | None = None
        self._tried = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load-models", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        """Load, then look for other activations, and save what drift has counted, until the service stops."""
        self._load()
        self._tried.set()
        # beside, for it is long and only the first SR gains by it
        threading.Thread(target=dicom_results.warm_up, name="warm-up-sr", daemon=True).start()
        while not self._stop.wait(self.settings.model_poll_s if self._analyser else _AGAIN_S):
            self._load()
            self._save_drift()

    def _load(self) -> None:
        """Bring the models to what is activated; what answers now goes on until the new ones have run once."""
        began = time.perf_counter()
        try:
            if not self._packaged:
                self._packaged = packaged_bundles(self.settings)
            wanted, etag = activation.read(self.blobs)
            if self._analyser is not None and etag == self._etag:
                return
            with self._loading:
                self._exchange(wanted, etag)
        except ImagingError as error:
            self._failure = error
            MODEL_LOAD_FAILURES.labels(code=error.code).inc()
            level = log.warning if isinstance(error, Retryable) else log.error
            level("models-not-loaded", code=error.code, detail=error.detail, serving=self._analyser is not None)
        except Exception as error:  # whatever it is, this thread has to look again: it is the only one that does
            self._failure = Permanent("internal", "the models could not be loaded; the log has the reason")
            MODEL_LOAD_FAILURES.labels(code="internal").inc()
            log.error("models-not-loaded", exc_info=error)
        else:
            self._failure = None
            log.info("models-ready", models=self._roles(), seconds=round(time.perf_counter() - began, 2))

    def _exchange(self, wanted: Activation, etag: str) -> None:
        packaged = {bundle.reference for bundle in self._packaged}
        fetched = dict(self._extra)
        for reference, pinned in wanted.pinned().items():
            if reference not in packaged:
                fetched[reference] = self._bundles.load(reference, pinned.manifest_sha256)
            elif pinned.manifest_sha256:
                raise Permanent("model-unusable", f"{reference} is in the image and in Blob Storage")
        self._serve(Registry(self._packaged, wanted, fetched.values()))
        self._activation, self._etag = wanted, etag

    def _serve(self, registry: Registry) -> None:
        settings = self.settings
        analyser = Analyser(
            registry,
            self._pool,
            settings.assume_adult,
            limits=HeaderLimits(
                settings.max_elements, settings.max_nesting, settings.max_inflated_bytes, settings.max_samples
            ),
            models=self._analyser.models if self._analyser else None,
            interpreters=settings.ai_interpreters,
            largest_batch=settings.ai_largest_batch,
        )
        analyser.warm_up()
        self._analyser = analyser
        MODEL_READY.set(1)
        MODEL_INFO.clear()
        for bundle in registry.all():
            MODEL_INFO.labels(model=bundle.reference, task=bundle.task, role=registry.role(bundle)).set(1)

    def _roles(self) -> dict[str, str]:
        registry = self._analyser.registry if self._analyser else None
        return {bundle.reference: registry.role(bundle) for bundle in registry.all()} if registry else {}

    def _save_drift(self) -> None:
        try:
            self.drift.save()
            for bundle in self._analyser.registry.active() if self._analyser else ():
                self.drift.report(bundle)
        except ImagingError as error:
            log.warning("drift-not-saved", code=error.code)

    def analyser(self, model: str | None = None, wait_s: float = _FIRST_LOAD_S) -> Analyser:
        """Return the loaded models; one that is asked for by name is fetched from Blob Storage where it is there.

        Raises
        ------
        Permanent
            They can't be loaded; ``not-found``: there is no such model.
        Retryable
            They are not loaded yet.
        """
        self._tried.wait(wait_s)
        found = self._analyser
        if found is None:
            raise self._failure or Retryable("service-unavailable", "the models are still loading", 2)
        if model is None or found.registry.has(model):
            return found
        return self._with(model)

    def _with(self, reference: str) -> Analyser:
        with self._loading:
            if self._analyser is None or not self._analyser.registry.has(reference):
                bundle = self._bundles.load(reference)
                # the latest few are kept, besides what is activated
                self._extra = {**dict(list(self._extra.items())[-(_MOST_EXTRA - 1) :]), reference: bundle}
                pinned = self._activation.pinned()
                activated = {item.reference: item for item in self._all() if item.reference in pinned}
                fetched = {**self._extra, **activated}
                for item in self._packaged:
                    fetched.pop(item.reference, None)
                self._serve(Registry(self._packaged, self._activation, fetched.values()))
            assert self._analyser is not None  # noqa: S101 just served
            return self._analyser

    def _all(self) -> list[Bundle]:
        return self._analyser.registry.all() if self._analyser else list(self._packaged)

    def problem(self) -> ImagingError | None:
        """Return why the last look for activated models failed, if it did: what was loaded before goes on answering."""
        return self._failure

    def catalogue(self) -> list[str]:
        """Return the references of the models in Blob Storage.

        Raises
        ------
        Retryable
        """
        return self._bundles.list()

    def source(self, deadline: Deadline) -> Source:
        """Return where a request's instances come from, within the bytes that may be held."""

        @contextmanager
        def held(blob: str) -> Iterator[None]:
            with self._budget.held(self.blobs.info("images", blob).size, deadline):
                yield

        return Source(lambda blob: self.blobs.get("images", blob), held)

    @contextmanager
    def holding(self, size: int, deadline: Deadline) -> Iterator[None]:
        """Hold `size` bytes that came with a request."""
        with self._budget.held(size, deadline):
            yield

    def stop_admitting(self) -> None:
        """Let what runs end, and send away what waits (SIGTERM)."""
        self.admission.close()

    def close(self) -> None:
        """Save what drift has counted and stop the children."""
        self._stop.set()
        self._thread.join(timeout=5)
        self._save_drift()
        self._pool.close()

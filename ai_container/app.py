"""The model service over HTTP; see `design` of the AI container in ``docs``.

Routes are thin: parse, call one function, answer. Everything but health and metrics needs a bearer token.
"""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flask import Flask, Response, g, jsonify, request
from opentelemetry import trace
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from ai_container.analysis_request import AnalysisRequest, parse_request
from ai_container.authentication import authenticate
from ai_container.header_facts import ImageFacts
from ai_container.image_analysis import Timings
from ai_container.metrics import FINDINGS, MODEL_READY, PROBABILITY, REQUESTS, STEP_SECONDS
from ai_container.preprocess import prepare_dicom, prepare_display
from ai_container.problems import register_problems
from ai_container.publishing import analysis_result, now, publish_analysis, registered_modalities
from ai_container.registry import Registry
from ai_container.result_files import answer, heatmap_picture
from ai_container.study_analysis import Analyser, StudyAnalysis
from fhir_adapter.client import FhirClient, client_from_settings
from fhir_adapter.results import bundle
from imaging_core import telemetry
from imaging_core.blobs import BlobStore
from imaging_core.dicom.child import DecodePool
from imaging_core.errors import ImagingError, Permanent, Retryable
from imaging_core.settings import Settings

__all__ = ["Parts", "create_app"]

_OPEN = frozenset({"/healthz", "/readyz", "/metrics"})
_ASSUMED_AGE = 40.0
_FHIR_JSON = "application/fhir+json"
log = telemetry.get_logger(__name__)


class Parts:
    """What the service holds: models, decode children, stores. Loading starts in the background at once.

    Parameters
    ----------
    settings : Settings
        ``storage_*``, ``fhir_*``, ``model_dir``, ``assume_adult``, ``site_*`` and the decode limits are read.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.blobs = BlobStore.from_settings(settings)
        self.fhir: FhirClient = client_from_settings(settings)
        self._analyser: Analyser | None = None
        self._failure: ImagingError | None = None
        self._loaded = threading.Event()
        threading.Thread(target=self._load, name="load-models", daemon=True).start()

    def _load(self) -> None:
        began = time.perf_counter()
        try:
            registry = Registry.from_settings(self.settings)
            analyser = Analyser(registry, DecodePool.from_settings(self.settings), self.settings.assume_adult)
            analyser.warm_up()
        except ImagingError as error:
            self._failure = error
            log.error("models-not-loaded", code=error.code, detail=error.detail)
        else:
            self._analyser = analyser
            MODEL_READY.set(1)
            log.info(
                "models-ready", models=[item.reference for item in registry.all()], seconds=time.perf_counter() - began
            )
        finally:
            self._loaded.set()

    def analyser(self, wait_s: float = 60.0) -> Analyser:
        """Return the loaded models.

        Raises
        ------
        Permanent
            They can't be loaded.
        Retryable
            They are not loaded yet.
        """
        self._loaded.wait(wait_s)
        if self._failure is not None:
            raise self._failure
        if self._analyser is None:
            raise Retryable("service-unavailable", "the models are still loading", 2)
        return self._analyser


def create_app(settings: Settings, parts: Parts | None = None) -> Flask:
    """Build the service.

    Parameters
    ----------
    settings : Settings
        ``ai_token`` (AI_AUTH=bearer) or ``ai_audience`` (AI_AUTH=entra) must be set.
    parts : Parts, optional
        For tests that share them.

    Raises
    ------
    Permanent
        ``bad-setting``.
    """
    settings.require("ai_token" if settings.ai_auth == "bearer" else "ai_audience", "fhir_base_url")
    held = parts or Parts(settings)
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_instance_bytes
    app.extensions["imaging_parts"] = held
    register_problems(app)

    @app.before_request
    def _open_trace() -> None:
        span = telemetry.continue_trace(request.headers.get("traceparent"), f"ai {request.method} {request.path}")
        g.span = span
        span.__enter__()
        if request.path not in _OPEN:
            authenticate(request.headers.get("Authorization", ""), settings)

    @app.after_request
    def _count(response: Response) -> Response:
        path = request.url_rule.rule if request.url_rule else "other"
        REQUESTS.labels(path=path, status=str(response.status_code)).inc()
        response.headers["Cache-Control"] = "no-store"
        return response

    @app.teardown_request
    def _close_trace(error: BaseException | None) -> None:
        span = g.pop("span", None)
        if span is not None:
            span.__exit__(type(error) if error else None, error, None)

    @app.get("/healthz")
    def healthz() -> Response:
        return jsonify(status="ok")

    @app.get("/readyz")
    def readyz() -> Response:
        held.analyser(wait_s=0.0)
        return jsonify(status="ready", models=[item.reference for item in held.analyser().registry.all()])

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(), content_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models")
    def models() -> Response:
        registry = held.analyser().registry
        return jsonify(models=[{**item.description, "active": registry.is_active(item)} for item in registry.all()])

    @app.post("/v1/analyses")
    def analyses() -> Response:
        return _analyse(held, parse_request(request.get_json(force=True, silent=True)))

    @app.post("/v1/analyses:preview")
    def preview() -> Response:
        return _preview(held)

    return app


@contextmanager
def _total(timings: Timings) -> Iterator[None]:
    began = time.perf_counter()
    try:
        yield
    finally:
        timings.measure("total", began)
        for step, milliseconds in timings.spent.items():
            STEP_SECONDS.labels(step=step).observe(milliseconds / 1000)


def _wants_bundle() -> bool:
    return request.accept_mimetypes.best_match(["application/json", _FHIR_JSON]) == _FHIR_JSON


def _analyse(held: Parts, wanted: AnalysisRequest) -> Response:
    timings = Timings()
    with _total(timings):
        analyser = held.analyser()
        began = time.perf_counter()
        modalities = registered_modalities(held.fhir, wanted.study_uid) if wanted.publish else {}
        timings.measure("fhir_read", began)
        analysis = analyser.study(
            wanted.study_uid,
            wanted.instances,
            lambda blob: held.blobs.get("images", blob),
            wanted.model,
            modalities,
            timings,
        )
        _count_findings(analysis)
        resources: list[str] = []
        artifacts: dict[str, Any] = {}
        revision = 0
        if wanted.publish:
            began = time.perf_counter()
            published, artifacts = publish_analysis(held.fhir, held.blobs, analysis, held.settings)
            timings.measure("publish", began)
            revision = published.revision
            resources = list(published.resources)
            if not resources and published.report_id:
                resources = [f"DiagnosticReport/{published.report_id}"]
    log.info(
        "study-analysed",
        study=telemetry.hashed_uid(wanted.study_uid),
        instances=len(wanted.instances),
        states=[finding.state for finding in analysis.findings],
        reasons=sorted({reason for _, reason in analysis.not_analysed}),
        published=bool(resources),
        timings_ms=timings.rounded(),
    )
    if _wants_bundle():
        result = analysis_result(analysis, held.settings, now())
        body = bundle(result, revision=revision, base_url=held.settings.fhir_base_url)
        response = jsonify(body)
        response.content_type = _FHIR_JSON
        return response
    return jsonify(
        {
            **answer(analysis),
            "revision": revision,
            "artifacts": artifacts,
            "resources": resources,
            "timings_ms": timings.rounded(),
        }
    )


def _count_findings(analysis: StudyAnalysis) -> None:
    for finding in analysis.findings:
        model = analysis.bundle.reference if analysis.bundle else ""
        FINDINGS.labels(model=model, finding=finding.output.key, state=finding.state).inc()
        PROBABILITY.labels(model=model, finding=finding.output.key).observe(finding.probability)
        trace.get_current_span().set_attribute("imaging.state", finding.state)


def _preview(held: Parts) -> Response:
    data = request.get_data(cache=False)
    if not data:
        raise Permanent("empty-body", "send one image")
    timings = Timings()
    with _total(timings):
        analyser = held.analyser()
        model = request.args.get("model") or None
        assumed: list[str] = []
        if request.mimetype == "application/dicom":
            analysis = analyser.one(data, None, prepare_dicom, (), model, timings)
        elif request.mimetype in ("image/png", "image/jpeg"):
            given = _age(request.args.get("age"))
            # A bare picture tells no age and nothing is published: the caller vouches for an adult, the answer says so.
            assumed = ["adult"] if given is None else []
            facts = ImageFacts(modality="DX", age_years=_ASSUMED_AGE if given is None else given)
            limit = held.settings.max_image_pixels
            analysis = analyser.one(data, facts, prepare_display, (limit,), model, timings)
        else:
            raise Permanent("unsupported-media-type", "application/dicom, image/png or image/jpeg")
        body = {**answer(analysis), "artifacts": {}, "resources": []}
        if assumed:
            body["assumed"] = assumed
        if request.args.get("heatmap") == "true" and analysis.key_image is not None:
            began = time.perf_counter()
            body["heatmap_png"] = base64.b64encode(heatmap_picture(analysis.key_image)).decode()
            timings.measure("heatmap", began)
    return jsonify({**body, "timings_ms": timings.rounded()})


def _age(text: str | None) -> float | None:
    if text is None:
        return None
    if not text.isdigit() or int(text) > 120:
        raise Permanent("bad-field", "age: years, 0 to 120")
    return float(text)

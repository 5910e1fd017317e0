"""The model service over HTTP; see `design` of the AI container in ``docs``.

Routes are thin: parse, call one function, answer. Everything but health and metrics needs a bearer token.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flask import Flask, Response, g, jsonify, request
from opentelemetry import trace
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from ai_container.analyser import StudyResult
from ai_container.analysis_request import AnalysisRequest, parse_request
from ai_container.authentication import authenticate
from ai_container.drift_store import WINDOW_DAYS
from ai_container.header_facts import ImageFacts
from ai_container.image_analysis import Timings
from ai_container.metrics import FINDINGS, PROBABILITY, REQUESTS, SHADOW_RUNS, STEP_SECONDS
from ai_container.problems import register_problems
from ai_container.publishing import analysis_result, now, publish_analysis, registered_modalities
from ai_container.result_files import answer, heatmap_picture, store_shadow, study_answer
from ai_container.serving import Parts
from ai_container.study_analysis import StudyAnalysis
from fhir_adapter.results import bundle
from imaging_core import telemetry
from imaging_core.errors import ImagingError, Permanent
from imaging_core.settings import Settings

__all__ = ["Parts", "create_app"]

_OPEN = frozenset({"/healthz", "/readyz", "/metrics"})
_ASSUMED_AGE = 40.0
_FHIR_JSON = "application/fhir+json"
_MOST_DAYS = 366
log = telemetry.get_logger(__name__)


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
        registry = held.analyser(wait_s=0.0).registry
        problem = held.problem()
        return jsonify(
            status="ready",
            models={item.reference: registry.role(item) for item in registry.all()},
            # an activation that can't be honoured: the models from before go on answering
            **({"problem": {"code": problem.code, "detail": problem.detail}} if problem else {}),
        )

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(), content_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models")
    def models() -> Response:
        registry = held.analyser().registry
        loaded = [
            {**item.description, "active": registry.is_active(item), "role": registry.role(item)}
            for item in registry.all()
        ]
        return jsonify(models=loaded, stored=held.catalogue())

    @app.get("/v1/models/<name>/drift")
    def drift(name: str) -> Response:
        versions = held.analyser().registry.named(name)
        version = request.args.get("version")
        chosen = [item for item in versions if version in (None, item.version)]
        if not chosen:
            raise Permanent("not-found", f"{name} has no such version here")
        return jsonify(held.drift.report(chosen[0], _days(request.args.get("days"))))

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
    with _total(timings), held.admission.admitted() as deadline:
        analyser = held.analyser(wanted.model, deadline.remaining())
        began = time.perf_counter()
        modalities = registered_modalities(held.fhir, wanted.study_uid) if wanted.publish else {}
        timings.measure("fhir_read", began)
        result = analyser.study(
            wanted.study_uid,
            wanted.instances,
            held.source(deadline),
            wanted.model,
            modalities,
            timings,
            deadline,
        )
        deadline.check()  # from here on the work is carried to its end
        _count_findings(result)
        answers = [_concluded(held, analysis, wanted.publish, timings) for analysis in result.analyses]
        if wanted.publish:
            _keep_shadows(held, result, timings)
            for analysis in (*result.analyses, *result.shadows):
                held.drift.add(analysis)
    log.info(
        "study-analysed",
        study=telemetry.hashed_uid(wanted.study_uid),
        instances=len(wanted.instances),
        models=[item.bundle.reference for item in result.analyses if item.bundle],
        states=[finding.state for item in result.analyses for finding in item.findings],
        reasons=sorted({reason for item in result.analyses for _, reason in item.not_analysed}),
        published=any(item["resources"] for item in answers),
        timings_ms=timings.rounded(),
    )
    if _wants_bundle():
        said = analysis_result(result.analyses[0], held.settings, now())
        body = bundle(said, revision=answers[0]["revision"], base_url=held.settings.fhir_base_url)
        response = jsonify(body)
        response.content_type = _FHIR_JSON
        return response
    return jsonify({**study_answer(result.analyses, answers), "timings_ms": timings.rounded()})


def _concluded(held: Parts, analysis: StudyAnalysis, publish: bool, timings: Timings) -> dict[str, Any]:
    """Return the answer for one model, published where that was asked for."""
    resources: list[str] = []
    artifacts: dict[str, Any] = {}
    revision = 0
    if publish:
        began = time.perf_counter()
        published, artifacts = publish_analysis(held.fhir, held.blobs, analysis, held.settings)
        timings.measure("publish", began)
        revision = published.revision
        resources = list(published.resources)
        if not resources and published.report_id:
            resources = [f"DiagnosticReport/{published.report_id}"]
    return {**answer(analysis), "revision": revision, "artifacts": artifacts, "resources": resources}


def _keep_shadows(held: Parts, result: StudyResult, timings: Timings) -> None:
    """Keep what models in shadow say; that one of them can't be kept is no reason to fail the study."""
    began = time.perf_counter()
    for analysis in result.shadows:
        model = analysis.bundle.reference if analysis.bundle else ""
        try:
            store_shadow(held.blobs, analysis, now(), held.settings.site_language)
        except ImagingError as error:
            SHADOW_RUNS.labels(model=model, outcome="lost").inc()
            log.warning("shadow-not-kept", model=model, code=error.code)
        else:
            SHADOW_RUNS.labels(model=model, outcome="kept").inc()
    if result.shadows:
        timings.measure("shadow", began)


def _count_findings(result: StudyResult) -> None:
    for analysis in result.analyses:
        for finding in analysis.findings:
            model = analysis.bundle.reference if analysis.bundle else ""
            FINDINGS.labels(model=model, finding=finding.output.key, state=finding.state).inc()
            PROBABILITY.labels(model=model, finding=finding.output.key).observe(finding.probability)
            trace.get_current_span().set_attribute("imaging.state", finding.state)


def _preview(held: Parts) -> Response:
    model = request.args.get("model") or None
    timings = Timings()
    with _total(timings), held.admission.admitted() as deadline, held.holding(_announced(held), deadline):
        data = request.get_data(cache=False)
        if not data:
            raise Permanent("empty-body", "send one image")
        analyser = held.analyser(model, deadline.remaining())
        assumed: list[str] = []
        if request.mimetype == "application/dicom":
            analysis = analyser.preview_dicom(data, model, timings)
        elif request.mimetype in ("image/png", "image/jpeg"):
            given = _age(request.args.get("age"))
            # A bare picture tells no age and nothing is published: the caller vouches for an adult, the answer says so.
            assumed = ["adult"] if given is None else []
            facts = ImageFacts(modality="DX", age_years=_ASSUMED_AGE if given is None else given)
            analysis = analyser.preview_picture(data, facts, held.settings.max_image_pixels, model, timings)
        else:
            raise Permanent("unsupported-media-type", "application/dicom, image/png or image/jpeg")
        body = {**answer(analysis), "artifacts": {}, "resources": []}
        body["assumed"] = assumed or body["assumed"]
        if request.args.get("heatmap") == "true" and analysis.key_image is not None:
            began = time.perf_counter()
            body["heatmap_png"] = base64.b64encode(heatmap_picture(analysis.key_image)).decode()
            timings.measure("heatmap", began)
    return jsonify({**body, "timings_ms": timings.rounded()})


def _announced(held: Parts) -> int:
    """Return how large the body is said to be; one of unknown length counts as large as it may be."""
    return held.settings.max_instance_bytes if request.content_length is None else request.content_length


def _age(text: str | None) -> float | None:
    if text is None:
        return None
    if not text.isdigit() or int(text) > 120:
        raise Permanent("bad-field", "age: years, 0 to 120")
    return float(text)


def _days(text: str | None) -> int:
    if text is None:
        return WINDOW_DAYS
    if not text.isdigit() or not 1 <= int(text) <= _MOST_DAYS:
        raise Permanent("bad-field", f"days: 1 to {_MOST_DAYS}")
    return int(text)

"""From a study's analysis to the FHIR service, by `fhir_adapter.results`, and to DICOM objects of the study."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any, Literal

from pydicom import Dataset, dcmread

from ai_container.bundle import Bundle, Output
from ai_container.dicom_results import SourceImage, capture, structured_report
from ai_container.result_files import CONTAINER, Files, key_picture, result_files, store
from ai_container.study_analysis import StudyAnalysis, StudyFinding
from fhir_adapter.client import FhirClient
from fhir_adapter.identity import IMAGING_STUDY, resource_id
from fhir_adapter.results import (
    AnalysisResult,
    Finding,
    InputImage,
    ModelInfo,
    NotAnalysed,
    PerImage,
    Published,
    publish,
)
from imaging_core.blobs import BlobMissing, BlobStore
from imaging_core.errors import Retryable
from imaging_core.settings import Settings

__all__ = ["analysis_result", "now", "publish_analysis", "registered_modalities"]

_NO_MODEL = ModelInfo("none", "0", title_en="No model", title_fr="Aucun modèle")
_NO_TASK = "none"
_SR, _SC = "sr.dcm", "sc.dcm"


def now() -> str:
    """Return the FHIR instant of now, in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def registered_modalities(client: FhirClient, study_uid: str) -> dict[str, str]:
    """Return the modality of each instance that the ImagingStudy names.

    Raises
    ------
    Retryable
        ``study-not-registered``.
    """
    study = client.read("ImagingStudy", resource_id(study_uid, IMAGING_STUDY))
    if study is None:
        raise Retryable("study-not-registered", "the study has no ImagingStudy yet", 2)
    found: dict[str, str] = {}
    for series in study.get("series") or []:
        modality = str((series.get("modality") or {}).get("code") or "")
        for instance in series.get("instance") or []:
            if modality:
                found[str(instance.get("uid") or "")] = modality
    return found


def _model_info(bundle: Bundle) -> ModelInfo:
    return ModelInfo(
        name=bundle.name,
        version=bundle.version,
        sha256=bundle.sha256,
        manufacturer=bundle.manufacturer,
        title_en=bundle.title.en,
        title_fr=bundle.title.fr,
        summary_en=bundle.summary.en,
        summary_fr=bundle.summary.fr,
    )


def _finding(output: Output, finding: StudyFinding | None) -> Finding:
    """Return a finding; without a value it says that it was not assessed (R3)."""
    states: dict[str, Literal["present", "absent", "indeterminate"]] = {
        "present": "present",
        "absent": "absent",
        "indeterminate": "indeterminate",
    }
    return Finding(
        code=output.code,
        display=output.display,
        probability=round(finding.probability, 6) if finding else None,
        threshold=output.rule.threshold if finding else None,
        state=states[finding.state] if finding else "not-assessed",
        system=output.system,
        key=output.key,
        text_en=output.text.en,
        text_fr=output.text.fr,
        body_site=output.body_site,
        body_site_display=output.body_site_display,
        per_image=tuple(PerImage(sop_uid, round(p, 6)) for sop_uid, p in finding.per_image) if finding else (),
        band=(output.rule.low, output.rule.high) if finding else None,
    )


def analysis_result(analysis: StudyAnalysis, settings: Settings, created: str) -> AnalysisResult:
    """Return the analysis as `fhir_adapter` takes it."""
    bundle, key = analysis.bundle, analysis.key_image
    assessed = {finding.output.key: finding for finding in analysis.findings}
    return AnalysisResult(
        study_uid=analysis.study_uid,
        task=bundle.task if bundle else _NO_TASK,
        model=_model_info(bundle) if bundle else _NO_MODEL,
        findings=tuple(_finding(output, assessed.get(output.key)) for output in bundle.outputs) if bundle else (),
        not_analysed=tuple(NotAnalysed(sop_uid, reason) for sop_uid, reason in analysis.not_analysed),
        instances=tuple(
            InputImage(image.sop_uid, image.series_uid, image.sha256, not image.reason)
            for image in analysis.images
            if image.reason != "no-model"
        ),
        effective="",
        language=settings.site_language,
        site_name=settings.site_name,
        created=created,
        modalities=tuple(sorted(analysis.modalities)),
        body_part="CHEST" if bundle and "chest" in bundle.scope.body_parts else "",
        portable=analysis.portable,
        key_image=key.sop_uid if key else "",
        key_image_picture=key_picture(key) if key else b"",
        report_without_model=settings.report_without_model,
        not_assessed=tuple((text.en, text.fr) for text in analysis.not_assessed),
    )


def publish_analysis(
    client: FhirClient, blobs: BlobStore, analysis: StudyAnalysis, settings: Settings
) -> tuple[Published, dict[str, Any]]:
    """Store the files, then write the resources; return what was published and the ``artifacts`` of the answer.

    Doing it again with the same analysis writes nothing.
    """
    created = now()
    result = analysis_result(analysis, settings, created)
    written: dict[int, Files] = {}

    def before_write(revision: int) -> None:
        written[revision] = result_files(analysis, revision, created, settings.site_language)
        store(blobs, result.revision_path(revision), written[revision])

    published = publish(client, result, before_write=before_write)
    if published.report_id is None:
        return published, {}
    files = written.get(published.revision) or result_files(
        analysis, published.revision, created, settings.site_language
    )
    folder = result.revision_path(published.revision)
    artifacts = files.artifacts(folder)
    # after the report, which nobody shall wait for: a run that died in between finds that they are missing
    if published.skipped_reason is None:
        artifacts.update(_dicom_files(blobs, result, published, analysis))
    return published, artifacts


def _dicom_files(
    blobs: BlobStore, result: AnalysisResult, published: Published, analysis: StudyAnalysis
) -> dict[str, str]:
    """Store the SR and the capture that say what the report says, where they are not stored yet (R8)."""
    images = [
        SourceImage(image.sop_uid, image.series_uid, image.sop_class_uid, image.header)
        for image in analysis.images
        if not image.reason
    ]
    if not result.assessed or not images or published.report is None:
        return {}
    revision = published.revision
    names = {name: f"{result.revision_path(revision)}/{name}" for name in (_SC, _SR)}
    if not result.key_image_picture:
        del names[_SC]
    held = _stored_object(blobs, names[_SR])
    if held is None or held.SOPInstanceUID != result.object_uid("sr", revision):
        key = next((image for image in images if image.sop_uid == result.key_image), images[0])
        if _SC in names:
            _keep(blobs, names[_SC], capture(result, published.report, revision, key))
        # last: where the SR is, the capture that it refers to is there too
        _keep(blobs, names[_SR], structured_report(result, published.report, revision, images, held))
    return {name: f"{CONTAINER}/{path}" for name, path in names.items()}


def _stored_object(blobs: BlobStore, name: str) -> Dataset | None:
    try:
        data = blobs.get(CONTAINER, name)
    except BlobMissing:
        return None
    return dcmread(io.BytesIO(data))


def _keep(blobs: BlobStore, name: str, data: bytes) -> None:
    blobs.put(CONTAINER, name, data, content_type="application/dicom")

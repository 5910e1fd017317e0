"""What an analysis leaves in blob storage, and what it answers: result JSON, heatmap as picture and as numbers.

Files lie in container ``results`` under ``<study>/<task>/<revision>/``, so that the report's identifier names them.
What a model in shadow says lies beside, under ``<study>/<task>/shadow/``, and nowhere else.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ai_container.heatmap import map_npy, overlay_png
from ai_container.regions import regions
from ai_container.study_analysis import KeyImage, StudyAnalysis
from imaging_core.blobs import BlobStore

__all__ = [
    "CONTAINER",
    "Files",
    "answer",
    "heatmap_picture",
    "key_picture",
    "result_files",
    "shadow_name",
    "store",
    "store_shadow",
    "study_answer",
]

CONTAINER = "results"


@dataclass(frozen=True)
class Files:
    """Files of one analysis by name, with their media types."""

    contents: dict[str, tuple[bytes, str]]

    def artifacts(self, folder: str) -> dict[str, str]:
        """Return what the answer calls ``artifacts``: file name to ``container/blob``."""
        return {name: f"{CONTAINER}/{folder}/{name}" for name in self.contents}


def heatmap_picture(key: KeyImage) -> bytes:
    """Return the PNG with alpha aligned with the key image's grid."""
    return overlay_png(key.score.strength, key.prepared.rows, key.prepared.columns)


def key_picture(key: KeyImage) -> bytes:
    """Return the key image with the map over it, as JPEG for the report."""
    below = Image.fromarray(key.prepared.picture).convert("RGB")
    with Image.open(io.BytesIO(heatmap_picture(key))) as overlay:
        above = overlay.convert("RGBA").resize(below.size, Image.Resampling.BILINEAR)
        below.paste(above.convert("RGB"), mask=above.getchannel("A"))
    out = io.BytesIO()
    below.save(out, "JPEG", quality=85)
    return out.getvalue()


def result_files(analysis: StudyAnalysis, revision: int, created: str, language: str) -> Files:
    """Return the files of a study's analysis."""
    contents = {"result.json": (_result_json(analysis, revision, created, language), "application/json")}
    if analysis.key_image is not None:
        contents["heatmap.png"] = (heatmap_picture(analysis.key_image), "image/png")
        contents["heatmap.npy"] = (map_npy(analysis.key_image.score.strength), "application/octet-stream")
    return Files(contents)


def store(blobs: BlobStore, folder: str, files: Files) -> None:
    """Write the files, ``result.json`` last: where it is, the others are."""
    for name in sorted(files.contents, key=lambda item: item == "result.json"):
        data, media_type = files.contents[name]
        blobs.put(CONTAINER, f"{folder}/{name}", data, content_type=media_type)


def _rounded(value: float) -> float:
    return round(value, 6)


def answer(analysis: StudyAnalysis) -> dict[str, Any]:
    """Return the part of the HTTP answer that says what one model found."""
    bundle = analysis.bundle
    return {
        "study_uid": analysis.study_uid,
        "task": bundle.task if bundle else None,
        "model": {"name": bundle.name, "version": bundle.version, "sha256": bundle.sha256} if bundle else None,
        "findings": [
            {
                "code": finding.output.code,
                "display": finding.output.display,
                "probability": _rounded(finding.probability),
                "threshold": finding.output.rule.threshold,
                "state": finding.state,
            }
            for finding in analysis.findings
        ],
        "not_analysed": [{"sop_uid": sop_uid, "reason": reason} for sop_uid, reason in analysis.not_analysed],
        "not_assessed": [{"en": text.en, "fr": text.fr} for text in analysis.not_assessed],
        "corrected": [
            {"sop_uid": image.sop_uid, "pose": image.corrected} for image in analysis.images if image.corrected
        ],
        "assumed": ["adult"] if analysis.assumed_adult else [],
    }


def study_answer(analyses: Sequence[StudyAnalysis], answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the answer for a study: its first model's, with what all found and wrote, and each by itself.

    Parameters
    ----------
    analyses : sequence of StudyAnalysis
    answers : sequence of dict
        One per analysis, with ``artifacts``, ``resources`` and ``revision``; at least one.
    """
    resources = [name for item in answers for name in item["resources"]]
    return {
        **answers[0],
        "findings": [finding for item in answers for finding in item["findings"]],
        "not_analysed": _in_none(analyses),
        "resources": list(dict.fromkeys(resources)),
        "analyses": list(answers),
    }


def _in_none(analyses: Sequence[StudyAnalysis]) -> list[dict[str, str]]:
    """Return what no model analysed: an image that one of several refused and another took is analysed."""
    taken = {image.sop_uid for item in analyses for image in item.images if not image.reason}
    reasons = {sop_uid: reason for item in reversed(analyses) for sop_uid, reason in item.not_analysed}
    return [{"sop_uid": uid, "reason": reasons[uid]} for uid in sorted(reasons) if uid not in taken]


def _result_json(analysis: StudyAnalysis, revision: int | None, created: str, language: str) -> bytes:
    said = answer(analysis)
    key = analysis.key_image
    result = {
        **said,
        "revision": revision,
        "created": created,
        "site_language": language,
        "instances": [
            {
                "sop_uid": image.sop_uid,
                "series_uid": image.series_uid,
                "blob": image.blob,
                "sha256": image.sha256,
                "rows": image.rows,
                "columns": image.columns,
                "analysed": not image.reason,
            }
            for image in analysis.images
        ],
        "per_image": [
            {"sop_uid": sop_uid, "finding": finding.output.code, "probability": _rounded(probability)}
            for finding in analysis.findings
            for sop_uid, probability in finding.per_image
        ],
        "abstention": [
            {"code": finding.output.code, "low": finding.output.rule.low, "high": finding.output.rule.high}
            for finding in analysis.findings
        ],
        "key_image": key.sop_uid if key else None,
        "heatmap": _heatmap_json(key) if key and revision is not None else None,
    }
    return (json.dumps(result, ensure_ascii=False, indent=1) + "\n").encode()


def _heatmap_json(key: KeyImage) -> dict[str, Any]:
    """Return where the map is, and its regions in pixels of the stored image."""
    rows, columns = key.prepared.rows, key.prepared.columns
    return {
        "sop_uid": key.sop_uid,
        "finding": key.score.output.code,
        "png": "heatmap.png",
        "npy": "heatmap.npy",
        "rows": rows,
        "columns": columns,
        "regions": [
            {
                "box": {"x": region.x, "y": region.y, "width": region.width, "height": region.height},
                "score": _rounded(region.score),
                "area": _rounded(region.area),
                "contour": [list(point) for point in region.contour],
            }
            for region in regions(key.score.strength, rows, columns)
        ],
    }


def shadow_name(analysis: StudyAnalysis) -> str:
    """Return the blob that keeps what a model in shadow says."""
    assert analysis.bundle is not None  # noqa: S101 a shadow is a model
    bundle = analysis.bundle
    return f"{analysis.study_uid}/{bundle.task}/shadow/{bundle.name}-{bundle.version}.json"


def store_shadow(blobs: BlobStore, analysis: StudyAnalysis, created: str, language: str) -> None:
    """Keep what a model in shadow says; it is published nowhere."""
    data = _result_json(analysis, None, created, language)
    blobs.put(CONTAINER, shadow_name(analysis), data, content_type="application/json")

"""What an analysis leaves in blob storage, and what it answers: result JSON, heatmap as picture and as numbers.

Files lie in container ``results`` under ``<study>/<task>/<revision>/``, so that the report's identifier names them.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ai_container.heatmap import map_npy, overlay_png
from ai_container.study_analysis import KeyImage, StudyAnalysis
from imaging_core.blobs import BlobStore

__all__ = ["Files", "answer", "heatmap_picture", "key_picture", "result_files", "store"]

CONTAINER = "results"


@dataclass(frozen=True)
class Files:
    """Files of one analysis by name, with their media types."""

    contents: dict[str, tuple[bytes, str]]

    def artifacts(self, folder: str) -> dict[str, str]:
        """Return what the answer calls ``artifacts``: file name to ``container/blob``."""
        return {name: f"{CONTAINER}/{folder}/{name}" for name in self.contents}


def heatmap_picture(key: KeyImage) -> bytes:
    """Return the RGBA PNG aligned with the key image's grid."""
    return overlay_png(key.score.strength, key.prepared.rows, key.prepared.columns)


def key_picture(key: KeyImage) -> bytes:
    """Return the key image with the map over it, as JPEG for the report."""
    below = Image.fromarray(key.prepared.picture).convert("RGB")
    with Image.open(io.BytesIO(heatmap_picture(key))) as overlay:
        above = overlay.resize(below.size, Image.Resampling.BILINEAR)
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
    """Return the part of the HTTP answer that says what was found."""
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
    }


def _result_json(analysis: StudyAnalysis, revision: int, created: str, language: str) -> bytes:
    said = answer(analysis)
    bundle, key = analysis.bundle, analysis.key_image
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
        "not_assessed": [{"en": text.en, "fr": text.fr} for text in bundle.not_assessed] if bundle else [],
        "key_image": key.sop_uid if key else None,
        "heatmap": {"sop_uid": key.sop_uid, "png": "heatmap.png", "npy": "heatmap.npy"} if key else None,
    }
    return (json.dumps(result, ensure_ascii=False, indent=1) + "\n").encode()

"""Results as the AI container would hand them over."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

from PIL import Image

from fhir_adapter.findings import AnalysisResult, Finding, InputImage, ModelInfo, NotAnalysed, PerImage, State
from fhir_adapter.terminology import RADLEX

__all__ = ["MODEL", "finding", "not_analysed", "result"]

MODEL = ModelInfo(
    "chest-opacity",
    "1.0.0",
    sha256="ab" * 32,
    manufacturer="Imaging",
    title_en="Lung opacity",
    title_fr="Opacité pulmonaire",
    model_card_url="https://example.org/model-card.md",
    summary_en="Trained on adult frontal chest radiographs.",
    summary_fr="Entraîné sur des radiographies thoraciques de face d'adultes.",
)


def picture() -> bytes:
    """Return a small JPEG."""
    out = io.BytesIO()
    Image.new("RGB", (64, 64), (90, 20, 20)).save(out, "JPEG")
    return out.getvalue()


def finding(state: State = "present", probability: float | None = 0.83, **changes: Any) -> Finding:
    """Return the finding "lung opacity"."""
    made = Finding(
        "RID28530",
        "opacity",
        probability,
        0.5 if probability is not None else None,
        state,
        system=RADLEX,
        key="lung-opacity",
        text_en="Lung opacity (possible pneumonia)",
        text_fr="Opacité pulmonaire (pneumonie possible)",
        body_site="39607008",
        body_site_display="Lung",
    )
    return dataclasses.replace(made, **changes)


def result(header: dict[str, Any], *findings: Finding, **changes: Any) -> AnalysisResult:
    """Return the result for a study of one image."""
    uids = {name: header[tag]["Value"][0] for name, tag in (("study", "0020000D"), ("series", "0020000E"))}
    sop_uid = header["00080018"]["Value"][0]
    made = AnalysisResult(
        uids["study"],
        "chest-opacity",
        MODEL,
        findings or (finding(per_image=(PerImage(sop_uid, 0.83), PerImage(f"{sop_uid}.1", 0.2))),),
        instances=(InputImage(sop_uid, uids["series"], "cd" * 32),),
        site_name="Test hospital",
        key_image=sop_uid,
        key_image_picture=picture(),
    )
    return dataclasses.replace(made, **changes)


def not_analysed(header: dict[str, Any], reason: str, **changes: Any) -> AnalysisResult:
    """Return the result for an image that the model was not made for."""
    sop_uid = header["00080018"]["Value"][0]
    return result(
        header,
        finding("not-assessed", None),
        not_analysed=(NotAnalysed(sop_uid, reason),),
        key_image="",
        key_image_picture=b"",
        **changes,
    )

"""``result.json``: what the AI container keeps beside FHIR. The page takes from it what FHIR R4 has no place for.

FHIR stays the truth on findings; from the file come the key image, what was not assessed, the images that were not
analysed, the heatmap's image.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from clinician_app.fhir_values import Resource, decimal, objects, text
from clinician_app.report import ReportPath
from imaging_core.blobs import BlobMissing, BlobStore
from imaging_core.dicom.header import valid_uid
from imaging_core.errors import Retryable

__all__ = ["ResultFile", "load_report_file", "load_result_file"]

_MOST = 500


@dataclass(frozen=True)
class ResultFile:
    """The parts of a result that the page shows.

    Parameters
    ----------
    model_name, model_version, model_sha256 : str
        Which weights said so.
    key_image, heatmap_image : str
        SOP Instance UIDs; '' where there is none.
    not_analysed : tuple of (str, str)
        SOP Instance UID and reason code.
    not_assessed : tuple of dict
        What the model does not look for, by language.
    analysed : tuple of str
        SOP Instance UIDs.
    """

    model_name: str
    model_version: str
    model_sha256: str
    key_image: str
    heatmap_image: str
    heatmap_name: str
    not_analysed: tuple[tuple[str, str], ...]
    not_assessed: tuple[dict[str, str], ...]
    analysed: tuple[str, ...]
    probabilities: tuple[tuple[str, float], ...]

    def not_assessed_in(self, language: str) -> list[str]:
        """Return what the model does not look for, in `language` (English where there are no such words)."""
        return [words for item in self.not_assessed if (words := item.get(language) or item.get("en", ""))]


def load_result_file(blobs: BlobStore, path: ReportPath) -> ResultFile | None:
    """Read the result file of a report; None where there is none, or one of another study.

    Raises
    ------
    Retryable
        The image store is away.
    """
    try:
        content = json.loads(blobs.get("results", path.blob("result.json")))
    except (BlobMissing, UnicodeDecodeError, json.JSONDecodeError):
        return None
    if not isinstance(content, dict) or content.get("study_uid") != path.study_uid:
        return None
    return parse_result_file(content)


def load_report_file(blobs: BlobStore, path: ReportPath | None) -> ResultFile | None:
    """Return a report's result file; None too where the image store is away, for the page stands without it."""
    if path is None:
        return None
    try:
        return load_result_file(blobs, path)
    except Retryable:
        return None


def parse_result_file(content: Resource) -> ResultFile:
    """Parse the JSON; members of another shape than the contract's read as absent."""
    model, heatmap = (_object(content.get(name)) for name in ("model", "heatmap"))
    instances = list(objects(content.get("instances")))[:_MOST]
    return ResultFile(
        model_name=text(model.get("name"), 100),
        model_version=text(model.get("version"), 100),
        model_sha256=text(model.get("sha256"), 64),
        key_image=_uid(content.get("key_image")),
        heatmap_image=_uid(heatmap.get("sop_uid")),
        heatmap_name="heatmap.png" if heatmap.get("png") == "heatmap.png" else "",
        not_analysed=tuple(
            (_uid(item.get("sop_uid")), text(item.get("reason"), 200)) for item in objects(content.get("not_analysed"))
        )[:_MOST],
        not_assessed=tuple(
            {language: text(words, 200) for language, words in item.items()}
            for item in objects(content.get("not_assessed"))
        )[:_MOST],
        analysed=tuple(filter(None, (_uid(item.get("sop_uid")) for item in instances if item.get("analysed") is True))),
        probabilities=tuple(
            (_uid(item.get("sop_uid")), number)
            for item in objects(content.get("per_image"))
            if (number := decimal(item.get("probability"))) is not None
        )[:_MOST],
    )


def _object(value: object) -> Resource:
    return value if isinstance(value, dict) else {}


def _uid(value: object) -> str:
    uid = text(value, 64)
    return uid if valid_uid(uid) else ""

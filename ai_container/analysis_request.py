"""The body of ``POST /v1/analyses``, parsed once into frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ai_container.study_analysis import InstanceRef
from imaging_core.dicom.header import valid_uid
from imaging_core.errors import Permanent

__all__ = ["MOST_INSTANCES", "AnalysisRequest", "parse_request"]

MOST_INSTANCES = 5000


@dataclass(frozen=True)
class AnalysisRequest:
    """What is to be analysed.

    Parameters
    ----------
    study_uid : str
        Validated UID.
    instances : tuple of InstanceRef
        Each once, in order of UID: the order of the request changes nothing.
    model : str or None
        ``name:version``.
    publish : bool
        Write FHIR resources and files.
    """

    study_uid: str
    instances: tuple[InstanceRef, ...]
    model: str | None
    publish: bool


def parse_request(body: object) -> AnalysisRequest:
    """Parse the JSON body.

    Raises
    ------
    Permanent
        ``missing-field``, ``bad-field``, ``bad-uid``, ``too-many-parts``.
    """
    if not isinstance(body, Mapping):
        raise Permanent("bad-field", "the body must be a JSON object")
    study_uid = _uid(body, "study_uid")
    items = body.get("instances")
    if not isinstance(items, list) or not items:
        raise Permanent("missing-field", "instances: a list with at least one item")
    if len(items) > MOST_INSTANCES:
        raise Permanent("too-many-parts", f"{len(items)} instances, at most {MOST_INSTANCES}")
    found = {ref.sop_uid: ref for ref in (_instance(item, study_uid) for item in items)}
    model = body.get("model")
    if model is not None and (not isinstance(model, str) or model.count(":") != 1):
        raise Permanent("bad-field", 'model: "name:version"')
    publish = body.get("publish", False)
    if not isinstance(publish, bool):
        raise Permanent("bad-field", "publish: true or false")
    return AnalysisRequest(study_uid, tuple(found[uid] for uid in sorted(found)), model, publish)


def _uid(body: Mapping[Any, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise Permanent("missing-field", name)
    if not valid_uid(value):
        raise Permanent("bad-uid", name)
    return value


def _instance(item: object, study_uid: str) -> InstanceRef:
    if not isinstance(item, Mapping):
        raise Permanent("bad-field", "instances: objects with sop_uid and blob")
    blob = item.get("blob")
    if not isinstance(blob, str) or not blob:
        raise Permanent("missing-field", "instances.blob")
    # a caller may only have the blobs of the study that it names be read
    if not blob.startswith(f"{study_uid}/") or ".." in blob:
        raise Permanent("bad-field", "instances.blob: must lie under the study's UID")
    return InstanceRef(_uid(item, "sop_uid"), blob)

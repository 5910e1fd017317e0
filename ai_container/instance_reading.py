"""What a decode child does with one instance: read its header, ask the header gate, and only then decode the pixels.

One call instead of two: the bytes cross to the child once, and what no model takes is never decoded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ai_container.bundle import Scope
from ai_container.gate import refuse_by_header
from ai_container.header_facts import ImageFacts, read_facts
from ai_container.preprocess import ModelInput, prepare_dicom, prepare_display
from ai_container.shared_bytes import SharedBytes, bytes_of
from imaging_core.dicom.header import HeaderLimits, read_opening
from imaging_core.errors import Rejected

__all__ = ["InstanceReading", "prepare_picture", "read_instance"]


@dataclass(frozen=True)
class InstanceReading:
    """An instance as the analysis needs it.

    Parameters
    ----------
    own : bool
        Made by this system from an analysis.
    prepared : ModelInput or None
        None where no scope takes the image by its header, or its pixels can't be read.
    reason : str
        ``no-pixels`` or ``pixels-unreadable``; empty: the pixels were read, or nobody wanted them.
    header : mapping
        DICOM JSON model of the header.
    """

    study_uid: str
    series_uid: str
    sop_uid: str
    own: bool
    facts: ImageFacts
    prepared: ModelInput | None = None
    reason: str = ""
    sop_class_uid: str = ""
    header: Mapping[str, Any] = field(default_factory=dict, repr=False)


def read_instance(
    source: SharedBytes | bytes, limits: HeaderLimits, scopes: tuple[Scope, ...], assume_adult: bool
) -> InstanceReading:
    """Read one DICOM instance; only in a decode child.

    Parameters
    ----------
    scopes : tuple of Scope
        The models that might look at it.

    Raises
    ------
    Rejected
        The header can't be read.
    """
    data = bytes_of(source)
    opening = read_opening(data, len(data), limits)  # intake has checked the rest, and its hashes are not wanted here
    if opening is None:
        raise Rejected("truncated", "the file ends before its data set does")
    header = opening.header
    facts = read_facts(header.attributes)
    prepared, reason = None, ""
    if not header.own and any(not refuse_by_header(scope, facts, assume_adult) for scope in scopes):
        try:
            prepared = prepare_dicom(data)
        except Rejected as error:
            # a file that was cut within its pixels has them by its header
            absent = error.code == "no-pixels" and opening.pixels_at is None
            reason = "no-pixels" if absent else "pixels-unreadable"
    return InstanceReading(
        study_uid=header.study_uid,
        series_uid=header.series_uid,
        sop_uid=header.sop_uid,
        own=header.own,
        facts=facts,
        prepared=prepared,
        reason=reason,
        sop_class_uid=header.sop_class_uid,
        header=header.attributes,
    )


def prepare_picture(source: SharedBytes | bytes, limit_pixels: int) -> ModelInput:
    """Prepare a PNG or JPEG; only in a decode child.

    Raises
    ------
    Rejected
        As `ai_container.preprocess.prepare_display`.
    """
    return prepare_display(bytes_of(source), limit_pixels)

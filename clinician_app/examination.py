"""What the examination page shows: a study, the report that is read, the image that is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clinician_app.report import Report
from clinician_app.result_file import ResultFile
from clinician_app.study import Instance, Study
from clinician_app.study_progress import StudyProgress
from clinician_app.timeline import Entry

__all__ = ["Examination", "ModelName", "assemble"]

_STRIP = 60


@dataclass(frozen=True)
class ModelName:
    """Which model said so; the version is '' where only a display name came."""

    name: str
    version: str
    sha256: str = ""


@dataclass(frozen=True)
class Examination:
    """One page.

    Parameters
    ----------
    entry : Entry
        The study with all its reports.
    report : Report or None
        The one that is read.
    result : ResultFile or None
        What the AI container keeps beside FHIR, for an automated report.
    image : Instance or None
        The one in the viewer.
    has_heatmap : bool
        A heatmap belongs to that image.
    strip : tuple of Instance
        Images to choose from, at most 60 around the one that is shown.
    images_here : bool
        The study's images lie in this system's store as this patient's; else none is offered.
    """

    entry: Entry
    report: Report | None
    result: ResultFile | None
    image: Instance | None
    has_heatmap: bool
    strip: tuple[Instance, ...]
    images_here: bool = True

    @property
    def study(self) -> Study | None:
        """The study, where the EHR shows it."""
        return self.entry.study

    @property
    def other_reports(self) -> tuple[Report, ...]:
        """The study's reports that are not the one being read."""
        return tuple(item for item in self.entry.reports if not self.report or item.id != self.report.id)

    @property
    def progress(self) -> StudyProgress | None:
        """How far the pipeline has come with the study."""
        return self.entry.progress

    @property
    def model(self) -> ModelName | None:
        """The model of an automated report: of the result file, else the Observations' device."""
        if self.result and self.result.model_name:
            return ModelName(self.result.model_name, self.result.model_version, self.result.model_sha256)
        if self.report and self.report.devices:
            return ModelName(self.report.devices[0], "")
        return None

    @property
    def not_analysed(self) -> tuple[tuple[Instance | None, str], ...]:
        """Images that were not analysed, with the reason's code."""
        if not self.result:
            return tuple((None, code) for code in (self.progress.reasons if self.progress else ()))
        images = {item.uid: item for item in self.study.images} if self.study else {}
        return tuple((images.get(uid), code) for uid, code in self.result.not_analysed)

    def number(self, image: Instance) -> int:
        """The image's place in the study, from 1."""
        return self.study.images.index(image) + 1 if self.study else 0


def assemble(
    entry: Entry, report: Report | None, result: ResultFile | None, wanted: str = "", *, images_here: bool = True
) -> Examination:
    """Choose the image: the one asked for, else the report's key image, else one that was analysed, else the first."""
    images: Sequence[Instance] = entry.study.images if entry.study and images_here else ()
    by_uid = {item.uid: item for item in images}
    choices = [wanted]
    if result:
        choices += [result.key_image, result.heatmap_image, *result.analysed]
    image = next((by_uid[uid] for uid in choices if uid in by_uid), images[0] if images else None)
    with_heatmap = bool(image and result and result.heatmap_name and result.heatmap_image == image.uid)
    return Examination(entry, report, result, image, with_heatmap, _strip(images, image), images_here)


def _strip(images: Sequence[Instance], image: Instance | None) -> tuple[Instance, ...]:
    if image is None or len(images) < 2:
        return ()
    place = images.index(image)
    start = max(0, min(place - _STRIP // 2, len(images) - _STRIP))
    return tuple(images[start : start + _STRIP])

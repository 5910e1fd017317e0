"""ImagingStudy as the pages use it: what was examined, when, and which images there are."""

from __future__ import annotations

from dataclasses import dataclass

from clinician_app.fhir_values import Moment, Resource, concept_text, identifiers, moment, objects, text
from imaging_core.dicom.header import valid_uid

__all__ = ["Instance", "Series", "Study", "read_study"]

# What has no pixels to show in the viewer: reports, presentation states, key object notes, encapsulated documents.
_NOT_IMAGES = (
    "1.2.840.10008.5.1.4.1.1.88.",
    "1.2.840.10008.5.1.4.1.1.11.",
    "1.2.840.10008.5.1.4.1.1.104.",
    "1.2.840.10008.5.1.4.1.1.66",
    "1.2.840.10008.5.1.4.1.1.481.",
)


@dataclass(frozen=True)
class Instance:
    """One instance: SOP Instance UID, SOP class UID, number, title."""

    uid: str
    series_uid: str
    sop_class_uid: str
    number: int | None
    title: str

    @property
    def is_image(self) -> bool:
        """Whether the viewer can be asked to show it."""
        return not self.sop_class_uid.startswith(_NOT_IMAGES)


@dataclass(frozen=True)
class Series:
    """One series with its instances in order of their numbers."""

    uid: str
    number: int | None
    modality: str
    description: str
    body_site: str
    laterality: str
    instances: tuple[Instance, ...]


@dataclass(frozen=True)
class Study:
    """One imaging study.

    Parameters
    ----------
    id : str
        Id of the ImagingStudy.
    uid : str
        Study Instance UID, validated; '' where the resource names none (it is listed, its images can't be had).
    started : Moment or None
        When the examination began.
    modalities : tuple of str
        DICOM codes.
    description, accession, reason : str
        '' where absent.
    series : tuple of Series
        In order of their numbers.
    """

    id: str
    uid: str
    started: Moment | None
    modalities: tuple[str, ...]
    description: str
    accession: str
    reason: str
    series: tuple[Series, ...]

    @property
    def images(self) -> tuple[Instance, ...]:
        """The instances that can be shown, in reading order."""
        return tuple(item for series in self.series for item in series.instances if item.is_image)

    @property
    def body_site(self) -> str:
        """The first body site that a series names."""
        return next((series.body_site for series in self.series if series.body_site), "")

    def instance(self, series_uid: str, sop_uid: str) -> Instance | None:
        """Return the instance under these UIDs, or None where the study has none such."""
        for series in self.series:
            if series.uid == series_uid:
                return next((item for item in series.instances if item.uid == sop_uid), None)
        return None

    def series_of(self, instance: Instance) -> Series:
        """Return the series that `instance` is of."""
        return next(series for series in self.series if series.uid == instance.series_uid)


def read_study(resource: Resource) -> Study:
    """Parse an ImagingStudy that is known to be the launch's patient's."""
    named = identifiers(resource.get("identifier"))
    uid = next((item.value.removeprefix("urn:oid:") for item in named if item.system == "urn:dicom:uid"), "")
    series = sorted((_series(item) for item in objects(resource.get("series"))), key=lambda item: _order(item.number))
    modalities = [text(coding.get("code"), 16) for coding in objects(resource.get("modality"))]
    modalities = modalities or [item.modality for item in series]
    return Study(
        id=text(resource.get("id"), 64),
        uid=uid if valid_uid(uid) else "",
        started=moment(resource.get("started")),
        modalities=tuple(dict.fromkeys(code for code in modalities if code)),
        description=text(resource.get("description"), 300) or _procedure(resource),
        accession=next((item.value for item in named if item.type_code == "ACSN"), ""),
        reason=next((found for found in map(concept_text, objects(resource.get("reasonCode"))) if found), ""),
        series=tuple(series),
    )


def _procedure(resource: Resource) -> str:
    return next((found for found in map(concept_text, objects(resource.get("procedureCode"))) if found), "")


def _series(resource: Resource) -> Series:
    uid = text(resource.get("uid"), 64)
    modality, site, side = (resource.get(name) or {} for name in ("modality", "bodySite", "laterality"))
    instances = [
        Instance(
            uid=text(item.get("uid"), 64),
            series_uid=uid,
            sop_class_uid=text(_member(item.get("sopClass"), "code"), 80).removeprefix("urn:oid:"),
            number=_whole(item.get("number")),
            title=text(item.get("title"), 200),
        )
        for item in objects(resource.get("instance"))
    ]
    usable = [item for item in instances if valid_uid(item.uid)] if valid_uid(uid) else []
    return Series(
        uid=uid,
        number=_whole(resource.get("number")),
        modality=text(_member(modality, "code"), 16),
        description=text(resource.get("description"), 300),
        body_site=text(_member(site, "display") or _member(site, "code"), 200),
        laterality=text(_member(side, "display") or _member(side, "code"), 60),
        instances=tuple(sorted(usable, key=lambda item: _order(item.number))),
    )


def _member(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, dict) else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _order(number: int | None) -> int:
    return number if number is not None else 1 << 31

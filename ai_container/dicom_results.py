"""An analysis as DICOM objects of the source study: Comprehensive 3D SR and Secondary Capture (R8).

The SR says what the FHIR report says, in TID 1500 with the algorithm by TID 4019; the capture is the report's key image
with the map over it. Both name this system in Contributing Equipment, so that they never count as input.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from highdicom import ContributingEquipment
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sc import SCImage
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    Comprehensive3DSR,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    ImageContentItem,
    LanguageOfContentItemAndDescendants,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    TrackingIdentifier,
)
from PIL import Image
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, SecondaryCaptureImageStorage
from pydicom.valuerep import DA, TM

from fhir_adapter.client import Resource
from fhir_adapter.dicom_json import clean, text
from fhir_adapter.dicom_time import fhir_date
from fhir_adapter.identity import device_id, dicom_uid
from fhir_adapter.results import AnalysisResult, Finding, ModelInfo
from fhir_adapter.terminology import (
    ARTIFICIAL_INTELLIGENCE,
    BAND_HIGH,
    BAND_LOW,
    DIAGNOSTIC_IMAGING,
    FINDING_STATES,
    OWN_DESIGNATOR,
    PROBABILITY,
    SCT,
    THRESHOLD,
    Code,
    scheme_designator,
)
from fhir_adapter.wording import phrase
from imaging_core import __version__
from imaging_core.dicom.header import SYSTEM_MANUFACTURER

__all__ = ["SourceImage", "capture", "structured_report", "warm_up"]

_SR_SERIES, _SC_SERIES = 9101, 9102
_UTF_8 = "ISO_IR 192"
_UNITY = CodedConcept("1", "UCUM", "no units")
_LANGUAGES = {"en": ("en", "English"), "fr": ("fr", "French")}
# what patient and study modules take over, as far as the source holds it in a form that DICOM allows
_TEXTS = ("PatientID", "IssuerOfPatientID", "StudyDescription")
_NAMES = ("PatientName", "ReferringPhysicianName")
_TAGS = {
    "PatientID": "00100020",
    "IssuerOfPatientID": "00100021",
    "StudyDescription": "00081030",
    "PatientName": "00100010",
    "ReferringPhysicianName": "00080090",
}


@dataclass(frozen=True)
class SourceImage:
    """An image that was analysed: its UIDs, and its header in the DICOM JSON model (PS3.18 Annex F)."""

    sop_uid: str
    series_uid: str
    sop_class_uid: str
    header: Mapping[str, Any]


def structured_report(
    result: AnalysisResult,
    report: Resource,
    revision: int,
    images: Sequence[SourceImage],
    previous: Dataset | None = None,
) -> bytes:
    """Return the Comprehensive 3D SR of an analysis: UNVERIFIED, PRELIMINARY (PS3.3 A.35.13; PS3.16 TID 1500).

    Parameters
    ----------
    result : AnalysisResult
        With at least one finding that was assessed.
    report : Resource
        The DiagnosticReport that says the same; gives the procedure, and the times of examination and report.
    images : sequence of SourceImage
        The images that were analysed, at least one.
    previous : Dataset, optional
        The SR that this one replaces as the report's newest.
    """
    evidence = [_evidence(result.study_uid, image, report) for image in images]
    captured = _captured(result, revision) if result.key_image_picture else None
    made = Comprehensive3DSR(
        evidence=[*evidence, *([captured] if captured is not None else [])],
        content=_content(result, report, revision, images, captured)[0],
        series_instance_uid=dicom_uid(result.study_uid, f"sr-series:{result.task}"),
        series_number=_SR_SERIES,
        sop_instance_uid=result.object_uid("sr", revision),
        instance_number=revision + 1,
        manufacturer=_short(result.model.manufacturer or SYSTEM_MANUFACTURER),
        is_complete=True,
        is_final=False,
        is_verified=False,
        previous_versions=[previous] if previous is not None else None,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        specific_character_set=_UTF_8,
        coding_schemes=[_own_scheme()],
        contributing_equipment=[_equipment(result, report)],
        **_common(result, report, phrase("sr-series", result.language, task=result.task)),
    )
    _finish(made, evidence[0], images[0].header, report)
    return _file(made)


def warm_up() -> None:
    """Build one of each, so that the first study does not wait while code dictionaries are loaded."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "JPEG")
    image = SourceImage("2.25.1", "2.25.2", "1.2.840.10008.5.1.4.1.1.1", {})
    finding = Finding(PROBABILITY.code, PROBABILITY.display, 0.5, 0.5, "present", system=PROBABILITY.system)
    result = AnalysisResult(
        "2.25.3", "warm-up", ModelInfo("warm-up", "0"), (finding,), key_image="2.25.1", key_image_picture=out.getvalue()
    )
    report = {"issued": "2000-01-01T00:00:00Z", "code": DIAGNOSTIC_IMAGING.concept()}
    capture(result, report, 0, image)
    structured_report(result, report, 0, [image])


def capture(result: AnalysisResult, report: Resource, revision: int, key: SourceImage) -> bytes:
    """Return the key image with the map over it as Secondary Capture, JPEG baseline (PS3.3 A.8.1).

    Parameters
    ----------
    key : SourceImage
        The image that was drawn on.
    """
    source = _evidence(result.study_uid, key, report)
    with Image.open(io.BytesIO(result.key_image_picture)) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    series = phrase("sc-series", result.language, task=result.task)
    made = SCImage(
        pixel_array=pixels,
        photometric_interpretation="YBR_FULL_422",
        bits_allocated=8,
        coordinate_system="PATIENT",
        study_instance_uid=result.study_uid,
        series_instance_uid=dicom_uid(result.study_uid, f"sc-series:{result.task}"),
        series_number=_SC_SERIES,
        sop_instance_uid=result.object_uid("sc", revision),
        instance_number=revision + 1,
        manufacturer=_short(result.model.manufacturer or SYSTEM_MANUFACTURER),
        patient_id=source.PatientID,
        patient_name=source.PatientName,
        patient_birth_date=source.PatientBirthDate or None,
        patient_sex=source.PatientSex or None,
        accession_number=source.AccessionNumber,
        study_id=source.StudyID,
        study_date=source.StudyDate or None,
        study_time=source.StudyTime or None,
        referring_physician_name=source.ReferringPhysicianName,
        patient_orientation=("L", "F"),  # the constructor wants one; what is really known is set below
        transfer_syntax_uid=JPEGBaseline8Bit,
        specific_character_set=_UTF_8,
        contributing_equipment=[_equipment(result, report)],
        **_common(result, report, series),
    )
    made.PatientOrientation = _orientation(key.header)
    if part := _code_string(text(key.header.get("00180015"))):
        made.BodyPartExamined = part
    else:
        made.Laterality = ""  # type 2C: unknown, for neither is the body part known (PS3.3 C.7.3.1)
    made.ImageType = ["DERIVED", "SECONDARY", "OTHER", "HEATMAP"]
    made.DerivationDescription = _long(f"{phrase('key-image', result.language)}. {_model_line(result)}")
    made.ImageComments = phrase("not-reviewed", result.language)
    made.LossyImageCompression = "01"
    made.LossyImageCompressionMethod = "ISO_10918_1"
    made.LossyImageCompressionRatio = round(pixels.size / max(1, len(result.key_image_picture)), 2)
    origin = Dataset()
    origin.ReferencedSOPClassUID, origin.ReferencedSOPInstanceUID = key.sop_class_uid, key.sop_uid
    origin.PurposeOfReferenceCodeSequence = [
        CodedConcept("121322", "DCM", "Source Image for Image Processing Operation")
    ]
    made.SourceImageSequence = [origin]
    at = _moment(report)
    made.DateOfSecondaryCapture, made.TimeOfSecondaryCapture = DA(at.date()), TM(at.time())
    _finish(made, source, key.header, report)
    return _file(made)


def _content(
    result: AnalysisResult,
    report: Resource,
    revision: int,
    images: Sequence[SourceImage],
    captured: Dataset | None,
) -> MeasurementReport:
    device = DeviceObserverIdentifyingAttributes(
        uid=f"2.25.{int(device_id(result.model.name, result.model.version).replace('-', ''), 16)}",
        name=result.model.title_en or result.model.name,
        manufacturer_name=result.model.manufacturer or SYSTEM_MANUFACTURER,
        model_name=result.model.name,
        serial_number=result.model.version,
    )
    context = ObservationContext(
        observer_device_context=ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    )
    procedure = report["code"]["coding"][0]
    value, meaning = _LANGUAGES.get(result.language, _LANGUAGES["en"])
    return MeasurementReport(
        observation_context=context,
        procedure_reported=_concept(Code(procedure["system"], procedure["code"], procedure["display"])),
        imaging_measurements=[
            _group(result, finding, revision, images, captured)
            for finding in result.findings
            if finding.state != "not-assessed"
        ],
        language_of_content_item_and_descendants=LanguageOfContentItemAndDescendants(
            CodedConcept(value, "RFC5646", meaning)
        ),
    )


def _group(
    result: AnalysisResult,
    finding: Finding,
    revision: int,
    images: Sequence[SourceImage],
    captured: Dataset | None,
) -> MeasurementsAndQualitativeEvaluations:
    """Return one finding: its state as evaluation, probability and thresholds as measurements (PS3.16 TID 1501)."""
    algorithm = AlgorithmIdentification(
        name=result.model.name,
        version=result.model.version,
        family=_concept(ARTIFICIAL_INTELLIGENCE),
        manufacturer=result.model.manufacturer or None,
    )
    what = _concept(Code(finding.system, finding.code, finding.display))
    numbers: list[tuple[Code, float | None]] = [(PROBABILITY, finding.probability), (THRESHOLD, finding.threshold)]
    if finding.band is not None:
        numbers += [(BAND_LOW, finding.band[0]), (BAND_HIGH, finding.band[1])]
    site = Code(SCT, finding.body_site, finding.body_site_display) if finding.body_site else None
    group = MeasurementsAndQualitativeEvaluations(
        # the Observation's identifier: who has the one finds the other
        tracking_identifier=TrackingIdentifier(
            uid=dicom_uid(result.study_uid, f"tracking:{result.task}:{finding.slug}", revision),
            identifier=f"{result.revision_path(revision)}/{finding.slug}",
        ),
        finding_type=what,
        algorithm_id=algorithm,
        finding_sites=[FindingSite(anatomic_location=_concept(site))] if site else None,
        measurements=[
            Measurement(name=_concept(code), value=round(float(number), 4), unit=_UNITY)
            for code, number in numbers
            if number is not None
        ],
        qualitative_evaluations=[QualitativeEvaluation(name=what, value=_concept(FINDING_STATES[finding.state]))],
        source_images=[
            SourceImageForMeasurementGroup(
                referenced_sop_class_uid=image.sop_class_uid, referenced_sop_instance_uid=image.sop_uid
            )
            for image in images
        ],
    )
    if captured is not None:
        # TID 1501 may be extended: the picture that shows the finding best
        group[0].ContentSequence.append(
            ImageContentItem(
                name=CodedConcept("121080", "DCM", "Best illustration of finding"),
                referenced_sop_class_uid=captured.SOPClassUID,
                referenced_sop_instance_uid=captured.SOPInstanceUID,
                relationship_type=RelationshipTypeValues.CONTAINS,
            )
        )
    return group


def _evidence(study_uid: str, image: SourceImage, report: Resource) -> Dataset:
    """Return what patient and study modules take over: values that DICOM forbids are left empty, not passed on."""
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = image.sop_class_uid, image.sop_uid
    made.StudyInstanceUID, made.SeriesInstanceUID = study_uid, image.series_uid
    for keyword in _TEXTS:
        setattr(made, keyword, _short(text(image.header.get(_TAGS[keyword]))) or None)
    made.PatientName = made.ReferringPhysicianName = None  # set by `_finish`: highdicom warns of what real names are
    for keyword, tag, width in (("AccessionNumber", "00080050", 16), ("StudyID", "00200010", 16)):
        setattr(made, keyword, _short(text(image.header.get(tag)))[:width] or None)
    made.PatientSex = sex if (sex := text(image.header.get("00100040"))) in ("M", "F", "O") else ""
    made.PatientBirthDate = _date(text(image.header.get("00100030")))
    made.StudyDate = _date(text(image.header.get("00080020")))
    made.StudyTime = _time(text(image.header.get("00080030"))) if made.StudyDate else ""
    return made


def _captured(result: AnalysisResult, revision: int) -> Dataset:
    """Return what the SR has to know of the capture."""
    made = Dataset()
    made.StudyInstanceUID = result.study_uid
    made.SOPClassUID = SecondaryCaptureImageStorage
    made.SOPInstanceUID = result.object_uid("sc", revision)
    made.SeriesInstanceUID = dicom_uid(result.study_uid, f"sc-series:{result.task}")
    return made


def _common(result: AnalysisResult, report: Resource, series: str) -> dict[str, Any]:
    at = _moment(report)
    return {
        "series_description": _short(series),
        "manufacturer_model_name": _short(result.model.name),
        "software_versions": _short(result.model.version),
        "content_date": at.date(),
        "content_time": at.time(),
        **({"institution_name": _short(result.site_name)} if result.site_name else {}),
    }


def _finish(made: Dataset, source: Dataset, header: Mapping[str, Any], report: Resource) -> None:
    for keyword in _NAMES:
        setattr(made, keyword, _person(header.get(_TAGS[keyword])))
    for keyword in ("IssuerOfPatientID", "StudyDescription"):
        if source.get(keyword):
            setattr(made, keyword, source.get(keyword))
        elif keyword in made:
            delattr(made, keyword)
    at = _moment(report)
    made.InstanceCreationDate, made.InstanceCreationTime = at.strftime("%Y%m%d"), at.strftime("%H%M%S.%f")
    for item in made.ContributingEquipmentSequence:
        item.ContributionDateTime = at.strftime("%Y%m%d%H%M%S.%f%z")
    if "T" in str(report.get("effectiveDateTime") or ""):
        made.TimezoneOffsetFromUTC = at.strftime("%z")
    made.file_meta.ImplementationVersionName = f"IMAGING_{__version__}"[:16]


def _moment(report: Resource) -> datetime:
    """Return when the report was made, on the clock of the examination: one offset holds for a whole data set.

    Where the examination's offset is unknown it is UTC; Contribution DateTime carries the offset in any case.
    """
    at = datetime.fromisoformat(str(report["issued"]))
    effective = str(report.get("effectiveDateTime") or "")
    if "T" in effective:
        return at.astimezone(datetime.fromisoformat(effective).tzinfo)
    return at.astimezone(UTC)


def _equipment(result: AnalysisResult, report: Resource) -> ContributingEquipment:
    """Name this system: by this item its own objects are known (`imaging_core.dicom.header`; PS3.3 C.12.1)."""
    return ContributingEquipment(
        manufacturer=SYSTEM_MANUFACTURER,
        purpose_of_reference=CodedConcept("109102", "DCM", "Processing Equipment"),
        manufacturer_model_name=_short(result.model.name),
        software_versions=__version__,
        institution_name=_short(result.site_name) if result.site_name else None,
        contribution_datetime=_moment(report),
        contribution_description=phrase("not-reviewed", result.language),
    )


def _own_scheme() -> CodingSchemeIdentificationItem:
    return CodingSchemeIdentificationItem(
        designator=OWN_DESIGNATOR, name="Codes of the imaging system", responsible_organization=SYSTEM_MANUFACTURER
    )


def _concept(code: Code) -> CodedConcept:
    return CodedConcept(code.code, scheme_designator(code.system), _short(code.display))


def _model_line(result: AnalysisResult) -> str:
    title = (result.model.title_fr if result.language == "fr" else result.model.title_en) or result.model.name
    return phrase("model", result.language, title=title, version=result.model.version)


def _person(attribute: Mapping[str, Any] | None) -> str | None:
    """Return a PN value with its component groups, each of 64 characters at most (PS3.5 6.2.1)."""
    values = (attribute or {}).get("Value") or [None]
    value = values[0]
    if isinstance(value, str):
        value = {"Alphabetic": value}
    if not isinstance(value, Mapping):
        return None
    groups = [_name_group(str(value.get(name) or "")) for name in ("Alphabetic", "Ideographic", "Phonetic")]
    return "=".join(groups).rstrip("=") or None


def _name_group(value: str) -> str:
    """Return a component group that DICOM allows: five components at most, no delimiters inside."""
    parts = [_short(clean(part)).replace("=", " ") for part in value.split("^")[:5]]
    return "^".join(parts)[:64].rstrip("^ ")


def _date(value: str) -> str:
    return (fhir_date(value) or "").replace("-", "")


def _time(value: str) -> str:
    """Return a TM value, empty where it is none (PS3.5 6.2; the ACR-NEMA form with colons too)."""
    shown = value.replace(":", "")
    match = re.fullmatch(r"(\d{2})(\d{2})?(\d{2})?(\.\d{1,6})?", shown)
    if match is None or (match.group(4) and not match.group(3)):
        return ""
    hour, minute, second = (int(group or 0) for group in match.group(1, 2, 3))
    return shown if hour < 24 and minute < 60 and second < 60 else ""


def _orientation(header: Mapping[str, Any]) -> list[str]:
    values = (header.get("00200020") or {}).get("Value") or []
    known = [str(value) for value in values if isinstance(value, str) and value and set(value) <= set("LRAPHF")]
    return known if len(known) == 2 else []


def _code_string(value: str) -> str:
    """Return a CS value, empty where it is none (PS3.5 6.2)."""
    return value if re.fullmatch(r"[A-Z0-9_ ]{1,16}", value) else ""


def _short(value: str) -> str:
    """Return an LO value: one line, no delimiter (PS3.5 6.2)."""
    return "".join(char if char.isprintable() and char != "\\" else " " for char in value)[:64].strip()


def _long(value: str) -> str:
    return value.replace("\\", " ")[:1024]


def _file(made: Dataset) -> bytes:
    out = io.BytesIO()
    made.save_as(out, enforce_file_format=True)
    return out.getvalue()

"""A PNG or JPEG becomes a DICOM instance of a Secondary Capture SOP class (PS3.3 A.8).

It has the Modality that was given. A converted picture has no true detector geometry: no spacing is written. Conversion
Type is WSD (workstation). The multi-frame classes of PS3.3 A.8.3 to A.8.5 are the ones for new objects: 8-bit grey,
16-bit grey, true colour, one frame each.
UIDs are derived from the content and the study, so that the same picture sent twice is the same instance.

Only to be called in a decode child (`imaging_core.dicom.child`).
"""

from __future__ import annotations

import hashlib
import io
import uuid
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
)

from imaging_core.dicom.picture import Picture, read_picture

__all__ = ["ImageFields", "capture", "derived_uid"]

_NAMESPACE = uuid.UUID("5f7c7f0a-6a3a-5c0e-9d57-0f4b8c0c9a11")


@dataclass(frozen=True)
class ImageFields:
    """What the uploader says of a picture; see `design` of ``POST /api/images``.

    Parameters
    ----------
    patient_id, birth_date, family, given, sex : str
        Birth date as YYYYMMDD, sex one of M, F, O or empty.
    issuer : str
        Issuer of the patient id, written to (0010,0021) or, as a URI, to the qualifiers sequence; empty: the site's
        own.
    study_uid : str
        Validated UID, or empty: derived from patient and accession, or from the picture.
    modality, body_part, view, accession : str
        DICOM attributes of the same names; view is View Position (0018,5101).
    acquired_at : datetime or None
        With an offset where the uploader gave one.
    """

    patient_id: str
    birth_date: str
    family: str
    given: str = ""
    sex: str = ""
    issuer: str = ""
    accession: str = ""
    modality: str = "DX"
    body_part: str = ""
    view: str = ""
    acquired_at: datetime | None = None
    study_uid: str = ""
    limit_pixels: int = field(default=100_000_000, compare=False)


def derived_uid(*parts: str) -> str:
    """Return ``2.25.<UUIDv5 as integer>`` (PS3.5 B.2), the same for the same parts."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, chr(31).join(parts)).int}"


def capture(data: bytes, fields: ImageFields) -> bytes:
    """Return the DICOM Part 10 file of a picture.

    Parameters
    ----------
    data : bytes
        PNG or JPEG: see `imaging_core.dicom.picture`.
    fields : ImageFields
        Patient, study and view.

    Raises
    ------
    Rejected
        ``not-an-image``, ``too-many-pixels``, ``colour-not-supported``, ``several-frames``, ``pixels-unreadable``.
    """
    digest = hashlib.sha256(data).hexdigest()
    picture = read_picture(data, fields.limit_pixels)
    study_uid = fields.study_uid or derived_uid("study", fields.issuer, fields.patient_id, fields.accession or digest)
    dataset = _dataset(picture, fields, study_uid, digest)
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


def _dataset(picture: Picture, fields: ImageFields, study_uid: str, digest: str) -> Dataset:
    dataset = Dataset()
    pixels = picture.pixels
    colour, words = pixels.ndim == 3, pixels.dtype == np.uint16
    if colour:
        dataset.SOPClassUID = MultiFrameTrueColorSecondaryCaptureImageStorage
    elif words:
        dataset.SOPClassUID = MultiFrameGrayscaleWordSecondaryCaptureImageStorage
    else:
        dataset.SOPClassUID = MultiFrameGrayscaleByteSecondaryCaptureImageStorage
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPInstanceUID = derived_uid("instance", study_uid, fields.view, fields.body_part, digest)
    dataset.StudyInstanceUID = study_uid
    dataset.SeriesInstanceUID = derived_uid("series", study_uid, fields.modality, fields.body_part)
    _patient_module(dataset, fields)
    when = fields.acquired_at
    dataset.StudyDate = dataset.ContentDate = when.strftime("%Y%m%d") if when else ""
    dataset.StudyTime = dataset.ContentTime = when.strftime("%H%M%S") if when else ""
    if when is not None and when.tzinfo is not None:
        dataset.TimezoneOffsetFromUTC = when.strftime("%z")
    dataset.AccessionNumber = fields.accession
    dataset.ReferringPhysicianName = ""
    dataset.StudyID = ""
    dataset.SeriesNumber = None
    dataset.InstanceNumber = "1"
    dataset.Modality = fields.modality
    dataset.ConversionType = "WSD"
    # Type 1 in PS3.3 C.8.6.3; nobody has looked, and a picture may well be marked, so the cautious answer.
    dataset.BurnedInAnnotation = "YES"
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    if fields.body_part:
        dataset.BodyPartExamined = fields.body_part
    if fields.view:
        dataset.ViewPosition = fields.view
    dataset.PatientOrientation = ""
    dataset.NumberOfFrames = 1
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        dataset.PlanarConfiguration = 0
    else:
        dataset.PresentationLUTShape = "IDENTITY"
        dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = "0", "1", "US"
    dataset.BitsAllocated = 16 if words else 8
    dataset.BitsStored, dataset.HighBit = picture.bits, picture.bits - 1
    dataset.PixelRepresentation = 0
    body = pixels.tobytes() if not words else pixels.astype("<u2").tobytes()
    dataset.PixelData = body + b"\0" * (len(body) % 2)
    dataset["PixelData"].VR = "OW" if words else "OB"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def _patient_module(dataset: Dataset, fields: ImageFields) -> None:
    dataset.PatientID = fields.patient_id
    dataset.PatientName = f"{fields.family}^{fields.given}".rstrip("^")
    dataset.PatientBirthDate = fields.birth_date
    dataset.PatientSex = fields.sex
    if not fields.issuer:
        return
    dataset.IssuerOfPatientID = fields.issuer[:64]
    if fields.issuer.startswith("urn:oid:"):
        qualifier = Dataset()
        qualifier.UniversalEntityID = fields.issuer.removeprefix("urn:oid:")
        qualifier.UniversalEntityIDType = "ISO"
        dataset.IssuerOfPatientIDQualifiersSequence = [qualifier]
    elif ":" in fields.issuer:
        qualifier = Dataset()
        qualifier.UniversalEntityID = fields.issuer
        qualifier.UniversalEntityIDType = "URI"
        dataset.IssuerOfPatientIDQualifiersSequence = [qualifier]

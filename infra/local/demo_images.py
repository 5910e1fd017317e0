"""The images of ``imaging demo``: real ones from PyPI's `pydicom-data`, and a person's own from a folder."""

from __future__ import annotations

import hashlib
import importlib.util
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from imaging_core.errors import Permanent

__all__ = ["DemoImage", "DemoPatient", "builtin_images", "registered_patients", "sample_images"]

Door = Literal["STOW-RS", "image upload", "blob drop"]

_PICTURES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class DemoPatient:
    """Who is on file before any image comes."""

    number: str
    family: str
    given: str
    birth_date: str  # YYYY-MM-DD
    gender: str


@dataclass(frozen=True)
class DemoImage:
    """One file and the door through which it goes; `sop_uid` is empty where the system makes it."""

    title: str
    door: Door
    data: bytes = field(repr=False)
    sop_uid: str = ""
    fields: tuple[tuple[str, str], ...] = ()


# the names and dates are those in the files' headers; the last one is made up, for the PNG
_PATIENTS = (
    DemoPatient("9RG1", "CompressedSamples", "RG1", "1940-03-05", "female"),
    DemoPatient("11RG3", "CompressedSamples", "RG3", "1979-04-08", "female"),
    DemoPatient("5MR2", "CompressedSamples", "MR2", "1950-01-12", "male"),
    DemoPatient("DEMO-1001", "Martin", "Alice", "1957-06-21", "female"),
)

_FILES: tuple[tuple[str, Door, str], ...] = (
    ("chest CR, uncompressed", "STOW-RS", "RG1_UNCR.dcm"),
    ("chest CR, JPEG 2000 lossless", "STOW-RS", "RG1_J2KR.dcm"),
    ("chest CR, JPEG 2000", "blob drop", "RG1_J2KI.dcm"),
    ("leg CR", "STOW-RS", "RG3_J2KR.dcm"),
    ("head MR", "STOW-RS", "MR2_J2KR.dcm"),
    ("head CT", "STOW-RS", "693_J2KR.dcm"),
)


def registered_patients() -> Sequence[DemoPatient]:
    """Return the patients that the demo registers over FHIR."""
    return _PATIENTS


def builtin_images() -> Iterator[DemoImage]:
    """Yield the real images; nothing of them is in this repository.

    Raises
    ------
    Permanent
        `pydicom-data` is not installed.
    """
    spec = importlib.util.find_spec("data_store")
    if spec is None or spec.origin is None:
        raise Permanent("bad-setting", "the demo images are not installed: pip install pydicom-data")
    folder = Path(spec.origin).parent / "data"
    for title, door, name in _FILES:
        yield _dicom_file(folder / name, title, door)
    patient = _PATIENTS[-1]
    fields = {
        "patient_id": patient.number,
        "birth_date": patient.birth_date,
        "family": patient.family,
        "given": patient.given,
        "sex": "F",
        "body_part": "CHEST",
        "view": "PA",
        # the age at acquisition decides whether the model may look at it
        "acquired_at": "2026-01-05T10:15:00",
    }
    yield DemoImage("chest, as PNG", "image upload", _as_png(folder / "RG1_UNCR.dcm"), fields=tuple(fields.items()))


def sample_images(folder: Path, limit: int) -> tuple[list[DemoImage], int]:
    """Return the images of a folder and its subfolders, by name, and how many were left out.

    Parameters
    ----------
    limit : int
        Most images; 0: all.

    Notes
    -----
    PNG and JPEG files are wrapped as DICOM (CR, chest PA, an adult with a made-up header), DICOM files go as they are.
    The same file gets the same UIDs and patient each time.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and _is_image(path))
    taken = files[:limit] if limit else files
    images = [
        _wrapped(path) if path.suffix.lower() in _PICTURES else _dicom_file(path, path.name, "STOW-RS")
        for path in taken
    ]
    return images, len(files) - len(taken)


def _is_image(path: Path) -> bool:
    if path.suffix.lower() in _PICTURES:
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _dicom_file(path: Path, title: str, door: Door) -> DemoImage:
    header = pydicom.dcmread(path, specific_tags=["SOPInstanceUID"], stop_before_pixels=True)
    return DemoImage(title, door, path.read_bytes(), str(header.SOPInstanceUID))


def _as_png(path: Path) -> bytes:
    source = pydicom.dcmread(path)
    pixels = source.pixel_array.astype(np.float32)
    low, high = np.percentile(pixels, (0.5, 99.5))
    scaled = np.clip((pixels - low) / max(high - low, 1), 0, 1)
    if source.PhotometricInterpretation == "MONOCHROME1":
        scaled = 1 - scaled
    return _png((scaled * 255).astype(np.uint8))


def _png(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _wrapped(path: Path) -> DemoImage:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    pixels = np.asarray(Image.open(path).convert("L"))
    dataset = _radiograph(pixels, digest)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return DemoImage(path.name, "STOW-RS", buffer.getvalue(), str(dataset.SOPInstanceUID))


def _radiograph(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], digest: str) -> Dataset:
    """Return a CR chest PA instance (PS3.3 A.2) of a made-up adult."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["instance", digest])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    values = {
        "SpecificCharacterSet": "ISO_IR 192",
        "SOPClassUID": ComputedRadiographyImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": generate_uid(entropy_srcs=["study", digest]),
        "SeriesInstanceUID": generate_uid(entropy_srcs=["series", digest]),
        "StudyDate": "20260105",
        "StudyTime": "101500",
        "AccessionNumber": f"S{digest[:10].upper()}",
        "Modality": "CR",
        "ReferringPhysicianName": "",
        "StudyDescription": "Chest PA",
        "PatientName": f"Sample^{digest[:6].upper()}",
        "PatientID": f"SAMPLE-{digest[:8].upper()}",
        "PatientBirthDate": "19700101",
        "PatientSex": "O",
        "PatientAge": "056Y",
        "StudyID": "1",
        "SeriesNumber": 1,
        "InstanceNumber": 1,
        "BodyPartExamined": "CHEST",
        "ViewPosition": "PA",
        "PatientOrientation": ["L", "F"],
        "Laterality": "",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelRepresentation": 0,
    }
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    raw = pixels.tobytes()
    dataset.PixelData = raw + b"\0" * (len(raw) % 2)
    return dataset

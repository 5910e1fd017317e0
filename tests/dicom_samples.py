"""Small DICOM instances and pictures that tests make."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

__all__ = ["instance", "jpeg", "multipart", "part10", "png"]


def instance(**changes: Any) -> Dataset:
    """Return a small valid CT instance; keywords replace attributes, None deletes one."""
    dataset = Dataset()
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = generate_uid()
    dataset.StudyDate, dataset.StudyTime = "20240102", "030405"
    dataset.Modality = "CT"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.RescaleIntercept, dataset.RescaleSlope = "0", "1"
    dataset.PatientID = f"T{generate_uid()[-12:]}"
    dataset.PatientName = "Doe^Jane"
    dataset.PatientBirthDate = "19700102"
    dataset.PatientSex = "F"
    dataset.Rows = dataset.Columns = 4
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 0
    dataset.PixelData = bytes(32)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for keyword, value in changes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    return dataset


def part10(dataset: Dataset) -> bytes:
    """Return the DICOM Part 10 file."""
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


def png(shape: tuple[int, int] = (64, 48), *, bits: int = 8, seed: int = 0) -> bytes:
    """Return a grey PNG of noise, rows by columns."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 2**bits - 1, shape, dtype=np.uint8 if bits == 8 else np.uint16)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def jpeg(mode: str = "L", *, seed: int = 0, orientation: int = 0) -> bytes:
    """Return a JPEG of noise, 40 rows by 60 columns, with an EXIF orientation where one is given."""
    bands = {"L": (), "RGB": (3,), "CMYK": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 60, *bands), dtype=np.uint8)
    out = io.BytesIO()
    picture = Image.fromarray(pixels, mode) if mode == "CMYK" else Image.fromarray(pixels)
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    picture.save(out, "JPEG", exif=exif)
    return out.getvalue()


def multipart(*files: bytes, kind: str = "application/dicom") -> tuple[bytes, str]:
    """Return the body and Content-Type of a STOW-RS request."""
    body = b"".join(f"--XX\r\nContent-Type: {kind}\r\n\r\n".encode() + file + b"\r\n" for file in files)
    return body + b"--XX--\r\n", f'multipart/related; type="{kind}"; boundary=XX'

"""The demo's images are real, valid and the same each time."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.uid import ComputedRadiographyImageStorage

from infra.local.demo_images import builtin_images, registered_patients, sample_images


def test_builtin_images_cover_what_the_demo_promises() -> None:
    images = list(builtin_images())
    assert {image.door for image in images} == {"STOW-RS", "image upload", "blob drop"}
    headers = [pydicom.dcmread(io.BytesIO(image.data), stop_before_pixels=True) for image in images if image.sop_uid]
    assert {header.Modality for header in headers} == {"CR", "MR", "CT"}
    uids = [header.SOPInstanceUID for header in headers]
    assert len(set(uids)) == len(uids)
    chests = [header for header in headers if header.get("BodyPartExamined") == "CHEST"]
    assert len({header.file_meta.TransferSyntaxUID for header in chests}) == len(chests) == 3


def test_registered_patients_are_those_in_the_headers() -> None:
    on_file = {patient.number: patient for patient in registered_patients()}
    for image in builtin_images():
        if not image.sop_uid:
            assert dict(image.fields)["patient_id"] in on_file
            continue
        header = pydicom.dcmread(io.BytesIO(image.data), stop_before_pixels=True)
        patient = on_file.get(header.PatientID)
        if patient is not None:
            assert patient.birth_date.replace("-", "") == header.PatientBirthDate
            assert f"{patient.family}^{patient.given}" == str(header.PatientName)


def test_pictures_of_a_folder_become_the_same_radiograph_each_time(tmp_path: Path) -> None:
    pixels = np.arange(30, dtype=np.uint8).reshape(5, 6)
    (tmp_path / "deeper").mkdir()
    Image.fromarray(pixels).save(tmp_path / "deeper" / "a.png")
    Image.fromarray(pixels + 1).save(tmp_path / "b.png")
    (tmp_path / "notes.txt").write_text("no image")
    (first, second), left_out = sample_images(tmp_path, 0)
    assert left_out == 0
    dataset = pydicom.dcmread(io.BytesIO(second.data))
    assert dataset.SOPClassUID == ComputedRadiographyImageStorage
    assert (dataset.BodyPartExamined, dataset.ViewPosition, dataset.Modality) == ("CHEST", "PA", "CR")
    assert np.array_equal(dataset.pixel_array, pixels)
    again, left_out = sample_images(tmp_path, 1)
    assert left_out == 1
    assert again == [first]
    (tmp_path / "c.dcm").write_bytes(second.data)
    images, _ = sample_images(tmp_path, 0)
    assert images[1].data == second.data

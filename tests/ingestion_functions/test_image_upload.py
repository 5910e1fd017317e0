"""PNG and JPEG with patient fields, as a sender sees it."""

from __future__ import annotations

import io
import json
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from imaging_core.database import unit_of_work
from ingestion_functions import image_upload, progress
from ingestion_functions.services import Services
from tests.dicom_samples import jpeg, png
from tests.ingestion_functions.conftest import Door


def form(file: bytes | None, **fields: str) -> tuple[bytes, str]:
    body = b"".join(
        f'--FF\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    )
    if file is not None:
        body += b'--FF\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n'
        body += b"Content-Type: application/octet-stream\r\n\r\n" + file + b"\r\n"
    return body + b"--FF--\r\n", "multipart/form-data; boundary=FF"


def fields(**changes: str) -> dict[str, str]:
    return {"patient_id": f"P{generate_uid()[-10:]}", "birth_date": "1980-05-06", "family": "Martin"} | changes


def body_of(response: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(response.get_body())
    return found


def stored(parts: Services, answer: dict[str, Any]) -> Dataset:
    with unit_of_work(parts.pool) as connection:
        row = connection.execute("SELECT blob FROM ledger.instance WHERE sop_uid = %s", (answer["sop_uid"],)).fetchone()
    assert row is not None
    return dcmread(io.BytesIO(parts.blobs.get("images", row[0])))


def test_a_png_becomes_an_instance_of_its_patient(door: Door, parts: Services) -> None:
    sent = fields(
        given="Anne", sex="F", view="PA", body_part="chest", accession="A1", acquired_at="2024-03-04T05:06:07"
    )
    response = door(image_upload.upload, *form(png(), **sent))
    assert response.status_code == 201
    answer = body_of(response)
    assert answer["outcome"] == "accepted"
    dataset = stored(parts, answer)
    assert (dataset.PatientID, str(dataset.PatientName), dataset.PatientBirthDate) == (
        sent["patient_id"],
        "Martin^Anne",
        "19800506",
    )
    assert (dataset.Modality, dataset.ViewPosition, dataset.BodyPartExamined) == ("DX", "PA", "CHEST")
    assert (dataset.StudyDate, dataset.StudyTime, dataset.TimezoneOffsetFromUTC) == ("20240304", "050607", "+0100")
    assert "PixelSpacing" not in dataset
    assert "ImagerPixelSpacing" not in dataset
    assert dataset.SOPClassUID.name.startswith("Multi-frame Grayscale Byte Secondary Capture")


def test_its_patient_and_study_are_in_fhir_at_once(door: Door, parts: Services) -> None:
    answer = body_of(door(image_upload.upload, *form(png(seed=3), **fields())))
    state = body_of(door(progress.delivery, method="GET", route={"intake_id": answer["intake_id"]}))
    assert state["study"]["state"] in ("registered", "no_model")
    patient = parts.fhir.read("Patient", state["study"]["subject"].split("/")[1])
    assert patient is not None
    assert patient["birthDate"] == "1980-05-06"


@pytest.mark.requirement("D50")
def test_sixteen_bits_are_kept(door: Door, parts: Services) -> None:
    data = png(bits=16)
    dataset = stored(parts, body_of(door(image_upload.upload, *form(data, **fields()))))
    assert dataset.BitsStored == 16
    assert np.array_equal(dataset.pixel_array, np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.requirement("D50")
def test_exif_orientation_is_applied_and_left_behind(door: Door, parts: Services) -> None:
    dataset = stored(parts, body_of(door(image_upload.upload, *form(jpeg(orientation=6), **fields()))))
    assert (dataset.Rows, dataset.Columns) == (60, 40)
    assert b"Exif" not in dataset.PixelData


def test_the_same_picture_again_is_the_same_instance(door: Door, parts: Services) -> None:
    sent = form(png(seed=5), **fields())
    first, second = (body_of(door(image_upload.upload, *sent)) for _ in range(2))
    assert first["sop_uid"] == second["sop_uid"]
    assert (first["outcome"], second["outcome"]) == ("accepted", "duplicate")


def test_pictures_of_one_accession_share_a_study(door: Door, parts: Services) -> None:
    sent = fields(accession="A77")
    first = body_of(door(image_upload.upload, *form(png(seed=6), **sent, view="PA")))
    second = body_of(door(image_upload.upload, *form(png(seed=7), **sent, view="LL")))
    assert first["study_uid"] == second["study_uid"]
    assert first["sop_uid"] != second["sop_uid"]


def bomb() -> bytes:
    """A PNG whose header says 50,000 x 50,000."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


REFUSED: list[tuple[str, bytes | None, dict[str, str], int, str]] = [
    ("no patient id", png(), {"patient_id": ""}, 400, "missing-field"),
    ("no birth date", png(), {"birth_date": ""}, 400, "missing-field"),
    ("no family", png(), {"family": ""}, 400, "missing-field"),
    ("no file", None, {}, 400, "missing-field"),
    ("bad date", png(), {"birth_date": "1980-13-01"}, 400, "bad-field"),
    ("caret in name", png(), {"family": "A^B"}, 400, "bad-field"),
    ("bad study", png(), {"study_uid": "../x"}, 400, "bad-uid|bad-field"),
    ("bad time", png(), {"acquired_at": "yesterday"}, 400, "bad-field"),
    ("text", b"This is no picture", {}, 415, "not-an-image"),
    ("svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", {}, 415, "not-an-image"),
    ("cut off", png()[:200], {}, 422, "pixels-unreadable"),
    ("print colours", jpeg("CMYK"), {}, 415, "colour-not-supported"),
    ("bomb", bomb(), {}, 400, "too-many-pixels"),
]


@pytest.mark.requirement("D45", "D50")
@pytest.mark.parametrize(
    ("file", "changes", "status", "code"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_refusals_are_typed_and_leave_a_row(
    door: Door, parts: Services, file: bytes | None, changes: dict[str, str], status: int, code: str
) -> None:
    response = door(image_upload.upload, *form(file, **fields(**changes)))
    answer = body_of(response)
    assert (response.status_code, response.mimetype) == (status, "application/problem+json")
    assert answer["code"] in code.split("|")
    assert answer["trace_id"]
    with unit_of_work(parts.pool) as connection:
        row = connection.execute(
            "SELECT outcome, reason FROM ledger.intake WHERE intake_id = %s", (answer["intake_id"],)
        ).fetchone()
    assert row == ("rejected", answer["code"])


@pytest.mark.requirement("D43")
def test_a_refusal_repeats_no_value(door: Door, parts: Services) -> None:
    response = door(image_upload.upload, *form(png(), **fields(birth_date="1980-13-77", family="Secretname^x")))
    assert "Secretname" not in response.get_body().decode()
    assert "1980-13-77" not in response.get_body().decode()


@pytest.mark.requirement("P2", "P4")
def test_a_number_that_matches_with_another_birth_date_is_held(door: Door, parts: Services) -> None:
    sent = fields()
    assert body_of(door(image_upload.upload, *form(png(seed=8), **sent)))["outcome"] == "accepted"
    response = door(image_upload.upload, *form(png(seed=9), **(sent | {"birth_date": "1990-01-01"})))
    answer = body_of(response)
    assert response.status_code == 201
    assert (answer["outcome"], answer["reason"]) == ("held", "patient-mismatch")
    state = body_of(door(progress.delivery, method="GET", route={"intake_id": answer["intake_id"]}))
    assert (state["outcome"], state["reason"], state["study"]["state"]) == ("held", "patient-mismatch", "held")
    assert stored(parts, answer).PatientBirthDate == "19900101"


def test_a_delivery_is_told_to_its_client_alone(door: Door, parts: Services) -> None:
    assert door(progress.delivery, method="GET", route={"intake_id": "nonsense"}).status_code == 404
    answer = body_of(door(image_upload.upload, *form(png(seed=10), **fields())))
    with unit_of_work(parts.pool) as connection:
        connection.execute(
            "UPDATE ledger.intake SET client = 'somebody-else' WHERE intake_id = %s", (answer["intake_id"],)
        )
    assert door(progress.delivery, method="GET", route={"intake_id": answer["intake_id"]}).status_code == 404

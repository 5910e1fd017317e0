"""STOW-RS (PS3.18 10.5) as a sender sees it, over real stores."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.uid import ImplicitVRLittleEndian, RLELossless, generate_uid

from imaging_core.database import unit_of_work
from ingestion_functions import progress, stow
from ingestion_functions.services import Services
from tests.dicom_samples import instance, multipart, part10
from tests.ingestion_functions.conftest import Door

NOT_DICOM = b"This is no DICOM file. " * 10


def body_of(response: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(response.get_body())
    return found


def reasons(body: dict[str, Any]) -> list[str]:
    items = [item for tag in ("00081198", "0008119A") for item in body.get(tag, {}).get("Value", [])]
    return [f"{item['00081197']['Value'][0]:04X}" for item in items]


def deliveries(parts: Services, **where: str) -> list[tuple[str, str | None]]:
    (column, value), *_ = where.items()
    with unit_of_work(parts.pool) as connection:
        return connection.execute(
            f"SELECT outcome, reason FROM ledger.intake WHERE {column} = %s ORDER BY received_at",  # noqa: S608  # a name of this file
            (value,),
        ).fetchall()


@pytest.mark.requirement("D1")
def test_all_stored_is_200_with_each_instance_named(parts: Services, door: Door) -> None:
    first = instance()
    second = instance(StudyInstanceUID=first.StudyInstanceUID, PatientID=first.PatientID)
    response = door(stow.store, *multipart(part10(first), part10(second)))
    assert response.status_code == 200
    body = body_of(response)
    assert [item["00081155"]["Value"][0] for item in body["00081199"]["Value"]] == [
        first.SOPInstanceUID,
        second.SOPInstanceUID,
    ]
    assert body["00081190"]["Value"][0].endswith(f"/dicomweb/studies/{first.StudyInstanceUID}")
    assert "00081198" not in body
    Dataset.from_json(body)
    stored = parts.blobs.get("images", f"{first.StudyInstanceUID}/{first.SeriesInstanceUID}/{first.SOPInstanceUID}.dcm")
    assert stored == part10(first)


@pytest.mark.requirement("D2", "D6", "D11")
def test_some_stored_is_202_and_the_others_have_reasons(parts: Services, door: Door) -> None:
    good = instance()
    response = door(
        stow.store, *multipart(part10(good), NOT_DICOM, part10(instance(RescaleSlope="0", RescaleIntercept="0")))
    )
    assert response.status_code == 202
    assert reasons(body_of(response)) == ["C000", "C000"]
    assert deliveries(parts, sop_uid=good.SOPInstanceUID) == [("accepted", None)]


@pytest.mark.requirement("D3")
def test_nothing_readable_is_400(door: Door, parts: Services) -> None:
    response = door(stow.store, *multipart(NOT_DICOM, NOT_DICOM))
    assert (response.status_code, response.mimetype) == (400, "application/problem+json")
    assert body_of(response)["code"] == "not-dicom"
    assert reasons(body_of(response)) == ["C000", "C000"]


def test_a_single_delivery_can_be_followed(door: Door, parts: Services) -> None:
    response = door(stow.store, *multipart(part10(instance())))
    state = door(progress.delivery, method="GET", route={"intake_id": response.headers["X-Intake-Id"]})
    assert body_of(state)["outcome"] == "accepted"


@pytest.mark.requirement("D4", "D15")
def test_conflict_alone_is_409_and_never_overwrites(parts: Services, door: Door) -> None:
    first = instance()
    assert door(stow.store, *multipart(part10(first))).status_code == 200
    other = instance(
        SOPInstanceUID=first.SOPInstanceUID,
        StudyInstanceUID=first.StudyInstanceUID,
        SeriesInstanceUID=first.SeriesInstanceUID,
        PatientID=first.PatientID,
        PixelData=bytes(range(32)),
    )
    response = door(stow.store, *multipart(part10(other)))
    assert response.status_code == 409
    assert reasons(body_of(response)) == ["0110"]
    assert deliveries(parts, sop_uid=first.SOPInstanceUID) == [
        ("accepted", None),
        ("quarantined", "conflicting-content"),
    ]
    name = f"{first.StudyInstanceUID}/{first.SeriesInstanceUID}/{first.SOPInstanceUID}.dcm"
    assert parts.blobs.get("images", name) == part10(first)
    with unit_of_work(parts.pool) as connection:
        row = connection.execute(
            "SELECT blob FROM ledger.intake WHERE sop_uid = %s AND outcome = 'quarantined'", (first.SOPInstanceUID,)
        ).fetchone()
    assert row is not None
    assert parts.blobs.get(*row[0].split("/", 1)) == part10(other)


@pytest.mark.requirement("D5")
@pytest.mark.parametrize("kind", ["text/plain", "", "multipart/form-data; boundary=XX", "image/png"])
def test_wrong_media_type_is_415(door: Door, parts: Services, kind: str) -> None:
    response = door(stow.store, b"x", kind)
    assert response.status_code == 415
    assert response.mimetype == "application/problem+json"
    assert body_of(response)["code"] == "unsupported-media-type"
    assert deliveries(parts, intake_id=body_of(response)["intake_id"]) == [("rejected", "unsupported-media-type")]


@pytest.mark.requirement("D9")
def test_another_study_than_the_address_fails(door: Door, parts: Services) -> None:
    good = instance()
    response = door(
        stow.store, *multipart(part10(good), part10(instance())), route={"study": str(good.StudyInstanceUID)}
    )
    assert response.status_code == 202
    assert reasons(body_of(response)) == ["C000"]


BODIES: list[tuple[str, Callable[[], tuple[bytes, str]], str]] = [
    ("empty", lambda: (b"", multipart()[1]), "empty-body"),
    ("no part", lambda: (b"--XX--\r\n", multipart()[1]), "bad-multipart"),
    ("no boundary", lambda: (multipart(b"x")[0], 'multipart/related; type="application/dicom"'), "bad-multipart"),
    ("cut off", lambda: (multipart(b"x")[0][:-10], multipart()[1]), "bad-multipart"),
    ("other boundary", lambda: (multipart(b"x")[0].replace(b"XX", b"YY"), multipart()[1]), "bad-multipart"),
    ("single, empty", lambda: (b"", "application/dicom"), "empty-body"),
]


@pytest.mark.requirement("D10")
@pytest.mark.parametrize(("make", "code"), [case[1:] for case in BODIES], ids=[case[0] for case in BODIES])
def test_broken_body_is_400_and_leaves_a_row(
    door: Door, parts: Services, make: Callable[[], tuple[bytes, str]], code: str
) -> None:
    response = door(stow.store, *make())
    assert response.status_code == 400
    assert body_of(response)["code"] == code
    assert deliveries(parts, intake_id=body_of(response)["intake_id"]) == [("rejected", code)]


@pytest.mark.requirement("D13")
def test_answer_form_by_accept(door: Door, parts: Services) -> None:
    body, kind = multipart(part10(instance()))
    as_xml = door(stow.store, body, kind, Accept="application/dicom+xml")
    assert as_xml.mimetype == "application/dicom+xml"
    root = ElementTree.fromstring(as_xml.get_body())  # noqa: S314  # our own answer
    assert root.tag.endswith("NativeDicomModel")
    assert {node.get("keyword") for node in root} == {"RetrieveURL", "ReferencedSOPSequence"}
    assert door(stow.store, body, kind, Accept="application/dicom+json").mimetype == "application/dicom+json"
    assert door(stow.store, body, kind, Accept="text/html").status_code == 406


@pytest.mark.requirement("D14")
def test_the_same_again_is_a_duplicate_and_a_success(door: Door, parts: Services) -> None:
    sent = instance()
    body = multipart(part10(sent))
    assert [door(stow.store, *body).status_code for _ in range(3)] == [200, 200, 200]
    outcomes = [outcome for outcome, _ in deliveries(parts, sop_uid=sent.SOPInstanceUID)]
    assert outcomes == ["accepted", "duplicate", "duplicate"]


def test_bare_instance_and_gzip(door: Door, parts: Services) -> None:
    assert door(stow.store, part10(instance()), "application/dicom").status_code == 200
    body, kind = multipart(part10(instance()))
    assert door(stow.store, gzip.compress(body), kind, Content_Encoding="gzip").status_code == 200
    assert door(stow.store, gzip.compress(body)[:-9], kind, Content_Encoding="gzip").status_code == 400
    assert door(stow.store, body, kind, Content_Encoding="br").status_code == 415


@pytest.mark.requirement("D45")
def test_limits_name_themselves(door: Door, parts: Services) -> None:
    body, kind = multipart(*[b"x"] * 2001)
    response = door(stow.store, body, kind)
    assert response.status_code == 413
    assert "MAX_PARTS = 2000" in body_of(response)["detail"]


@pytest.mark.parametrize("token", ["", "wrong", "é"])
def test_nothing_without_the_token(door: Door, parts: Services, token: str) -> None:
    response = door.with_token(token)(stow.store, *multipart(part10(instance())))
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="imaging", error="invalid_token"'


@pytest.mark.requirement("D47")
def test_a_nul_in_a_text_never_reaches_the_database(door: Door, parts: Services) -> None:
    sent = instance(StudyDescription="Chest\0; DROP", ImageComments="a literal \\u0000 stays")
    response = door(stow.store, *multipart(part10(sent)))
    assert response.status_code == 200
    with unit_of_work(parts.pool) as connection:
        row = connection.execute(
            "SELECT header FROM ledger.instance WHERE sop_uid = %s", (sent.SOPInstanceUID,)
        ).fetchone()
    assert row is not None
    assert row[0]["00081030"]["Value"] == ["Chest; DROP"]
    assert row[0]["00204000"]["Value"] == ["a literal \\u0000 stays"]


def test_what_is_stored_is_what_was_sent(door: Door, parts: Services) -> None:
    sent = instance(PatientName="Łukasz^Żółć", SpecificCharacterSet="ISO_IR 192")
    door(stow.store, *multipart(part10(sent)))
    data = parts.blobs.get("images", f"{sent.StudyInstanceUID}/{sent.SeriesInstanceUID}/{sent.SOPInstanceUID}.dcm")
    assert dcmread(DicomBytesIO(data)).PatientName == sent.PatientName


def test_invalid_study_in_the_address(door: Door, parts: Services) -> None:
    response = door(stow.store, *multipart(part10(instance())), route={"study": "../x"})
    assert (response.status_code, body_of(response)["code"]) == (400, "bad-uid")
    assert generate_uid() not in response.get_body().decode()


@pytest.mark.requirement("D14", "D15")
def test_a_hash_reckoned_by_an_earlier_version_makes_no_conflict(door: Door, parts: Services) -> None:
    sent = instance()
    body = multipart(part10(sent))
    assert door(stow.store, *body).status_code == 200
    with unit_of_work(parts.pool) as connection:
        connection.execute(
            "UPDATE ledger.instance SET dataset_sha256 = 'otherwise' WHERE sop_uid = %s", (str(sent.SOPInstanceUID),)
        )
    assert door(stow.store, *body).status_code == 200
    sent.PatientID = "another"
    assert door(stow.store, *multipart(part10(sent))).status_code == 409
    outcomes = [outcome for outcome, _ in deliveries(parts, sop_uid=sent.SOPInstanceUID)]
    assert outcomes == ["accepted", "duplicate", "quarantined"]


@pytest.mark.requirement("D14", "D15")
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, RLELossless])
def test_the_same_instance_in_another_encoding_is_a_duplicate(door: Door, parts: Services, syntax: str) -> None:
    sent = instance()
    assert door(stow.store, *multipart(part10(sent))).status_code == 200
    again = dcmread(DicomBytesIO(part10(sent)))
    if syntax == RLELossless:
        again.compress(RLELossless, generate_instance_uid=False)
        data = part10(again)
    else:
        out = DicomBytesIO()
        again.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        again.save_as(out, implicit_vr=True, little_endian=True)
        data = out.getvalue()
    assert door(stow.store, *multipart(data)).status_code == 200
    outcomes = [outcome for outcome, _ in deliveries(parts, sop_uid=sent.SOPInstanceUID)]
    assert outcomes == ["accepted", "duplicate"]

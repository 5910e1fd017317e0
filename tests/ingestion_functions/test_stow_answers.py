"""The Store Instances Response: statuses, failures and warnings (PS3.18 10.5.3 and Annex I)."""

from __future__ import annotations

import gzip
import io
import json
import uuid
import zlib
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from imaging_core.database import unit_of_work
from ingestion_functions import stow
from ingestion_functions.services import Services
from tests.dicom_samples import instance, multipart, part10
from tests.ingestion_functions.conftest import Door

JUNK = b"This is no DICOM file. " * 10


def body_of(response: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(response.get_body())
    return found


def items(body: dict[str, Any], tag: str) -> list[Dataset]:
    """Return a sequence as pydicom reads it: what it refuses is no DICOM JSON."""
    known = {tag: element for tag, element in body.items() if len(tag) == 8 and "vr" in element}
    return list(Dataset.from_json(known).get(int(tag, 16)) or [])


def rows(parts: Services, sop_uid: str) -> list[tuple[str, str | None]]:
    with unit_of_work(parts.pool) as connection:
        return connection.execute(
            "SELECT outcome, reason FROM ledger.intake WHERE sop_uid = %s ORDER BY received_at", (sop_uid,)
        ).fetchall()


def files(*names: str) -> list[bytes]:
    return [open(str(get_testdata_file(name)), "rb").read() for name in names]


@pytest.mark.requirement("D1")
def test_the_study_is_named_only_where_there_is_one(door: Door, parts: Services) -> None:
    """Retrieve URL is Type 2: there, and empty where the instances belong to several studies."""
    first, second = instance(), instance()
    body = body_of(door(stow.store, *multipart(part10(first), part10(second))))
    assert body["00081190"] == {"vr": "UR"}
    stored = items(body, "00081199")
    assert [item.ReferencedSOPInstanceUID for item in stored] == [first.SOPInstanceUID, second.SOPInstanceUID]
    assert all(item.ReferencedSOPClassUID == first.SOPClassUID for item in stored)
    for item, sent in zip(stored, (first, second), strict=True):
        path = f"studies/{sent.StudyInstanceUID}/series/{sent.SeriesInstanceUID}/instances/{sent.SOPInstanceUID}"
        assert item.RetrieveURL.endswith(path)


FAILURES: list[tuple[str, dict[str, Any], int, str]] = [
    ("other study than the address", {}, 0xC000, "uid-mismatch"),
    ("slope zero", {"RescaleSlope": "0", "RescaleIntercept": "0"}, 0xC000, "bad-rescale"),
    ("no storage class", {"SOPClassUID": "1.2.840.10008.1.1"}, 0x0122, "sop-class-not-supported"),
    ("too many samples", {"Rows": 60_000, "Columns": 60_000}, 0xA700, "too-many-pixels"),
]


@pytest.mark.requirement("D6", "D9", "D2")
@pytest.mark.parametrize(
    ("changes", "reason", "code"), [case[1:] for case in FAILURES], ids=[case[0] for case in FAILURES]
)
def test_each_failure_names_its_instance(
    door: Door, parts: Services, changes: dict[str, Any], reason: int, code: str
) -> None:
    good = instance()
    bad = instance(**({"StudyInstanceUID": good.StudyInstanceUID} | changes if changes else {}))
    response = door(stow.store, *multipart(part10(good), part10(bad)), route={"study": str(good.StudyInstanceUID)})
    assert response.status_code == 202
    (failed,) = items(body_of(response), "00081198")
    assert failed.ReferencedSOPClassUID == bad.SOPClassUID
    assert failed.ReferencedSOPInstanceUID == bad.SOPInstanceUID
    assert failed.FailureReason == reason
    assert rows(parts, bad.SOPInstanceUID) == [("rejected", code)]
    assert rows(parts, good.SOPInstanceUID) == [("accepted", None)]


@pytest.mark.requirement("D6")
def test_unknown_transfer_syntax_is_c122(door: Door, parts: Services) -> None:
    data = part10(sent := instance()).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.77")
    response = door(stow.store, *multipart(data))
    assert response.status_code == 409
    (failed,) = items(body_of(response), "00081198")
    assert (failed.FailureReason, failed.ReferencedSOPInstanceUID) == (0xC122, sent.SOPInstanceUID)


@pytest.mark.requirement("D6", "D12")
@pytest.mark.parametrize(
    ("keyword", "reason"), [("MediaStorageSOPInstanceUID", 0xC000), ("MediaStorageSOPClassUID", 0xA900)]
)
def test_meta_against_data_set(door: Door, parts: Services, keyword: str, reason: int) -> None:
    sent = dcmread(str(get_testdata_file("CT_small.dcm")))
    sent.SOPInstanceUID = f"2.25.{uuid.uuid4().int}"
    sent.file_meta.MediaStorageSOPInstanceUID = sent.SOPInstanceUID
    setattr(sent.file_meta, keyword, "1.2.840.10008.5.1.4.1.1.4" if "Class" in keyword else f"2.25.{uuid.uuid4().int}")
    out = io.BytesIO()
    sent.save_as(out, enforce_file_format=False)
    response = door(stow.store, *multipart(out.getvalue()))
    assert response.status_code == 409
    (failed,) = items(body_of(response), "00081198")
    assert (failed.FailureReason, failed.ReferencedSOPInstanceUID) == (reason, sent.SOPInstanceUID)


@pytest.mark.requirement("D11")
def test_what_names_nothing_is_counted_among_the_other_failures(door: Door, parts: Services) -> None:
    good = instance()
    response = door(stow.store, *multipart(JUNK, part10(good), part10(instance())[:120], b""))
    assert response.status_code == 202
    body = body_of(response)
    assert [item.FailureReason for item in items(body, "0008119A")] == [0xC000] * 3
    assert "00081198" not in body
    assert len(items(body, "00081199")) == 1


MIXTURES: list[tuple[str, list[str], int]] = [
    ("stored", ["good"], 200),
    ("stored and duplicate", ["good", "good"], 200),
    ("stored and unreadable", ["good", "junk"], 202),
    ("stored and of another kind", ["good", "text"], 202),
    ("stored and empty", ["good", "empty"], 202),
    ("unreadable", ["junk"], 400),
    ("unreadable and empty", ["junk", "empty"], 400),
    ("of another kind", ["text", "text"], 415),
    ("unreadable and of another kind", ["junk", "text"], 409),
    ("refused", ["slope"], 409),
    ("refused and unreadable", ["slope", "junk"], 409),
    ("conflict", ["conflict"], 409),
    ("conflict and stored", ["conflict", "good"], 202),
]


@pytest.mark.requirement("D1", "D2", "D3", "D4", "D5")
@pytest.mark.parametrize(("kinds", "status"), [case[1:] for case in MIXTURES], ids=[case[0] for case in MIXTURES])
def test_status_of_mixtures(door: Door, parts: Services, kinds: list[str], status: int) -> None:
    good = part10(instance())
    known = instance()
    assert door(stow.store, *multipart(part10(known))).status_code == 200
    known.PixelData = bytes(range(32))
    made = {
        "good": good,
        "junk": JUNK,
        "text": b"text",
        "empty": b"",
        "slope": part10(instance(RescaleSlope="0", RescaleIntercept="0")),
        "conflict": part10(known),
    }
    body = b"".join(
        b"--XX\r\nContent-Type: %b\r\n\r\n%b\r\n"
        % (b"text/plain" if kind == "text" else b"application/dicom", made[kind])
        for kind in kinds
    )
    response = door(stow.store, body + b"--XX--", 'multipart/related; type="application/dicom"; boundary=XX')
    assert response.status_code == status
    answer = body_of(response)
    told = sum(len(items(answer, tag)) for tag in ("00081198", "00081199", "0008119A"))
    assert told == len(kinds), "each part is accounted for"


@pytest.mark.requirement("D7")
def test_a_study_that_a_person_linked_is_stored_with_b000(door: Door, parts: Services) -> None:
    first = instance()
    assert door(stow.store, *multipart(part10(first))).status_code == 200
    with unit_of_work(parts.pool) as connection:
        connection.execute(
            "INSERT INTO ledger.hold_resolution (study_uid, action, subject, who) VALUES (%s, 'link', 'Patient/1', '')",
            (first.StudyInstanceUID,),
        )
    second = instance(StudyInstanceUID=first.StudyInstanceUID, PatientID=first.PatientID)
    other = instance()
    response = door(stow.store, *multipart(part10(second), part10(other)))
    assert response.status_code == 202
    warned, plain = items(body_of(response), "00081199")
    assert (warned.ReferencedSOPInstanceUID, warned.WarningReason) == (second.SOPInstanceUID, 0xB000)
    assert "WarningReason" not in plain
    stored = parts.blobs.get(
        "images", f"{second.StudyInstanceUID}/{second.SeriesInstanceUID}/{second.SOPInstanceUID}.dcm"
    )
    assert stored == part10(second), "what is stored is what was sent; what is served is coerced"
    with unit_of_work(parts.pool) as connection:
        row = connection.execute("SELECT warnings FROM ledger.intake WHERE sop_uid = %s", (second.SOPInstanceUID,))
        assert row.fetchall() == [(["B000"],)]


@pytest.mark.requirement("D7", "D2")
def test_a_data_set_that_lacks_what_its_class_demands_is_stored_with_b007(door: Door, parts: Services) -> None:
    response = door(stow.store, *multipart(part10(instance(Modality=None))))
    assert response.status_code == 202
    (stored,) = items(body_of(response), "00081199")
    assert stored.WarningReason == 0xB007
    assert "00081198" not in body_of(response)


@pytest.mark.requirement("D13")
def test_xml_says_the_same_as_json(door: Door, parts: Services) -> None:
    sent = multipart(part10(instance()), JUNK, part10(instance(RescaleSlope="0", RescaleIntercept="0")))
    as_json = body_of(door(stow.store, *sent))
    response = door(stow.store, *sent, Accept="application/dicom+xml")
    assert (response.status_code, response.mimetype) == (202, "application/dicom+xml")
    space = "{http://dicom.nema.org/PS3.19/models/NativeDICOM}"

    def read(node: ElementTree.Element) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for child in node:
            values: list[Any] = [value.text for value in child.findall(f"{space}Value")]
            values = values or [read(item) for item in child.findall(f"{space}Item")]
            if child.get("vr") == "US":
                values = [int(value) for value in values]
            found[str(child.get("tag"))] = {"vr": child.get("vr")} | ({"Value": values} if values else {})
        return found

    assert read(ElementTree.fromstring(response.get_body())) == as_json  # noqa: S314  # our own answer


@pytest.mark.requirement("D13")
def test_multipart_answer_where_only_that_is_accepted(door: Door, parts: Services) -> None:
    wanted = 'multipart/related; type="application/dicom+xml"'
    response = door(stow.store, *multipart(part10(instance())), Accept=wanted)
    assert response.headers["Content-Type"].startswith(wanted)
    assert response.get_body().count(b"--imaging-answer") == 2
    assert b"<NativeDicomModel" in response.get_body()
    assert door(stow.store, *multipart(part10(instance())), Accept="image/png").status_code == 406


@pytest.mark.requirement("D10")
@pytest.mark.parametrize(
    ("claimed", "status"),
    [(ExplicitVRLittleEndian, 200), ("*", 200), ("", 200), (ImplicitVRLittleEndian, 409)],
)
def test_transfer_syntax_of_a_part(door: Door, parts: Services, claimed: str, status: int) -> None:
    kind = f"application/dicom; transfer-syntax={claimed}"
    body = b"--XX\r\nContent-Type: %b\r\n\r\n%b\r\n--XX--" % (kind.encode(), part10(instance()))
    response = door(stow.store, body, 'multipart/related; type="application/dicom"; boundary="XX"')
    assert response.status_code == status
    if status == 409:
        assert items(body_of(response), "00081198")[0].FailureReason == 0xC122


@pytest.mark.requirement("D5", "D45")
def test_content_encodings(door: Door, parts: Services) -> None:
    body, kind = multipart(part10(instance()))
    members = gzip.compress(body[:50]) + gzip.compress(body[50:])
    assert door(stow.store, members, kind, Content_Encoding="gzip").status_code == 200
    for encoding, coded in (("deflate", zlib.compress(body)), ("br", body), ("gzip, gzip", body)):
        response = door(stow.store, coded, kind, Content_Encoding=encoding)
        assert response.status_code == 415
        assert response.headers["Accept-Encoding"] == "gzip, identity"
    assert door(stow.store, gzip.compress(body) + b"junk", kind, Content_Encoding="gzip").status_code == 400


@pytest.mark.requirement("D45")
def test_a_gzip_bomb_is_refused_at_the_limit(door: Door, parts: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(parts, settings=parts.settings.model_copy(update={"max_request_bytes": 1_000_000}))
    monkeypatch.setattr("ingestion_functions.http_api.services", lambda: small)
    bomb = gzip.compress(bytes(100_000_000))
    _, kind = multipart()
    response = door(stow.store, bomb, kind, Content_Encoding="gzip")
    assert response.status_code == 413
    assert "MAX_REQUEST_BYTES = 1000000" in body_of(response)["detail"]
    assert "POST /api/uploads" in body_of(response)["detail"]


@pytest.mark.requirement("D5")
@pytest.mark.parametrize("coding", ["base64", "quoted-printable"])
def test_a_part_with_a_transfer_encoding_is_refused(door: Door, parts: Services, coding: str) -> None:
    head = f"--XX\r\nContent-Type: application/dicom\r\nContent-Transfer-Encoding: {coding}\r\n\r\n".encode()
    body = head + b"AAAA\r\n--XX--"
    response = door(stow.store, body, 'multipart/related; type="application/dicom"; boundary=XX')
    assert response.status_code == 415


@pytest.mark.requirement("D14", "D15")
def test_the_same_uid_twice_in_one_request(door: Door, parts: Services) -> None:
    sent = instance()
    other = instance(
        SOPInstanceUID=sent.SOPInstanceUID, StudyInstanceUID=sent.StudyInstanceUID, PixelData=bytes(range(32))
    )
    response = door(stow.store, *multipart(part10(sent), part10(sent), part10(other)))
    assert response.status_code == 202
    assert rows(parts, sent.SOPInstanceUID) == [
        ("accepted", None),
        ("duplicate", None),
        ("quarantined", "conflicting-content"),
    ]
    assert items(body_of(response), "00081198")[0].FailureReason == 0x0110


@pytest.mark.requirement("D1")
def test_many_parts_in_the_order_of_the_request(door: Door, parts: Services) -> None:
    sent = [instance() for _ in range(70)]
    body = [part10(item) for item in sent]
    body[40] = JUNK
    response = door(stow.store, *multipart(*body))
    assert response.status_code == 202
    stored = [item.ReferencedSOPInstanceUID for item in items(body_of(response), "00081199")]
    assert stored == [item.SOPInstanceUID for number, item in enumerate(sent) if number != 40]


def test_titles_are_in_the_sender_s_language(door: Door, parts: Services) -> None:
    response = door(stow.store, b"", multipart()[1], Accept_Language="fr-FR, en;q=0.5")
    assert body_of(response)["title"] == "La requête est vide."
    assert response.headers["Content-Language"] == "fr"

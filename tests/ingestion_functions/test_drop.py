"""Direct drop: write-only addresses, and what becomes of each file that arrives."""

from __future__ import annotations

import io
import json
from typing import Any

import azure.functions as func
import httpx
import pytest

from imaging_core.database import unit_of_work
from ingestion_functions import drop, uploads
from ingestion_functions.services import Services
from tests.dicom_samples import instance, part10, png
from tests.ingestion_functions.conftest import Door

PATIENT = {"patient_id": "D1", "birth_date": "1990-02-03", "family": "Drop"}


class Stream(func.InputStream):
    """A blob as the worker hands it over."""

    def __init__(self, name: str, data: bytes) -> None:
        self._name = name
        self._data = io.BytesIO(data)

    @property
    def name(self) -> str:
        return f"incoming/{self._name}"

    @property
    def length(self) -> int:
        return len(self._data.getvalue())

    def read(self, size: int = -1) -> bytes:
        return self._data.read(size)


@pytest.fixture
def arrive(parts: Services, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(drop, "services", lambda: parts)

    def deliver(name: str, data: bytes) -> None:
        drop.arrived(Stream(name, data))

    return deliver


def announce(door: Door, *names: str, **more: Any) -> dict[str, Any]:
    body = {"files": [{"name": name, "bytes": 10, "content_type": "application/dicom"} for name in names], **more}
    response = door(uploads.open_upload, json.dumps(body).encode(), "application/json")
    assert response.status_code == 201, response.get_body()
    found: dict[str, Any] = json.loads(response.get_body())
    return found


def put(file: dict[str, Any], data: bytes) -> str:
    """Write to the SAS as an uploader does; return the blob's name."""
    response = httpx.put(file["url"], content=data, headers={**file["headers"], "x-ms-version": "2023-11-03"})
    assert response.status_code == 201, response.text
    return httpx.URL(file["url"]).path.split("/incoming/")[1]


def outcomes(door: Door, upload_id: str) -> list[tuple[str, str | None]]:
    response = door(uploads.upload_state, method="GET", route={"upload_id": upload_id})
    return [(file["outcome"], file["reason"]) for file in json.loads(response.get_body())["files"]]


def test_each_file_of_a_mixed_set_is_accounted_for(door: Door, parts: Services, arrive: Any) -> None:
    opened = announce(door, "1.dcm", "2.txt", "3.png", "4.dcm", patient=PATIENT)
    upload_id = opened["upload_id"]
    assert outcomes(door, upload_id) == [("waiting", None)] * 4
    contents = [part10(instance()), b"a note", png(seed=21), b""]
    for file, data in zip(opened["files"], contents, strict=True):
        arrive(put(file, data), data)
    assert outcomes(door, upload_id) == [
        ("accepted", None),
        ("rejected", "not-dicom"),
        ("accepted", None),
        ("rejected", "empty-body"),
    ]


def test_repeated_events_find_nothing_to_do(door: Door, parts: Services, arrive: Any) -> None:
    opened = announce(door, "1.txt", "2.dcm")
    note, good = b"a note", part10(instance())
    names = [put(file, data) for file, data in zip(opened["files"], (note, good), strict=True)]
    for _ in range(3):
        arrive(names[0], note)
        arrive(names[1], good)
    with unit_of_work(parts.pool) as connection:
        rows = connection.execute(
            "SELECT outcome FROM ledger.intake WHERE upload_id = %s ORDER BY outcome", (opened["upload_id"],)
        ).fetchall()
    assert rows == [("accepted",), ("rejected",)]
    assert not parts.blobs.exists("incoming", names[1])
    assert parts.blobs.exists("incoming", names[0])


def test_a_blob_that_nobody_announced(parts: Services, arrive: Any) -> None:
    good = part10(instance())
    parts.blobs.put("incoming", "by-hand.dcm", good)
    arrive("by-hand.dcm", good)
    parts.blobs.put("incoming", "by-hand.png", png(seed=22))
    arrive("by-hand.png", png(seed=22))
    with unit_of_work(parts.pool) as connection:
        rows = connection.execute(
            "SELECT outcome, reason FROM ledger.intake WHERE delivery_key LIKE 'drop:by-hand%' ORDER BY outcome"
        ).fetchall()
    assert rows == [("accepted", None), ("rejected", "missing-field")]


def test_the_address_only_writes(door: Door, parts: Services) -> None:
    (file,) = announce(door, "1.dcm")["files"]
    put(file, b"x")
    assert httpx.get(file["url"]).status_code == 403
    assert httpx.delete(file["url"]).status_code == 403
    elsewhere = file["url"].replace(httpx.URL(file["url"]).path.rsplit("/", 1)[1], "other")
    assert httpx.put(elsewhere, content=b"x", headers=file["headers"]).status_code == 403


@pytest.mark.requirement("D43")
def test_names_tell_nothing(door: Door, parts: Services) -> None:
    opened = announce(door, "Martin_Anne.dcm", patient=PATIENT)
    assert "Martin" not in opened["files"][0]["url"]
    assert "D1" not in httpx.URL(opened["files"][0]["url"]).path


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "bad-field"),
        (b"{}", "bad-field"),
        (b'{"files": []}', "bad-field"),
        (b'{"files": [{"name": "x", "bytes": 3000000000}]}', "body-too-large"),
        (b'{"files": [{"name": "x", "bytes": 1}], "patient": {"patient_id": "1"}}', "bad-field"),
    ],
)
def test_refusals(door: Door, parts: Services, body: bytes, code: str) -> None:
    response = door(uploads.open_upload, body, "application/json")
    assert json.loads(response.get_body())["code"] == code

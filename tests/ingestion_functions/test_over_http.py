"""What only the whole service shows: bodies as senders cut them, limits, and that nothing of a patient leaks."""

from __future__ import annotations

import contextlib
import io
import json
import socket
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlsplit

import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom import Dataset, dcmread

from tests.dicom_samples import instance, multipart, part10, png
from tests.ingestion_functions.conftest import Running

MARKERS = ("MARKERNAME", "MARKERID", "MARKERACC", "19630717", "1963-07-17", "MARKERTEXT")


def raw(running: Running, head: str, *pieces: bytes, cut: bool = False) -> bytes:
    """Send bytes as they are, and then end the sending side where `cut` says so; return the answer."""
    address = urlsplit(running.url)
    first = f"POST {address.path}/dicomweb/studies HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    request = f"{first}Authorization: Bearer {running.token}\r\n{head}\r\n"
    with closing(socket.create_connection((address.hostname or "", address.port or 0), timeout=60)) as connection:
        connection.sendall(request.encode())
        for piece in pieces:
            try:
                connection.sendall(piece)
            except OSError:  # refused before all was sent
                break
        if cut:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(65536):
                answer += piece
        return answer


def chunked(body: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(body), size):
        piece = body[at : at + size]
        yield b"%x\r\n%b\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


@pytest.mark.requirement("D10")
def test_chunked_transfer(running: Running) -> None:
    body, kind = multipart(part10(instance()))
    answer = raw(running, f"Content-Type: {kind}\r\nTransfer-Encoding: chunked\r\n", *chunked(body, 100))
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.requirement("D10", "D45")
def test_content_length_that_promises_more_than_comes(running: Running) -> None:
    body, kind = multipart(part10(instance()))
    answer = raw(running, f"Content-Type: {kind}\r\nContent-Length: {len(body) + 10}\r\n", body, cut=True)
    assert not answer.startswith(b"HTTP/1.1 2")
    with running.client() as client:
        assert client.get("/health").status_code == 200


@pytest.mark.requirement("D10", "D45")
def test_content_length_that_is_too_short(running: Running) -> None:
    body, kind = multipart(part10(instance()))
    answer = raw(running, f"Content-Type: {kind}\r\nContent-Length: {len(body) - 40}\r\n", body)
    assert answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.requirement("D45")
@pytest.mark.parametrize(
    ("size", "told"), [(209_715_201, b"MAX_REQUEST_BYTES = 209715200"), (210_000_001, b"")], ids=["app", "host"]
)
def test_too_large_a_body_is_a_clean_413(running: Running, size: int, told: bytes) -> None:
    """Above 200 MiB the app answers, with the limit and the way out; above 210,000,000 bytes the host, as on Azure."""
    piece = bytes(1_000_000)
    pieces = [piece] * (size // len(piece)) + [bytes(size % len(piece))]
    answer = raw(running, f"Content-Type: application/dicom\r\nContent-Length: {size}\r\n", *pieces)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert told in answer
    if told:
        assert b"POST /api/uploads" in answer
        assert b"application/problem+json" in answer


@pytest.mark.requirement("D1", "D2", "D4")
def test_dicomweb_client_reads_our_answers(running: Running) -> None:
    client = DICOMwebClient(f"{running.url}/dicomweb", headers={"Authorization": f"Bearer {running.token}"})
    first, second = instance(), instance()
    stored = client.store_instances([whole(first), whole(second)])
    assert [item.ReferencedSOPInstanceUID for item in stored.ReferencedSOPSequence] == [
        first.SOPInstanceUID,
        second.SOPInstanceUID,
    ]
    other = instance()
    mixed = client.store_instances([whole(instance(RescaleSlope="0", RescaleIntercept="0")), whole(other)])
    assert len(mixed.FailedSOPSequence) == 1
    assert mixed.FailedSOPSequence[0].FailureReason == 0xC000
    assert mixed.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == other.SOPInstanceUID
    first.PixelData = bytes(range(32))
    with pytest.raises(Exception, match="409"):
        client.store_instances([whole(first)])


def whole(dataset: Dataset) -> Dataset:
    """Return the data set with file meta information: the client writes it as it is."""
    return dcmread(io.BytesIO(part10(dataset)))


def marked(**changes: object) -> Dataset:
    return instance(
        PatientName="MARKERNAME^X", PatientID="MARKERID", PatientBirthDate="19630717", AccessionNumber="MARKERACC",
        StudyDescription="MARKERTEXT", **changes,
    )  # fmt: skip


@pytest.mark.requirement("D43")
def test_nothing_of_a_patient_is_in_logs_or_errors(running: Running) -> None:
    """Markers in every field, on ways that end well and badly; then a look through all that was said."""
    answers = []
    good = marked()
    broken = part10(marked()).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.77")
    files = [
        part10(good),
        part10(marked(SOPInstanceUID=good.SOPInstanceUID, PixelData=bytes(range(32)))),
        part10(marked(RescaleSlope="0", RescaleIntercept="0")),
        part10(marked(Rows=60_000, Columns=60_000)),
        part10(marked(StudyInstanceUID="MARKERID")),
        broken,
        part10(marked())[:-20],
        b"MARKERNAME" * 40,
    ]
    fields = {"patient_id": "MARKERID", "birth_date": "1963-07-17", "family": "MARKERNAME", "accession": "MARKERACC"}
    with running.client() as client:
        for body, kind in [multipart(*files), *(multipart(file) for file in files)]:
            answers.append(client.post("/dicomweb/studies", content=body, headers={"Content-Type": kind}))
            as_xml = {"Content-Type": kind, "Accept": "application/dicom+xml"}
            answers.append(client.post("/dicomweb/studies", content=body, headers=as_xml))
        for changes in ({}, {"birth_date": "17.07.1963"}, {"family": "MARKERNAME^X"}, {"sex": "MARKERTEXT"},
                        {"acquired_at": "MARKERTEXT"}, {"study_uid": "MARKERID"}, {"modality": "MARKERTEXT!"},
                        {"birth_date": "1963-07-18"}):  # fmt: skip
            for data in (png(seed=44), b"MARKERTEXT no picture", png(seed=45)[:-40]):
                sent = {"data": fields | changes, "files": {"file": ("MARKERNAME.png", io.BytesIO(data))}}
                answers.append(client.post("/images", **sent))
        answers.append(client.post("/uploads", json={"files": [], "patient": fields | {"sex": "MARKERTEXT"}}))
        answers.append(client.post("/uploads", content=b'{"files": "MARKERNAME"'))
        answers.append(client.get("/intake/MARKERID"))
        for name in ("MARKERID", f"{good.StudyInstanceUID}"):
            answers.append(client.post(f"/dicomweb/studies/{name}", content=multipart(files[0])[0], headers={
                "Content-Type": multipart()[1]}))  # fmt: skip
    assert {answer.status_code for answer in answers} >= {200, 201, 202, 400, 404, 409, 415}
    for answer in answers:
        text = answer.text + json.dumps(dict(answer.headers))
        assert [marker for marker in MARKERS if marker in text] == [], answer.url
    for log in (running.folder / "logs").glob("*.log*"):
        text = log.read_text("utf-8", "replace")
        assert [marker for marker in MARKERS if marker in text] == [], log.name
    assert running.log.stat().st_size > 0

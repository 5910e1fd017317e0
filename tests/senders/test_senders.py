"""Programs that hospitals send with, against the running processes: nothing of ours is in the sender."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from dicomweb_client import DICOMwebClient
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from imaging_core.blobs import BlobStore
from imaging_core.database import Pool, unit_of_work
from tests.dicom_samples import instance, multipart, part10, png
from tests.end_to_end.conftest import wait_for
from tests.ingestion_functions.cstore_scu import data_set_of, dcmtk, renamed
from tests.ingestion_functions.test_listen import sample
from tests.senders.conftest import Ingestion, Listening, Orthanc


def study(number: int = 4) -> list[Dataset]:
    uid, series = generate_uid(), generate_uid()
    return [
        instance(StudyInstanceUID=uid, SeriesInstanceUID=series, PatientID="S1", InstanceNumber=at + 1)
        for at in range(number)
    ]


def rows(pool: Pool, study_uid: str) -> list[tuple[Any, ...]]:
    with unit_of_work(pool) as connection:
        return connection.execute(
            "SELECT source, outcome, sop_uid FROM ledger.intake WHERE study_uid = %s ORDER BY sop_uid", (study_uid,)
        ).fetchall()


def expected(source: str, sent: list[Dataset]) -> list[tuple[str, str, str]]:
    return [(source, "accepted", uid) for uid in sorted(str(item.SOPInstanceUID) for item in sent)]


def stored(blob_store: BlobStore, dataset: Dataset) -> bytes:
    name = f"{dataset.StudyInstanceUID}/{dataset.SeriesInstanceUID}/{dataset.SOPInstanceUID}.dcm"
    return blob_store.get("images", name)


def test_orthanc_sends_a_study_by_stow(orthanc: Orthanc, pool: Pool, blob_store: BlobStore) -> None:
    sent = study()
    ids = [orthanc.store(part10(item)) for item in sent]
    answer = orthanc.send("/dicom-web/servers/imaging/stow", {"Resources": ids, "Synchronous": True})
    assert answer.status_code == 200, answer.text
    assert rows(pool, sent[0].StudyInstanceUID) == expected("stow", sent)
    assert data_set_of(stored(blob_store, sent[0])) == data_set_of(part10(sent[0]))


def test_orthanc_sends_a_study_by_c_store(orthanc: Orthanc, pool: Pool, blob_store: BlobStore) -> None:
    sent = study()
    ids = [orthanc.store(part10(item)) for item in sent]
    assert orthanc.send("/modalities/imaging/echo", {}).status_code == 200
    answer = orthanc.send("/modalities/imaging/store", {"Resources": ids, "Synchronous": True})
    assert answer.status_code == 200, answer.text
    assert answer.json()["FailedInstancesCount"] == 0
    assert rows(pool, sent[0].StudyInstanceUID) == expected("cstore", sent)
    assert stored(blob_store, sent[0]) != b""


@pytest.mark.parametrize("name", ["JPEG2000.dcm", "MR_small_RLE.dcm", "JPEG-LL.dcm", "SC_rgb_jpeg_dcmtk.dcm"])
def test_orthanc_sends_compressed_images_as_they_are(
    orthanc: Orthanc, pool: Pool, blob_store: BlobStore, name: str
) -> None:
    for path, source in (("/dicom-web/servers/imaging/stow", "stow"), ("/modalities/imaging/store", "cstore")):
        file = renamed(sample(name))
        answer = orthanc.send(path, {"Resources": [orthanc.store(file)], "Synchronous": True})
        assert answer.status_code == 200, answer.text
        sent = dcmread(io.BytesIO(file))
        assert [row[:2] for row in rows(pool, sent.StudyInstanceUID)] == [(source, "accepted")]
        kept = dcmread(io.BytesIO(stored(blob_store, sent)))
        assert kept.file_meta.TransferSyntaxUID == sent.file_meta.TransferSyntaxUID
        assert kept.PixelData == sent.PixelData


def test_orthanc_is_told_of_a_refusal(orthanc: Orthanc, pool: Pool) -> None:
    """One instance whose UID is taken by other content, among good ones: the others are stored, it is told."""
    first = study(1)[0]
    other = instance(SOPInstanceUID=first.SOPInstanceUID, StudyInstanceUID=first.StudyInstanceUID, PixelData=b"\1" * 32)
    body, kind = multipart(part10(other))
    good = orthanc.store(part10(first))
    assert orthanc.configuration["DicomWeb"]["Servers"]["imaging"]["HttpHeaders"]["Authorization"].startswith("Bearer ")
    headers = orthanc.configuration["DicomWeb"]["Servers"]["imaging"]["HttpHeaders"]
    url = orthanc.configuration["DicomWeb"]["Servers"]["imaging"]["Url"]
    response = httpx.post(f"{url}studies", content=body, headers={**headers, "Content-Type": kind})
    assert response.status_code == 200
    answer = orthanc.send("/modalities/imaging/store", {"Resources": [good], "Synchronous": True})
    assert answer.status_code != 200 or answer.json()["FailedInstancesCount"] == 1
    found = {row[1] for row in rows(pool, first.StudyInstanceUID)}
    assert "accepted" in found


def read(dataset: Dataset) -> Dataset:
    """Return it as a program has it that has read a file."""
    return dcmread(io.BytesIO(part10(dataset)))


def test_dicomweb_client_stores_instances(ingestion: Ingestion, pool: Pool) -> None:
    sent = study()
    client = DICOMwebClient(
        url=f"{ingestion.url}/dicomweb", headers={"Authorization": f"Bearer {ingestion.token}"}, chunk_size=65536
    )
    answer = client.store_instances([read(item) for item in sent])
    assert len(answer.ReferencedSOPSequence) == 4
    assert rows(pool, sent[0].StudyInstanceUID) == expected("stow", sent)
    other = study(1)
    client.store_instances([read(item) for item in other], study_instance_uid=other[0].StudyInstanceUID)
    assert rows(pool, other[0].StudyInstanceUID) == expected("stow", other)


def test_storescu_sends_a_folder(listening: Listening, pool: Pool, tmp_path: Path) -> None:
    sent = study(6)
    for number, item in enumerate(sent):
        (tmp_path / f"IM{number:04}").write_bytes(part10(item))
    dcmtk("storescu", "+sd", "-aet", "CT1", "-aec", "IMAGING", listening.host, str(listening.port), tmp_path)
    assert rows(pool, sent[0].StudyInstanceUID) == expected("cstore", sent)


def test_dcmsend_sends_a_folder(listening: Listening, pool: Pool, tmp_path: Path) -> None:
    sent = study(6)
    for number, item in enumerate(sent):
        (tmp_path / f"IM{number:04}").write_bytes(part10(item))
    report = tmp_path / "report.txt"
    dcmtk("dcmsend", "+sd", "+crf", report, "-aec", "IMAGING", listening.host, str(listening.port), tmp_path)
    assert rows(pool, sent[0].StudyInstanceUID) == expected("cstore", sent)
    assert "with status SUCCESS" in report.read_text()


def test_curl_sends_multipart(ingestion: Ingestion, pool: Pool, tmp_path: Path) -> None:
    sent = study(2)
    (tmp_path / "body").write_bytes(multipart(*map(part10, sent))[0])
    command = ["curl", "-sS", "--fail-with-body", "-H", f"Authorization: Bearer {ingestion.token}"]
    command += ["-H", 'Content-Type: multipart/related; type="application/dicom"; boundary=XX']
    command += ["--data-binary", f"@{tmp_path / 'body'}", f"{ingestion.url}/dicomweb/studies"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert rows(pool, sent[0].StudyInstanceUID) == expected("stow", sent)


def test_a_dropped_file_is_taken_in_by_the_running_host(ingestion: Ingestion, pool: Pool) -> None:
    sent = study(1)
    opened = ingestion.post(
        "/uploads",
        {
            "files": [{"name": "1.dcm", "bytes": 1}, {"name": "2.png", "bytes": 1}, {"name": "3.txt", "bytes": 1}],
            "patient": {"patient_id": "S2", "birth_date": "1990-02-03", "family": "Drop"},
        },
    )
    for file, data in zip(opened["files"], (part10(sent[0]), png(seed=61), b"a note"), strict=True):
        httpx.put(file["url"], content=data, headers=file["headers"]).raise_for_status()
    told = wait_for("the outcomes", lambda: done(ingestion, opened["upload_id"]))
    assert told["totals"] == {"accepted": 2, "rejected": 1}
    assert rows(pool, sent[0].StudyInstanceUID) == expected("drop", sent)


def done(ingestion: Ingestion, upload_id: str) -> dict[str, Any] | None:
    told = ingestion.get(f"/uploads/{upload_id}")
    return told if told["done"] else None

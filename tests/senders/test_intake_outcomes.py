"""Every file of the test collections through the running ingestion: one outcome each, and the service as before."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from imaging_core.database import Pool, unit_of_work
from imaging_core.dicom.child import DecodePool
from imaging_core.errors import CODES
from tests import intake_outcomes
from tests.dicom_samples import instance, multipart, part10
from tests.end_to_end.conftest import wait_for
from tests.intake_outcomes import COLLECTIONS, Outcome, collection, outcome_alone
from tests.senders.conftest import Ingestion

# what a file that is accepted alone may become beside others and their patients
_ACCEPTED = {"accepted", "duplicate", "held"}


@pytest.mark.parametrize("name", COLLECTIONS)
@pytest.mark.requirement("D11", "D12", "D45", "D46", "D49")
def test_every_file_has_its_outcome(
    ingestion: Ingestion, pool: Pool, decoder: DecodePool, name: str, request: pytest.FixtureRequest
) -> None:
    """By direct drop, the one door for every kind of file; all at once, as a careless sender does."""
    if name in ("shared", "hostile"):
        request.getfixturevalue("shared_data")
    files = collection(name)
    assert files, name
    service = psutil.Process(ingestion.process.pid)
    one_more(ingestion)
    before = service.memory_info().rss
    upload_id, told = drop(ingestion, files)
    assert len(told["files"]) == len(files)
    wrong = []
    for file in told["files"]:
        alone = outcome_alone(decoder, files[file["name"]].read_bytes())
        if not _agrees(alone, file):
            wrong.append((file["name"], alone, file["outcome"], file["reason"]))
        assert file["reason"] is None or file["reason"] in CODES
    assert wrong == []
    assert sum(told["totals"].values()) == len(files)
    assert rows_of(pool, upload_id) == told["totals"]
    assert ingestion.process.poll() is None
    assert psutil.Process(ingestion.process.pid).create_time() == service.create_time()
    one_more(ingestion)
    assert service.memory_info().rss - before < 200 * 1024 * 1024


def _agrees(alone: Outcome, file: dict[str, Any]) -> bool:
    if alone.outcome == "accepted":
        return file["outcome"] in _ACCEPTED or file["reason"] == "conflicting-content"
    return (file["outcome"], file["reason"]) == (alone.outcome, alone.reason)


def drop(ingestion: Ingestion, files: Any) -> tuple[str, dict[str, Any]]:
    wanted = [{"name": name, "bytes": path.stat().st_size} for name, path in files.items()]
    patient = {"patient_id": "T1", "birth_date": "1970-01-01", "family": "Test"}
    opened = ingestion.post("/uploads", {"files": wanted, "patient": patient})
    with httpx.Client(timeout=60) as client:
        for file in opened["files"]:
            content = Path(files[file["name"]]).read_bytes()
            client.put(file["url"], content=content, headers=file["headers"]).raise_for_status()

    def done() -> dict[str, Any] | None:
        told = ingestion.get(f"/uploads/{opened['upload_id']}")
        return told if told["done"] else None

    return str(opened["upload_id"]), wait_for("every outcome", done, 300)


def rows_of(pool: Pool, upload_id: str) -> dict[str, int]:
    with unit_of_work(pool) as connection:
        found = connection.execute(
            "SELECT d.state FROM ledger.intake i JOIN ledger.delivery d USING (intake_id) WHERE i.upload_id = %s",
            (upload_id,),
        ).fetchall()
    return dict(sorted(Counter(row[0] for row in found).items()))


def one_more(ingestion: Ingestion) -> None:
    body, kind = multipart(part10(instance()))
    with ingestion.client() as client:
        assert client.post("/dicomweb/studies", content=body, headers={"Content-Type": kind}).status_code == 200


def test_the_page_is_current(decoder: DecodePool) -> None:
    """Of a collection that is not here, what the page says stands."""
    assert intake_outcomes.PAGE.read_text("utf-8") == intake_outcomes.page(decoder)

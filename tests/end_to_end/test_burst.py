"""A study of 1,000 instances that eight senders send at once: one correct ImagingStudy, few writes."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from pydicom.uid import generate_uid

from fhir_adapter.identity import resource_id
from tests.dicom_samples import instance, multipart, part10
from tests.end_to_end.conftest import Stack, wait_for

INSTANCES, SENDERS, SERIES = 1000, 8, 8
MOST_WRITES = 10


def versions(fhir: httpx.Client, reference: str) -> int:
    """Return how often a resource was written."""
    found = fhir.get(f"/{reference}/_history", params={"_count": "200"}).raise_for_status().json()
    return len(found.get("entry", []))


def events_of(fhir: httpx.Client, study: str) -> list[str]:
    """Return what was audited about a study."""
    page = fhir.get("/AuditEvent", params={"_count": "1000", "_sort": "-_lastUpdated"}).raise_for_status().json()
    resources: list[dict[str, Any]] = [entry["resource"] for entry in page.get("entry", [])]
    return [
        event["outcomeDesc"]
        for event in resources
        if any(entity.get("what", {}).get("reference") == study for entity in event.get("entity", []))
    ]


@pytest.mark.requirement("D22", "I1", "I3", "M10", "M11")
def test_a_study_that_eight_senders_send_at_once(stack: Stack) -> None:
    study_uid, patient = generate_uid(), f"B{generate_uid()[-10:]}"
    series = [generate_uid() for _ in range(SERIES)]
    uids: list[str] = []

    def file(number: int) -> bytes:
        made = instance(
            StudyInstanceUID=study_uid,
            SeriesInstanceUID=series[number % SERIES],
            PatientID=patient,
            InstanceNumber=str(number),
        )
        uids.append(str(made.SOPInstanceUID))
        return part10(made)

    files = [file(number) for number in range(INSTANCES)]
    study = f"ImagingStudy/{resource_id(study_uid, 'imaging-study')}"
    with stack.client("ingestion") as ingestion, stack.client("fhir") as fhir:

        def send(data: bytes) -> int:
            body, content_type = multipart(data)
            answer = ingestion.post("/dicomweb/studies", content=body, headers={"Content-Type": content_type})
            return answer.status_code

        with ThreadPoolExecutor(SENDERS) as senders:
            assert Counter(senders.map(send, files)) == {200: INSTANCES}

        def complete() -> dict[str, Any] | None:
            answer = fhir.get(f"/{study}")
            found: dict[str, Any] = answer.json() if answer.status_code == 200 else {}
            return found if found.get("numberOfInstances") == INSTANCES else None

        stored = wait_for("the whole study", complete, 120)
        wait_for("the end of its analysis", lambda: stack.status()["ledger"]["pending"] == 0, 120)
        assert stored["numberOfSeries"] == SERIES
        assert sorted(item["uid"] for one in stored["series"] for item in one["instance"]) == sorted(uids)
        subject = stored["subject"]["reference"]
        wait_for("the audit", lambda: "Image received" in events_of(fhir, study), 60)
        written = versions(fhir, study) + versions(fhir, subject) + len(events_of(fhir, study))
        assert written <= MOST_WRITES, (versions(fhir, study), versions(fhir, subject), events_of(fhir, study))

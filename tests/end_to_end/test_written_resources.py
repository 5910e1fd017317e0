"""What the end-to-end tests wrote, judged by validators that nobody here wrote (runs last in this folder)."""

from __future__ import annotations

import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import fhir_validation
from tests.end_to_end.conftest import Stack, sample, wait_for
from tests.end_to_end.test_images_to_reports import ADULT, one_report, renewed, stow

KINDS = (
    "Patient",
    "ImagingStudy",
    "Endpoint",
    "DiagnosticReport",
    "Observation",
    "Device",
    "Provenance",
    "Media",
    "AuditEvent",
)


def written(fhir: httpx.Client) -> list[dict[str, Any]]:
    """Return every resource of the kinds that the system writes."""
    found: list[dict[str, Any]] = []
    for kind in KINDS:
        url: str | None = f"/{kind}?_count=200"
        while url:
            bundle = fhir.get(url).raise_for_status().json()
            found.extend(entry["resource"] for entry in bundle.get("entry", []))
            url = next((link["url"] for link in bundle.get("link", []) if link["relation"] == "next"), None)
    return found


@pytest.fixture(scope="module")
def resources(stack: Stack) -> list[dict[str, Any]]:
    fhir_validation.install()
    data, study_uid, _ = renewed(sample("RG1_UNCI.dcm"), PatientID=f"V{uuid.uuid4().hex[:8]}", **ADULT)
    with stack.client("ingestion") as ingestion, stack.client("fhir") as fhir:
        stow(ingestion, data)
        one_report(fhir, study_uid)
        wait_for("the audit", lambda: fhir.get("/AuditEvent?_count=1").json().get("entry"), 60)
        return written(fhir)


def test_medplum_and_npm_fhir_find_no_error(resources: list[dict[str, Any]]) -> None:
    kinds = Counter(resource["resourceType"] for resource in resources)
    assert set(kinds) == set(KINDS)
    found = fhir_validation.errors(fhir_validation.validate(resources))
    assert found == [], [(resources[issue.index]["resourceType"], issue.path, issue.message) for issue in found[:10]]


@pytest.mark.shared
def test_us_core_finds_no_error(resources: list[dict[str, Any]], shared_data: Path, tmp_path: Path) -> None:
    us_core = fhir_validation.unpack_us_core(shared_data.parent / "fhir" / "us_core_610.tgz", tmp_path)
    found = fhir_validation.errors(fhir_validation.validate(resources, us_core))
    assert found == [], [(resources[issue.index]["resourceType"], issue.path, issue.message) for issue in found[:10]]

"""What an EHR that knows nothing of this system finds, with `fhirclient` as its FHIR library."""

from __future__ import annotations

from typing import Any

import pytest
from fhirclient.client import FHIRClient  # type: ignore[import-untyped]  # no stubs exist
from fhirclient.models.diagnosticreport import DiagnosticReport  # type: ignore[import-untyped]  # no stubs exist
from fhirclient.models.fhirsearch import FHIRSearch  # type: ignore[import-untyped]  # no stubs exist
from fhirclient.models.imagingstudy import ImagingStudy  # type: ignore[import-untyped]  # no stubs exist
from fhirclient.models.observation import Observation  # type: ignore[import-untyped]  # no stubs exist

from fhir_adapter.client import FhirClient
from fhir_adapter.register import Registered, ensure_study
from fhir_adapter.results import publish
from imaging_core.sites import Site
from tests.fhir_adapter.analyses import result
from tests.fhir_adapter.headers import instance


@pytest.fixture
def smart(fhir_service: tuple[str, str]) -> FHIRClient:
    """The foreign EHR."""
    base, token = fhir_service
    ehr = FHIRClient(settings={"app_id": "ehr", "api_base": base})
    ehr.server.session.headers["Authorization"] = f"Bearer {token}"
    ehr.prepare()
    return ehr


@pytest.fixture
def subject(client: FhirClient, site: Site) -> str:
    """A patient with two studies, one of them with a report."""
    subjects = set()
    for day, reported in (("20240229", True), ("20210105", False)):
        header = instance(StudyDate=day, AccessionNumber=f"ACC{day}")
        outcome = ensure_study(client, [header], site, "create", endpoint_address="https://app.example/dicomweb")
        assert isinstance(outcome, Registered)
        subjects.add(outcome.subject.removeprefix("Patient/"))
        if reported:
            publish(client, result(header))
    return subjects.pop()


def found(search: FHIRSearch, ehr: FHIRClient) -> list[Any]:
    """Return the resources of all pages of a search's answer, included ones too."""
    return [entry.resource for page in search.perform_iter(ehr.server) for entry in page.entry or []]


@pytest.mark.requirement("R1")
def test_reports_of_a_patient_with_what_they_refer_to(smart: FHIRClient, subject: str) -> None:
    search = DiagnosticReport.where(
        {
            "patient": subject,
            "category": "http://loinc.org|LP29684-5",
            "date": "ge2024-01-01",
            "status": "preliminary",
            "_include": {"$and": ["DiagnosticReport:result", "DiagnosticReport:subject", "DiagnosticReport:media"]},
        }
    )
    resources = found(search, smart)
    kinds = [resource.resource_type for resource in resources]
    assert sorted(kinds) == ["DiagnosticReport", "Media", "Observation", "Patient"]
    report = next(resource for resource in resources if resource.resource_type == "DiagnosticReport")
    assert report.presentedForm[0].contentType == "application/pdf"
    assert report.effectiveDateTime.date.year == 2024
    observation = next(resource for resource in resources if resource.resource_type == "Observation")
    assert observation.valueCodeableConcept.coding[0].display == "Present"


@pytest.mark.requirement("R1")
@pytest.mark.parametrize(
    ("more", "count"),
    [
        ({"category": "RAD"}, 1),
        ({"date": "lt2024-01-01"}, 0),
        ({"date": "2024-02-29"}, 1),
        ({"_lastUpdated": "ge2020-01-01"}, 1),
        ({"status": "final"}, 0),
        ({"code": "http://loinc.org|36554-4"}, 1),
    ],
)
def test_reports_by_each_parameter(smart: FHIRClient, subject: str, more: dict[str, str], count: int) -> None:
    assert len(found(DiagnosticReport.where({"patient": subject, **more}), smart)) == count


@pytest.mark.requirement("M1", "M2", "M9")
def test_studies(smart: FHIRClient, subject: str) -> None:
    by_date = {"patient": subject, "started": "ge2024-01-01", "_include": "ImagingStudy:endpoint"}
    resources = found(ImagingStudy.where(by_date), smart)
    assert [resource.resource_type for resource in resources] == ["ImagingStudy", "Endpoint"]
    uid = next(i.value for i in resources[0].identifier if i.system == "urn:dicom:uid")
    same = found(ImagingStudy.where({"identifier": f"urn:dicom:uid|{uid}"}), smart)
    assert [item.id for item in same] == [resources[0].id]
    by_accession = found(ImagingStudy.where({"patient": subject, "identifier": "ACC20240229"}), smart)
    assert [item.id for item in by_accession] == [resources[0].id]


@pytest.mark.requirement("R2")
def test_findings_of_a_patient_page_after_page(smart: FHIRClient, subject: str) -> None:
    search = Observation.where({"patient": subject, "category": "imaging", "_count": "1"})
    assert len(list(search.perform_resources_iter(smart.server))) == 1

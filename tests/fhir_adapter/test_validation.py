"""Everything that is published, judged by validators that nobody here wrote."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fhir.resources import R4B

from fhir_adapter.client import FhirClient
from fhir_adapter.register import Registered, ensure_study
from fhir_adapter.results import publish
from imaging_core.sites import Site
from tests import fhir_validation
from tests.fhir_adapter.analyses import finding, not_analysed, result
from tests.fhir_adapter.headers import code_item, fresh_uid, instance, item, real_header, study

Resource = dict[str, Any]
Validator = Callable[[list[Resource]], list[fhir_validation.Issue]]


def rich_study() -> list[Resource]:
    """A study whose headers say something for every row of the mapping table."""
    person = item(PersonIdentificationCodeSequence=[code_item("77", "99PRIV", "n")], InstitutionName="Praxis")
    request = item(ReasonForTheRequestedProcedure="Fever")
    series_uid = fresh_uid()
    referenced = item(SeriesInstanceUID=series_uid, RetrieveURL="https://pacs.example/dicom-web/studies/1/series/2")
    specimen = item(
        SpecimenIdentifier="S1",
        IssuerOfTheSpecimenIdentifierSequence=[item(UniversalEntityID="1.2.9", UniversalEntityIDType="ISO")],
    )
    elements: dict[str, Any] = {
        "AccessionNumber": "A1",
        "StudyID": "1",
        "ReferringPhysicianName": "Curie^Marie",
        "ReferringPhysicianIdentificationSequence": [person],
        "NameOfPhysiciansReadingStudy": ["A^B", "C^D"],
        "ProcedureCodeSequence": [code_item("36554-4", "LN", "XR Chest Single view"), code_item("X", "99L", "Thorax")],
        "InstitutionalDepartmentName": "Radiology",
        "RequestAttributesSequence": [request],
        "StudyDescription": "Chest",
        "SeriesDescription": "PA",
        "SeriesInstanceUID": series_uid,
        "SeriesNumber": 1,
        "RetrieveURL": "https://pacs.example/dicom-web/studies/1",
        "ReferencedSeriesSequence": [referenced],
        "Laterality": "L",
        "SpecimenDescriptionSequence": [specimen],
        "SeriesDate": "20240301",
        "SeriesTime": "080000.25",
        "PerformingPhysicianName": "P^Q",
        "OperatorsName": "O^P",
        "Manufacturer": "Acme",
        "ManufacturerModelName": "X9",
        "DeviceSerialNumber": "55",
        "ImageType": ["ORIGINAL", "PRIMARY"],
        "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    }
    return [instance(InstanceNumber=1, **elements)]


@pytest.fixture
def published(client: FhirClient, site: Site) -> list[Resource]:
    """All resources that some studies and results leave on the server."""
    wanted: set[str] = set()
    nameless = {"PatientID": "n", "PatientName": None, "PatientBirthDate": None, "PatientSex": None, "StudyDate": None}
    unknown = [instance(**nameless)]
    rich, plain = rich_study(), study(3, PatientID="p", PatientName="Doe^Jane")
    real = [real_header(name) for name in ("CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm", "test-SR.dcm")]
    for number, header in enumerate(real):
        header["0020000D"]["Value"] = [fresh_uid()]
        header["00100020"] = {"vr": "LO", "Value": [f"real-{number}"]}
    for headers in (rich, plain, unknown, *[[header] for header in real]):
        outcome = ensure_study(
            client,
            headers,
            site,
            "create",
            endpoint_address=f"https://{fresh_uid()}.example/dicomweb",
            trusted_hosts=["pacs.example"],
        )
        assert isinstance(outcome, Registered), outcome
        wanted |= {*outcome.written, outcome.subject, f"ImagingStudy/{outcome.imaging_study_id}"}
    results = [
        result(rich[0]),
        result(plain[0], finding("indeterminate", 0.5, band=(0.4, 0.6)), language="fr"),
        not_analysed(unknown[0], "age-unknown"),
        result(real[0], finding("absent", 0.1)),
    ]
    for item_ in results:
        wanted |= set(publish(client, item_).resources)
    held = client.read_many(sorted(wanted))
    assert all(held)
    return [resource for resource in held if resource]


@pytest.mark.requirement("M1", "P3", "R1", "R2", "R3", "R4", "R5")
def test_no_error_in_anything_that_is_published(published: list[Resource], validate_resources: Validator) -> None:
    kinds = {resource["resourceType"] for resource in published}
    assert kinds == {
        "Patient",
        "Endpoint",
        "ImagingStudy",
        "DiagnosticReport",
        "Observation",
        "Media",
        "Provenance",
        "Device",
    }
    assert validate_resources(published) == []
    for resource in published:
        R4B.get_fhir_model_class(resource["resourceType"]).model_validate(resource)


def test_the_validators_do_find_faults(published: list[Resource], validate_resources: Validator) -> None:
    report = next(item for item in published if item["resourceType"] == "DiagnosticReport")
    without_code = {key: value for key, value in report.items() if key != "code"}
    wrong_status = {**report, "status": "done"}
    unknown_element = {**report, "mood": "good"}
    two_values = copy.deepcopy(next(item for item in published if "valueCodeableConcept" in item))
    two_values["dataAbsentReason"] = {"text": "obs-6"}
    faults = validate_resources([without_code, wrong_status, unknown_element, two_values, report])
    assert {fault.index for fault in faults} == {0, 1, 2, 3}


@pytest.mark.shared
@pytest.mark.requirement("R1", "R2", "P3")
def test_us_core(published: list[Resource], shared_data: Path, tmp_path: Path) -> None:
    archive = shared_data.parent / "fhir" / "us_core_610.tgz"
    fhir_validation.install()
    folder = fhir_validation.unpack_us_core(archive, tmp_path)
    profiled = [item for item in published if item["resourceType"] in ("Patient", "DiagnosticReport", "Observation")]
    issues = fhir_validation.validate(profiled, folder)
    assert fhir_validation.errors(issues) == []
    # and the profile is really looked at
    report = next(item for item in profiled if item["resourceType"] == "DiagnosticReport")
    without = {key: value for key, value in report.items() if key != "category"}
    faults = fhir_validation.errors(fhir_validation.validate([without], folder))
    assert any("us-core" in fault.validator for fault in faults)

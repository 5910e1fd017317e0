"""DICOM SR and heatmap of an analysis: valid by judges of others, and equal to FHIR and PDF field by field (R8)."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
import subprocess
import warnings
from pathlib import Path
from typing import Any

import pypdf
import pytest
from flask.testing import FlaskClient
from highdicom.sr import Comprehensive3DSR, MeasurementReport
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread

from ai_container.dicom_results import SourceImage, capture, structured_report
from fhir_adapter import imaging_study
from fhir_adapter.client import FhirClient
from fhir_adapter.findings import AnalysisResult
from fhir_adapter.identity import report_role, resource_id
from fhir_adapter.results import bundle
from fhir_adapter.signoff import Signer, amend, reject, sign
from fhir_adapter.verified_sr import build, store
from imaging_core.blobs import BlobStore
from imaging_core.dicom.header import HeaderLimits, read_header
from imaging_core.sites import Site
from tests.ai_container.test_service import Study, app, client, ok, study, token  # noqa: F401  # fixtures
from tests.fhir_adapter.analyses import finding, not_analysed, result
from tests.fhir_adapter.headers import instance

Resource = dict[str, Any]
SIGNER = Signer("Dr Marie Curie", "https://ehr.example/fhir", "Practitioner/7")
SITE = Site("Test hospital", "urn:oid:1.2.3", "Europe/Paris")
DESIGNATORS = {"http://snomed.info/sct": "SCT", "http://radlex.org": "RADLEX", "http://loinc.org": "LN"}


def complaints(data: bytes, folder: Path) -> list[str]:
    """Return the errors that dciodvfy finds.

    It measures texts in bytes; PS3.5 6.2 bounds them in characters, and what says so is no complaint.
    """
    path = folder / f"{abs(hash(data))}.dcm"
    path.write_bytes(data)
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, timeout=30)
    errors = [line for line in done.stderr.splitlines() if line.startswith(("Error", "Abort"))]
    real = [line for line in errors if not ((told := _TOO_LONG.search(line)) and _fits(*told.groups()))]
    return [] if real == [_SUMMARY] and len(errors) > 1 else real


_SUMMARY = "Error - Dicom dataset contains invalid data values for Value Representations"
_TOO_LONG = re.compile(r"= <(.*)> - Length invalid for this VR = \d+, expected <= (\d+)$")


def _fits(value: str, most: str) -> bool:
    return not value.isascii() and len(value) <= int(most)


def source(header: Resource) -> SourceImage:
    values = [header[tag]["Value"][0] for tag in ("00080018", "0020000E", "00080016")]
    return SourceImage(*values, header)


def analysed(header: Resource, made: AnalysisResult, **changes: Any) -> Resource:
    """Return the DiagnosticReport that goes with a result."""
    registered = imaging_study.build([header], subject="Patient/p", site=SITE)
    report: Resource = bundle(made, study=registered)["entry"][0]["resource"]
    return {**report, **changes}


def objects(header: Resource, made: AnalysisResult, **changes: Any) -> tuple[bytes, bytes]:
    report = analysed(header, made, **changes)
    with warnings.catch_warnings(action="error"):
        return structured_report(made, report, 0, [source(header)]), capture(made, report, 0, source(header))


def content(document: bytes) -> dict[str, Any]:
    """Return what an SR says, read by highdicom as a foreign reader would."""
    dataset = Comprehensive3DSR.from_dataset(dcmread(io.BytesIO(document)))
    report = dataset.content
    assert isinstance(report, MeasurementReport)
    found: dict[str, Any] = {"dataset": dataset, "findings": {}}
    for group in report.get_image_measurement_groups():
        kind = group.finding_type
        (evaluation,) = (item for item in group.get_qualitative_evaluations() if item.name == kind)
        numbers = {item.name.value: item.value for item in group.get_measurements()}
        algorithm = {item.name.value: item.value for item in group[0].ContentSequence if item.ValueType == "TEXT"}
        key = (evaluation.name.scheme_designator, evaluation.name.value)
        found["findings"][key] = {
            "display": evaluation.name.meaning,
            "state": (evaluation.value.scheme_designator, evaluation.value.value),
            "numbers": numbers,
            "model": (algorithm["111001"], algorithm["111003"]),
            "tracking": group.tracking_identifier,
            "site": [(site.topographical_modifier, site.value.value) for site in group.finding_sites],
            "sources": [item.referenced_sop_instance_uid for item in group.source_images],
        }
    return found


def text_of(document: bytes) -> str:
    return " ".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(document)).pages)


@pytest.mark.requirement("R8")
@pytest.mark.parametrize("language", ["en", "fr"])
def test_fhir_sr_and_pdf_say_the_same(
    client: FlaskClient,  # noqa: F811
    study: Study,  # noqa: F811
    chest: bytes,
    fhir_client: FhirClient,
    blob_store: BlobStore,
    monkeypatch: pytest.MonkeyPatch,
    language: str,
) -> None:
    parts = client.application.extensions["imaging_parts"]
    monkeypatch.setattr(parts, "settings", parts.settings.model_copy(update={"site_language": language}))
    sop_uid = study.add(chest, "CR")
    study.register(fhir_client)
    answer = ok(client.post("/v1/analyses", json=study.request()))
    report = fhir_client.read("DiagnosticReport", resource_id(study.uid, report_role("chest-opacity")))
    assert report
    sr = blob_store.get("results", answer["artifacts"]["sr.dcm"].removeprefix("results/"))
    sc = dcmread(io.BytesIO(blob_store.get("results", answer["artifacts"]["sc.dcm"].removeprefix("results/"))))
    said = content(sr)
    document = said["dataset"]
    shown = text_of(base64.b64decode(report["presentedForm"][0]["data"]))

    # study, patient, times
    assert document.StudyInstanceUID == sc.StudyInstanceUID == study.uid
    assert study.uid in shown
    header = dcmread(io.BytesIO(chest))
    assert document.PatientID == sc.PatientID == header.PatientID
    assert document.PatientBirthDate == header.PatientBirthDate
    at = report["issued"]
    assert f"{document.ContentDate}{document.ContentTime[:6]}" == at[:19].replace("-", "").replace(":", "").replace(
        "T", ""
    )
    assert at[:19].replace("T", " ") in shown
    # procedure
    procedure = next(item for item in document.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "121058")
    coding = report["code"]["coding"][0]
    assert procedure.ConceptCodeSequence[0].CodeValue == coding["code"]
    assert coding["display"] in shown
    # findings
    observations = [fhir_client.read(*item["reference"].split("/")) for item in report["result"]]
    assert len(observations) == len(said["findings"]) == len(answer["findings"]) >= 1
    for observation, answered in zip(observations, answer["findings"], strict=True):
        assert observation
        code = observation["code"]["coding"][0]
        in_sr = said["findings"][(DESIGNATORS[code["system"]], code["code"])]
        assert in_sr["display"] == code["display"] == answered["display"]
        state = observation["valueCodeableConcept"]["coding"][0]
        assert in_sr["state"] == ("SCT", state["code"])
        numbers = {
            item["code"]["coding"][0]["code"]: item["valueQuantity"]["value"] for item in observation["component"]
        }
        assert in_sr["numbers"] == pytest.approx(numbers)
        assert numbers["probability"] == pytest.approx(answered["probability"], abs=1e-4)
        assert numbers["threshold"] == pytest.approx(answered["threshold"], abs=1e-4)
        for number in (numbers["probability"], numbers["threshold"]):
            printed = f"{number:.2f}"
            assert (printed.replace(".", ",") if language == "fr" else printed) in shown
        assert observation["code"]["text"] in shown
        assert in_sr["tracking"] == observation["identifier"][0]["value"]
        assert [site for _, site in in_sr["site"]] == [observation["bodySite"]["coding"][0]["code"]]
        device = fhir_client.read(*observation["device"]["reference"].split("/"))
        assert device
        assert in_sr["model"] == (device["modelNumber"], device["version"][0]["value"])
        assert f"{device['modelNumber']} {device['version'][0]['value']}" in shown
        assert in_sr["sources"] == [sop_uid]
    # they name each other
    named = [item["value"] for item in report["identifier"] if item["system"] == "urn:dicom:uid"]
    assert named == [f"urn:oid:{document.SOPInstanceUID}"]
    media = fhir_client.read(*report["media"][0]["link"]["reference"].split("/"))
    assert media
    assert {item["value"] for item in media["identifier"]} == {f"urn:oid:{sop_uid}", f"urn:oid:{sc.SOPInstanceUID}"}
    evidence = {uid for _, _, uid, _ in document.get_evidence()}
    assert evidence == {sop_uid, sc.SOPInstanceUID}
    assert sc.SourceImageSequence[0].ReferencedSOPInstanceUID == sop_uid
    assert (document.VerificationFlag, document.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    words = {"en": "not reviewed", "fr": "non relue"}[language]
    assert words in sc.ImageComments
    assert words in report["conclusion"]


@pytest.mark.requirement("R8")
def test_own_objects_are_valid_recognised_and_no_input(
    client: FlaskClient,  # noqa: F811
    study: Study,  # noqa: F811
    chest: bytes,
    fhir_client: FhirClient,
    blob_store: BlobStore,
    tmp_path: Path,
) -> None:
    study.add(chest, "CR")
    study.register(fhir_client)
    answer = ok(client.post("/v1/analyses", json=study.request()))
    for name in ("sr.dcm", "sc.dcm"):
        data = blob_store.get("results", answer["artifacts"][name].removeprefix("results/"))
        assert complaints(data, tmp_path) == []
        header = read_header(data, HeaderLimits())
        assert header.own
        assert header.study_uid == study.uid
        assert header.sop_uid.startswith("2.25.")
        # given to the model all the same, they are no input
        blob = f"{study.uid}/{header.series_uid}/{header.sop_uid}.dcm"
        blob_store.put("images", blob, data)
        study.instances.append({"sop_uid": header.sop_uid, "blob": blob})
    again = ok(client.post("/v1/analyses", json=study.request()))
    assert again["findings"] == answer["findings"]
    assert {item["reason"] for item in again["not_analysed"]} == {"no-model"}


@pytest.mark.requirement("R8", "I1")
def test_doing_it_again_alters_no_object(
    client: FlaskClient,  # noqa: F811
    study: Study,  # noqa: F811
    chest: bytes,
    fhir_client: FhirClient,
    blob_store: BlobStore,
) -> None:
    study.add(chest, "CR")
    study.register(fhir_client)
    answer = ok(client.post("/v1/analyses", json=study.request()))
    names = [answer["artifacts"][name].removeprefix("results/") for name in ("sr.dcm", "sc.dcm")]
    before = [blob_store.get("results", name) for name in names]
    assert ok(client.post("/v1/analyses", json=study.request()))["artifacts"] == answer["artifacts"]
    assert [blob_store.get("results", name) for name in names] == before
    # a run that died after the report and before the objects
    blob_store.delete("results", names[0])
    blob_store.delete("results", names[1])
    ok(client.post("/v1/analyses", json=study.request()))
    after = [dcmread(io.BytesIO(blob_store.get("results", name))) for name in names]
    assert [item.SOPInstanceUID for item in after] == [dcmread(io.BytesIO(item)).SOPInstanceUID for item in before]
    assert [blob_store.get("results", name) for name in names] == before, "the report's time is theirs"


@pytest.mark.requirement("R8")
def test_nothing_assessed_no_objects(
    client: FlaskClient,  # noqa: F811
    study: Study,  # noqa: F811
    chest: bytes,
    fhir_client: FhirClient,
) -> None:
    study.add(chest, "CR", ViewPosition="LL")
    study.register(fhir_client)
    answer = ok(client.post("/v1/analyses", json=study.request()))
    assert not {"sr.dcm", "sc.dcm"} & set(answer["artifacts"])
    header = instance()
    assert "urn:dicom:uid" not in str(analysed(header, not_analysed(header, "child"))["identifier"])


@pytest.mark.requirement("R8", "I1")
def test_another_statement_is_another_object_that_names_its_predecessor() -> None:
    header = instance()
    first = result(header)
    newer = dataclasses.replace(first, model=dataclasses.replace(first.model, version="2.0.0"))
    noisy = dataclasses.replace(first, findings=(finding(probability=0.83004),), created="2031-01-01T00:00:00Z")
    uids = [item.object_uid("sr", 0) for item in (first, newer, noisy)]
    assert uids[0] == uids[2] != uids[1]
    assert first.object_uid("sr", 1) != uids[0] != first.object_uid("sc", 0)
    before = dcmread(io.BytesIO(objects(header, first)[0]))
    after = dcmread(io.BytesIO(structured_report(newer, analysed(header, newer), 0, [source(header)], before)))
    named = after.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert named.ReferencedSOPInstanceUID == before.SOPInstanceUID
    assert after.SeriesInstanceUID == before.SeriesInstanceUID


VARIANTS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("plain", {}, {}),
    ("no patient details", dict.fromkeys(("PatientName", "PatientBirthDate", "PatientSex", "PatientID")), {}),
    ("no date", {"StudyDate": None, "StudyTime": None}, {}),
    ("no body part", {"BodyPartExamined": None}, {}),
    ("names of three alphabets", {"PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう"}, {}),
    ("long texts", {"StudyDescription": "x" * 64, "AccessionNumber": "a" * 16, "IssuerOfPatientID": "i" * 64}, {}),
    ("offset and orientation", {"TimezoneOffsetFromUTC": "-0330", "PatientOrientation": ["L", "F"]}, {}),
    ("indeterminate in French", {}, {"language": "fr", "findings": (finding("indeterminate", 0.5, band=(0.4, 0.6)),)}),
    ("absent", {}, {"findings": (finding("absent", 0.1),)}),
    ("no site name, no maker", {}, {"site_name": ""}),
    (
        "two findings",
        {},
        {"findings": (finding(), finding("absent", 0.1, code="RID5350", display="effusion", key="effusion"))},
    ),
]


@pytest.mark.requirement("R8")
@pytest.mark.parametrize(("header", "changes"), [row[1:] for row in VARIANTS], ids=[row[0] for row in VARIANTS])
def test_dciodvfy_finds_no_error(header: Resource, changes: Resource, tmp_path: Path) -> None:
    made = instance(**header)
    for data in objects(made, result(made, **changes)):
        assert complaints(data, tmp_path) == []
        assert read_header(data, HeaderLimits()).own


@pytest.mark.requirement("R8", "R9")
def test_times_are_on_the_clock_of_the_examination() -> None:
    header = instance(TimezoneOffsetFromUTC="-0330")
    document = dcmread(io.BytesIO(objects(header, result(header), issued="2026-07-01T12:00:00Z")[0]))
    assert document.TimezoneOffsetFromUTC == "-0330"
    assert (document.ContentDate, document.ContentTime[:6]) == ("20260701", "083000")
    assert document.ContributingEquipmentSequence[0].ContributionDateTime.startswith("20260701083000")
    unknown = instance(StudyTime=None)
    document = dcmread(io.BytesIO(objects(unknown, result(unknown), issued="2026-07-01T12:00:00Z")[0]))
    assert "TimezoneOffsetFromUTC" not in document


_VALUES = st.one_of(st.text(max_size=80), st.integers(), st.none(), st.floats(allow_nan=True))


@pytest.mark.requirement("R8")
@settings(
    max_examples=25,
    deadline=None,
    phases=[
        Phase.explicit,
        Phase.reuse,
        Phase.generate,
    ],  # each example runs a validator twice: shrinking takes minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    st.fixed_dictionaries(dict.fromkeys(("00080020", "00080030", "00080050", "00100020", "00100030"), _VALUES)),
    st.text(max_size=90),
    st.text(max_size=40),
)
def test_whatever_a_header_says_the_objects_are_valid(
    tmp_path: Path, elements: dict[str, Any], name: str, sex: str
) -> None:
    """A stranger's header must neither stop a result nor make an invalid object."""
    header = instance()
    header |= {tag: {"vr": "LO", "Value": [value]} for tag, value in elements.items()}
    header["00100010"] = {"vr": "PN", "Value": [{"Alphabetic": name, "Ideographic": name}]}
    header["00100040"] = {"vr": "CS", "Value": [sex]}
    for data in objects(header, result(header)):
        assert complaints(data, tmp_path) == []


@pytest.mark.requirement("R6", "R8")
def test_a_signature_makes_a_new_sr_and_alters_none(
    client: FlaskClient,  # noqa: F811
    study: Study,  # noqa: F811
    chest: bytes,
    fhir_client: FhirClient,
    blob_store: BlobStore,
    tmp_path: Path,
) -> None:
    study.add(chest, "CR")
    study.register(fhir_client)
    answer = ok(client.post("/v1/analyses", json=study.request()))
    name = answer["artifacts"]["sr.dcm"].removeprefix("results/")
    before = blob_store.get("results", name)
    report_id = resource_id(study.uid, report_role("chest-opacity"))
    report = fhir_client.read("DiagnosticReport", report_id)
    assert report
    finding_id = report["result"][0]["reference"].removeprefix("Observation/")
    kept: list[Resource] = []
    signed = sign(
        fhir_client, report_id, "1", SIGNER, kept.append, findings={finding_id: "absent"}, conclusion="Rien à signaler."
    )
    stored = store(fhir_client, blob_store, signed, SIGNER)
    assert stored
    assert stored == store(fhir_client, blob_store, signed, SIGNER), "the same instance again"
    assert blob_store.get("results", name) == before, "the unverified one is never altered"
    data = blob_store.get("results", stored)
    assert complaints(data, tmp_path) == []
    assert read_header(data, HeaderLimits()).own
    made = content(data)
    document, original = made["dataset"], dcmread(io.BytesIO(before))
    assert document.VerificationFlag == "VERIFIED"
    assert document.PreliminaryFlag == "FINAL"
    observer = document.VerifyingObserverSequence[0]
    assert str(observer.VerifyingObserverName) == "Dr Marie Curie"
    assert observer.VerifyingOrganization
    assert document.SOPInstanceUID != original.SOPInstanceUID
    assert _predecessor(document) == original.SOPInstanceUID
    (finding_,) = made["findings"].values()
    assert finding_["state"] == ("SCT", "2667000"), "as the signer left it"
    assert finding_["numbers"] == content(before)["findings"][next(iter(made["findings"]))]["numbers"]
    assert document.ContentSequence[-1].TextValue == "Rien à signaler."
    # the machine comes again and touches nothing
    again = ok(client.post("/v1/analyses", json=study.request()))
    assert again["artifacts"].keys().isdisjoint({"sr.dcm", "sc.dcm"})
    assert blob_store.get("results", name) == before
    # an amendment follows the signed one
    changed = amend(
        fhir_client, report_id, signed.version_id, SIGNER, kept.append, "second look", findings={finding_id: "present"}
    )
    third = store(fhir_client, blob_store, changed, SIGNER)
    assert third
    assert third != stored
    amended = content(blob_store.get("results", third))
    assert _predecessor(amended["dataset"]) == document.SOPInstanceUID
    assert next(iter(amended["findings"].values()))["state"] == ("SCT", "52101004")
    assert complaints(blob_store.get("results", third), tmp_path) == []


@pytest.mark.requirement("R6")
def test_a_rejected_report_has_no_verified_document(
    client: FlaskClient,  # noqa: F811
    study: Study,  # noqa: F811
    chest: bytes,
    fhir_client: FhirClient,
    blob_store: BlobStore,
) -> None:
    study.add(chest, "CR")
    study.register(fhir_client)
    answer = ok(client.post("/v1/analyses", json=study.request()))
    rejected = reject(
        fhir_client, resource_id(study.uid, report_role("chest-opacity")), "1", SIGNER, lambda _: None, "blurred"
    )
    assert store(fhir_client, blob_store, rejected, SIGNER) is None
    document = blob_store.get("results", answer["artifacts"]["sr.dcm"].removeprefix("results/"))
    with pytest.raises(Exception, match="signed"):
        build(document, rejected, SIGNER, [])


def _predecessor(document: Dataset) -> str:
    reference = document.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    return str(reference.ReferencedSOPInstanceUID)

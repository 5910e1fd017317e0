"""What the pages show, and what they never do."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from fhir_adapter.client import FhirClient
from imaging_core.blobs import BlobStore
from imaging_core.database import Pool
from imaging_core.settings import Settings
from tests.clinician_app.conftest import (
    ALL_SCOPES,
    MARIE,
    MARIES_BRAIN,
    MARIES_CHEST,
    MARIES_REPORT,
    OTHERS_CHEST,
    Clinic,
)
from tests.clinician_app.made_up_chart import (
    CHEST,
    MadeUpFinding,
    MadeUpReport,
    MadeUpStudy,
    human_report,
    patient,
)


@pytest.mark.requirement("S55", "S72")
def test_timeline_names_the_patient_and_lists_their_imaging(clinic: Clinic) -> None:
    page = clinic.get(clinic.launch() + "/")
    assert page.status_code == 200
    for words in (
        "Dupont",
        "Marie Élise",
        "3 Apr 1958",
        "4711",
        "Female",
        "Chest PA",
        "MR shoulder",
        "Lung opacity",
        "87%",
    ):
        assert words in page.text
    assert "Automated, not reviewed" in page.text


@pytest.mark.requirement("S55", "XD20")
def test_the_patient_is_named_even_where_the_ehr_shows_a_banner(clinic: Clinic) -> None:
    page = clinic.get(clinic.launch(need_patient_banner=False) + "/")
    assert "banner-slim" in page.text
    for words in ("Dupont", "3 Apr 1958"):
        assert words in page.text


@pytest.mark.requirement("R9")
def test_report_page_says_what_it_is(clinic: Clinic) -> None:
    page = clinic.get(f"{clinic.launch()}/reports/{MARIES_REPORT.id}")
    assert page.status_code == 200
    for words in (
        "Automated analysis, not reviewed",
        "chest-opacity 1.0.0",
        "Present",
        "threshold 35%",
        "pneumothorax",
        MARIES_REPORT.conclusion,
        "heatmap.png",
        f"/instances/{MARIES_CHEST.sop_uid()}/rendered",
    ):
        assert words in page.text
    # what can't be done here yet is not offered
    assert not re.search(r"(?i)>\s*(sign|accept|reject)", page.text)


def test_the_image_asked_for_is_shown(clinic: Clinic) -> None:
    launch = clinic.launch()
    second = MARIES_CHEST.sop_uid(1)
    page = clinic.get(f"{launch}/reports/{MARIES_REPORT.id}?image={second}").text
    assert f"/instances/{second}/pixels" in page
    assert "heatmap.png" not in page  # it belongs to the first image


@pytest.mark.requirement("R3")
def test_no_model_for_the_examination(clinic: Clinic, pool: Pool) -> None:
    with pool.connection() as connection:
        connection.execute(
            "INSERT INTO ledger.study (study_uid, site, version, analysed_version) VALUES (%s, 's', 1, 1)"
            " ON CONFLICT DO NOTHING",
            (MARIES_BRAIN.uid,),
        )
        connection.execute(
            "INSERT INTO ledger.analysis (study_uid, task, version, state, answer) VALUES (%s, '', 1, 'no_model', '{}')"
            " ON CONFLICT DO NOTHING",
            (MARIES_BRAIN.uid,),
        )
    launch = clinic.launch()
    assert "No model for this examination" in clinic.get(f"{launch}/").text
    page = clinic.get(f"{launch}/studies/{MARIES_BRAIN.uid}").text
    assert "No model for this examination" in page
    assert "/pixels" in page  # the images can be looked at all the same
    assert "Automated analysis" not in page


@pytest.fixture
def write(fhir_client: FhirClient, blob_store: BlobStore) -> Callable[[MadeUpReport], None]:
    def put(report: MadeUpReport) -> None:
        fhir_client.update(patient(report.study.patient, "Third", ["Tess"], "2019-05-01", "female", "4713"))
        for resource in (report.study.resource, *report.resources()):
            fhir_client.update(resource)
        report.put_result(blob_store, None)

    return put


@pytest.mark.requirement("R3")
def test_not_analysed_with_its_reason_and_never_a_number(clinic: Clinic, write: Callable[[MadeUpReport], None]) -> None:
    study = MadeUpStudy(31, "made-up-third", "2026-10-01T08:00:00Z", "Chest AP", "DX", (CHEST,))
    skipped = [{"sop_uid": study.sop_uid(), "reason": "child"}]
    report = MadeUpReport(
        study,
        (MadeUpFinding("Lung opacity", "not-assessed", reason="the patient is a child"),),
        result={"not_analysed": skipped},
    )
    write(report)
    launch = clinic.launch("made-up-third")
    page = clinic.get(f"{launch}/reports/{report.id}").text
    assert "Not analysed" in page
    assert "the patient is a child" in page
    assert "finding-number" not in page
    assert "Not analysed" in clinic.get(f"{launch}/").text


@pytest.mark.requirement("R3")
def test_the_band_is_drawn_and_indeterminate_stays_so(clinic: Clinic, write: Callable[[MadeUpReport], None]) -> None:
    study = MadeUpStudy(32, "made-up-third", "2026-10-02T08:00:00Z", "Chest AP", "DX", (CHEST,))
    report = MadeUpReport(study, (MadeUpFinding("Lung opacity", "indeterminate", 0.38, 0.36, band=(0.3, 0.46)),))
    write(report)
    page = clinic.get(f"{clinic.launch('made-up-third')}/reports/{report.id}").text
    assert "Indeterminate" in page
    assert "scale-band" in page
    assert "Between 30% and 46% the model makes no statement." in page
    assert "state-present" not in page


def test_a_signed_report_is_shown_as_reviewed(clinic: Clinic, write: Callable[[MadeUpReport], None]) -> None:
    study = MadeUpStudy(33, "made-up-third", "2026-10-03T08:00:00Z", "Chest AP", "DX", (CHEST,))
    report = MadeUpReport(study, (MadeUpFinding("Lung opacity", "absent", 0.02),), "final", interpreter="Dr. Signer")
    write(report)
    page = clinic.get(f"{clinic.launch('made-up-third')}/reports/{report.id}").text
    assert "Dr. Signer" in page
    assert "Automated analysis, not reviewed" not in page


@pytest.mark.requirement("D48", "XE4", "XC3")
def test_whatever_a_record_holds_is_shown_as_text(clinic: Clinic, fhir_client: FhirClient) -> None:
    evil = '"><script>alert(1)</script><img src=x onerror=alert(2)>{{7*7}}'
    person = patient("made-up-evil", evil, [evil], "1990-01-01", "other", evil)
    study = MadeUpStudy(41, "made-up-evil", "2026-10-01T08:00:00Z", evil, "DX", (CHEST,), evil, evil)
    report = MadeUpReport(study, (MadeUpFinding(evil, "present", 0.9),), conclusion=evil, interpreter=evil)
    written = human_report("made-up-evil-report", "made-up-evil", None, evil)
    written["text"] = {"status": "generated", "div": f'<div xmlns="http://www.w3.org/1999/xhtml">{evil}</div>'}
    for resource in (person, study.resource, *report.resources(), written):
        fhir_client.update(resource)
    launch = clinic.launch("made-up-evil")
    for path in ("/", f"/reports/{report.id}", "/reports/made-up-evil-report", f"/studies/{study.uid}"):
        page = clinic.get(launch + path)
        assert page.status_code == 200
        assert "alert(1)" in page.text
        assert "<script>" not in page.text
        assert "<img src=x" not in page.text
        assert "&#34;&gt;&lt;script&gt;" in page.text
        assert "{{7*7}}" in page.text


@pytest.mark.requirement("S38", "S83", "XH6", "XH7")
def test_header_fields_and_nothing_inline_or_from_elsewhere(clinic: Clinic) -> None:
    launch = clinic.launch()
    for path in ("/", f"/reports/{MARIES_REPORT.id}", "/reports/none"):
        page = clinic.get(launch + path)
        assert page.headers["Cache-Control"] == "no-store"
        assert page.headers["Referrer-Policy"] == "no-referrer"
        policy = page.headers["Content-Security-Policy"]
        assert "frame-ancestors https://ehr.example" in policy
        assert "unsafe" not in policy
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", page.text)
        assert not re.search(r"(?:src|href|action)=\"(?:https?:)?//", page.text)


@pytest.mark.requirement("S53")
@pytest.mark.parametrize(
    ("entry", "opened"),
    [
        ({"reference": f"DiagnosticReport/{MARIES_REPORT.id}"}, f"/reports/{MARIES_REPORT.id}"),
        ({"reference": f"ImagingStudy/{MARIES_CHEST.id}"}, f"/studies/{MARIES_CHEST.uid}"),
        (
            {"identifier": {"system": "urn:dicom:uid", "value": f"urn:oid:{MARIES_CHEST.uid}"}},
            f"/studies/{MARIES_CHEST.uid}",
        ),
        ({"identifier": {"system": "urn:oid:1.2.3", "value": "A-1001"}}, f"/studies/{MARIES_CHEST.uid}"),
        ({"reference": f"ImagingStudy/{MARIES_CHEST.id}", "role": "other"}, ""),
        ({"reference": "https://evil.example/fhir/ImagingStudy/1"}, ""),
        ({"reference": "Encounter/1"}, ""),
        ({"identifier": {"value": "unknown accession"}}, ""),
    ],
)
def test_what_the_ehr_names_is_opened(clinic: Clinic, entry: dict[str, object], opened: str) -> None:
    launch = clinic.launch(fhirContext=[entry])
    answer = clinic.get(f"{launch}/")
    if opened:
        assert answer.headers["Location"] == launch + opened
    else:
        assert answer.status_code == 200
    assert clinic.get(f"{launch}/studies").status_code == 200


@pytest.mark.requirement("S53")
def test_a_report_in_context_goes_before_its_study_and_two_studies_open_neither(clinic: Clinic) -> None:
    named = [{"reference": f"ImagingStudy/{study.id}"} for study in (MARIES_CHEST, MARIES_BRAIN)]
    assert clinic.get(clinic.launch(fhirContext=named) + "/").status_code == 200
    both = [named[0], {"reference": f"DiagnosticReport/{MARIES_REPORT.id}"}]
    assert clinic.get(clinic.launch(fhirContext=both) + "/").headers["Location"].endswith(MARIES_REPORT.id)


@pytest.mark.requirement("S54", "XD18")
@pytest.mark.parametrize(
    "entry",
    [
        {"reference": f"ImagingStudy/{OTHERS_CHEST.id}"},
        {"reference": "DiagnosticReport/nobody-s"},
        {"identifier": {"system": "urn:dicom:uid", "value": f"urn:oid:{OTHERS_CHEST.uid}"}},
    ],
)
def test_a_context_of_another_patient_is_refused(clinic: Clinic, entry: dict[str, object]) -> None:
    answer = clinic.get(clinic.launch(fhirContext=[entry]) + "/")
    assert answer.status_code == 409
    assert "does not belong to this patient" in answer.text
    assert "Chest" not in answer.text


@pytest.mark.requirement("S50")
@pytest.mark.parametrize(
    ("left_out", "words", "hidden"),
    [
        ("patient/ImagingStudy.rs", "imaging studies", "Chest PA"),
        ("patient/Observation.rs", "findings", "87%"),
        ("patient/DiagnosticReport.rs", "reports", "Lung opacity"),
        ("patient/Patient.rs", "the patient&#39;s details", "Dupont"),
    ],
)
def test_what_was_not_granted_is_not_asked_for_and_explained(
    clinic: Clinic, left_out: str, words: str, hidden: str
) -> None:
    page = clinic.get(clinic.launch(scopes=ALL_SCOPES.replace(left_out, ""), subject=f"without {left_out}") + "/").text
    assert f"did not grant this app access to {words}" in page
    assert hidden not in page
    assert MARIE in page if left_out == "patient/Patient.rs" else "Dupont" in page


@pytest.mark.requirement("S50")
def test_without_imaging_studies_no_image_is_given(clinic: Clinic) -> None:
    scopes = ALL_SCOPES.replace("patient/ImagingStudy.rs", "patient/ImagingStudy.r")  # may read one, not search
    launch = clinic.launch(scopes=scopes, subject="without studies")
    address = f"{launch}/studies/{MARIES_CHEST.uid}/series/{MARIES_CHEST.series_uid}/instances/{MARIES_CHEST.sop_uid()}"
    assert clinic.get(f"{address}/rendered").status_code == 404
    assert clinic.get(f"{launch}/reports/{MARIES_REPORT.id}/heatmap.png").status_code == 404


def test_times_are_the_site_s(make_clinic: Callable[..., Clinic], clinic: Clinic, settings: Settings) -> None:
    assert "09:12" in clinic.get(clinic.launch() + "/").text
    elsewhere = make_clinic(clinic.ehr, site_time_zone="America/Montreal")
    assert "03:12" in elsewhere.get(elsewhere.launch() + "/").text


@pytest.mark.requirement("XI2")
def test_health_says_nothing_of_patients(clinic: Clinic) -> None:
    assert clinic.get("/healthz").json == {"status": "ok"}
    answer = clinic.get("/readyz")
    assert answer.json == {"status": "ok", "parts": {"postgres": "ok", "blob": "ok"}}

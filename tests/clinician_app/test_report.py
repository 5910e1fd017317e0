"""Reports and findings, as this system and others write them."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from clinician_app.examination import assemble
from clinician_app.probability_scale import draw
from clinician_app.report import Finding, read_finding, read_report
from clinician_app.result_file import parse_result_file
from clinician_app.study import read_study
from clinician_app.timeline import timeline
from fhir_adapter.findings import AnalysisResult, ModelInfo
from fhir_adapter.findings import Finding as Found
from fhir_adapter.observation import build as build_observation
from tests.clinician_app.conftest import MARIES_CHEST, MARIES_REPORT, OTHERS_CHEST
from tests.clinician_app.made_up_chart import human_report

BASE = "https://ehr.example/fhir"


@pytest.mark.requirement("R2", "R3")
@pytest.mark.parametrize("state", ["present", "absent", "indeterminate"])
def test_what_the_adapter_writes_is_read_back(state: Any) -> None:
    class Nothing:
        imaging_study: tuple[()] = ()

        def shared(self, _: object) -> dict[str, Any]:
            return {}

    said = Found("128477000", "Opacity", 0.4321, 0.35, state, text_en="Lung opacity", band=(0.3, 0.45))
    result = AnalysisResult("1.2", "chest-opacity", ModelInfo("chest-opacity", "1.0.0", title_en="Chest"), (said,))
    finding = read_finding(build_observation(result, said, Nothing(), 0))  # type: ignore[arg-type]  # what build asks for
    assert finding == Finding(
        id=finding.id,
        name="Lung opacity",
        state=state,
        value="Present" if state == "present" else finding.value,
        probability=0.4321,
        threshold=0.35,
        band=(0.3, 0.45),
        method="Chest 1.0.0",
        device="Chest 1.0.0",
    )


def test_a_report_of_the_model_and_its_path() -> None:
    *observations, resource = MARIES_REPORT.resources()
    report = read_report(resource, {item["id"]: item for item in observations}, BASE)
    assert report.automated
    assert not report.reviewed
    assert report.path is not None
    assert report.path.blob("heatmap.png") == f"{MARIES_CHEST.uid}/chest-opacity/0/heatmap.png"
    assert [item.state for item in report.findings] == ["present"]
    assert report.devices == ("chest-opacity 1.0.0",)


@pytest.mark.requirement("XD17")
@pytest.mark.parametrize(
    "value",
    [
        "../x/1",
        "1.2/../1",
        "1.2/task",
        "1.2/task/x",
        "1.2/Task/1",
        "1..2/task/1",
        "/1.2/task/1",
        "1.2/task/1/y",
        "1.2/t/1 2",
    ],
)
def test_an_identifier_that_is_no_path_gives_no_files(value: str) -> None:
    report = read_report({"identifier": [{"system": "urn:imaging:report", "value": value}]}, {}, BASE)
    assert report.path is None


@pytest.mark.requirement("XE4")
def test_only_plain_text_of_a_presented_form_is_shown() -> None:
    html, plain = (base64.b64encode(item).decode() for item in (b"<script>alert(1)</script>", "Häm, r.a.s.".encode()))
    resource = human_report("h", "p", None, "fine")
    resource["presentedForm"] = [
        {"contentType": "text/html", "data": html},
        {"contentType": "image/svg+xml", "data": html},
        {"contentType": "text/plain; charset=utf-8", "data": "***"},
        {"contentType": "text/plain", "url": "https://evil.example/"},
        {"contentType": "text/plain", "data": plain},
    ]
    report = read_report(resource, {}, BASE)
    assert "script" not in report.full_text
    assert not report.automated
    assert report.reviewed


def test_what_can_not_be_read_is_counted_not_dropped() -> None:
    resource = {
        "id": "1",
        "result": [{"reference": "Observation/a"}, {"reference": "Observation/b"}, {"reference": "x"}],
    }
    report = read_report(resource, {"a": {"id": "a", "valueQuantity": {"value": 3.1, "unit": "cm"}}}, BASE)
    assert report.missing_findings == 1
    assert report.findings[0].state == "other"
    assert report.findings[0].value == "3.1 cm"


@pytest.mark.parametrize(
    ("component", "probability"),
    [
        ({"value": 0.5}, 0.5),
        ({"value": "0.5"}, 0.5),
        ({"value": 50, "code": "%"}, 0.5),
        ({"value": 1.2}, None),
        ({"value": -0.1}, None),
        ({"value": True}, None),
        ({"value": float("inf")}, None),
        ({}, None),
        ("x", None),
    ],
)
def test_probabilities_are_between_0_and_1_or_absent(component: Any, probability: float | None) -> None:
    code = {"coding": [{"system": "urn:imaging:codes", "code": "probability"}]}
    finding = read_finding({"component": [{"code": code, "valueQuantity": component}]})
    assert finding.probability == probability
    assert (draw(finding) is None) == (probability is None)


def test_the_scale_keeps_its_parts_inside() -> None:
    for probability, threshold, band in [(0.0, 0.0, (0.0, 0.0)), (1.0, 1.0, (0.9, 1.0)), (0.4, None, None)]:
        scale = draw(Finding("1", "x", "present", probability=probability, threshold=threshold, band=band))
        assert scale is not None
        drawn = [scale.value, scale.threshold, scale.band_start, scale.band_end, scale.threshold_label]
        assert all(0 <= place <= scale.width for place in drawn if place is not None)
        assert scale.band_width >= 0


def test_the_timeline_joins_studies_and_reports_newest_first() -> None:
    chest, other = read_study(MARIES_CHEST.resource), read_study(OTHERS_CHEST.resource)
    report = read_report(MARIES_REPORT.resources()[-1], {}, BASE)
    alone = read_report(human_report("h", "p", None, "fine"), {}, BASE)
    entries = timeline([other, chest], [alone, report])
    assert [entry.study for entry in entries] == [chest, other, None]
    assert entries[0].report == report
    assert entries[1].report is None
    assert entries[2].report == alone


def test_a_newer_revision_is_opened_first_and_a_rejected_one_last() -> None:
    def revision(number: int, status: str) -> dict[str, Any]:
        resource = MARIES_REPORT.resources()[-1]
        path = f"{MARIES_CHEST.uid}/chest-opacity/{number}"
        return {
            **resource,
            "id": f"r{number}",
            "status": status,
            "identifier": [{"system": "urn:imaging:report", "value": path}],
        }

    reports = [read_report(revision(*told), {}, BASE) for told in ((0, "final"), (1, "preliminary"), (2, "cancelled"))]
    entry = timeline([read_study(MARIES_CHEST.resource)], reports)[0]
    assert entry.report is not None
    assert entry.report.id == "r1"


def test_the_key_image_is_shown_unless_another_is_asked_for() -> None:
    entry = timeline([read_study(MARIES_CHEST.resource)], [])[0]
    second = MARIES_CHEST.sop_uid(1)
    told = {
        "key_image": second,
        "heatmap": {"sop_uid": second, "png": "heatmap.png"},
        "not_analysed": "x",
        "instances": [3],
    }
    result = parse_result_file(told)
    shown = [assemble(entry, None, result, wanted).image for wanted in ("", MARIES_CHEST.sop_uid(0), "9.9")]
    assert [image.uid if image else "" for image in shown] == [second, MARIES_CHEST.sop_uid(0), second]
    assert assemble(entry, None, result).has_heatmap
    assert not assemble(entry, None, result, MARIES_CHEST.sop_uid(0)).has_heatmap


@pytest.mark.parametrize(
    "uid", ["urn:oid:../../etc", "urn:oid:1.2.3/4", "urn:oid:", "urn:oid:1..2", "urn:oid:" + "1" * 65]
)
def test_a_study_without_a_usable_uid_has_no_images_to_ask_for(uid: str) -> None:
    resource = {**MARIES_CHEST.resource, "identifier": [{"system": "urn:dicom:uid", "value": uid}]}
    assert read_study(resource).uid == ""


def test_instances_with_unusable_uids_are_left_out() -> None:
    resource = MARIES_CHEST.resource
    resource["series"][0]["instance"][0]["uid"] = "../../secret"
    assert [item.uid for item in read_study(resource).images] == [MARIES_CHEST.sop_uid(1)]
    resource["series"][0]["uid"] = ".."
    assert read_study(resource).images == ()

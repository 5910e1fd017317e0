"""`/api/results`."""

from __future__ import annotations

import pytest

from tests.clinician_app.conftest import MARIE, MARIES_REPORT, OTHER, Clinic


def test_results_of_the_launch_s_patient(clinic: Clinic) -> None:
    launch = clinic.launch()
    found = clinic.get(f"/api/results?launch={launch.removeprefix('/l/')}").json
    assert found["patient"] == MARIE
    assert [item["report"] for item in found["results"]] == [MARIES_REPORT.id]
    assert found["results"][0]["findings"] == [
        {
            "name": "Lung opacity",
            "state": "present",
            "value": "Present",
            "probability": 0.87,
            "threshold": 0.35,
            "reason": None,
        }
    ]
    assert found["results"][0]["reviewed"] is False
    assert clinic.get(f"{launch}/api/results").json["results"] == found["results"]


@pytest.mark.parametrize(
    ("query", "count"),
    [
        (f"patient={MARIE}", 1),
        (f"patient=Patient/{MARIE}", 1),
        ("status=preliminary", 1),
        ("status=final", 0),
        ("finding=lung opacity", 1),
        ("finding=effusion", 0),
        ("from=2026-11-24&to=2026-11-24", 1),
        ("from=2026-11-25", 0),
        ("to=2026-11-23", 0),
        ("page=2", 0),
    ],
)
def test_filters(clinic: Clinic, query: str, count: int) -> None:
    assert len(clinic.get(f"{clinic.launch()}/api/results?{query}").json["results"]) == count


@pytest.mark.requirement("XH11")
def test_another_patient_is_not_found(clinic: Clinic) -> None:
    answer = clinic.get(f"{clinic.launch()}/api/results?patient={OTHER}")
    assert answer.status_code == 404
    assert answer.mimetype == "application/problem+json"


@pytest.mark.parametrize("query", ["from=yesterday", "to=2026-02-31", "page=0", "page=x", "page=-1"])
def test_bad_fields_are_named(clinic: Clinic, query: str) -> None:
    answer = clinic.get(f"{clinic.launch()}/api/results?{query}")
    assert answer.status_code == 400
    assert answer.json["code"] == "bad-field"


def test_without_a_launch(clinic: Clinic) -> None:
    for query in ("", "?launch=", "?launch=nobody"):
        assert clinic.get(f"/api/results{query}").status_code == 401


def test_description(clinic: Clinic) -> None:
    assert clinic.get("/api/openapi.json").json["paths"]["/api/results"]["get"]

"""`/api/results`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis

from tests.clinician_app.conftest import MARIE, MARIES_CHEST, MARIES_REPORT, OTHER, Clinic, registration
from tests.clinician_app.token_issuer import TokenIssuer, issuing


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


@pytest.fixture(scope="module")
def issuer() -> Iterator[TokenIssuer]:
    with issuing() as opened:
        yield opened


@pytest.fixture
def token_clinic(make_clinic: Callable[..., Clinic], charts: None, issuer: TokenIssuer) -> Clinic:
    return make_clinic(registration(issuer.base), fhir_aliases=(issuer.base,))


@pytest.mark.requirement("S50", "S70")
def test_results_of_a_token_s_patient(token_clinic: Clinic, issuer: TokenIssuer) -> None:
    def ask(query: str = "", **claims: Any) -> Any:
        headers = {"Authorization": f"Bearer {issuer.token(MARIE, **claims)}"}
        return token_clinic.get(f"/api/results{query}", headers=headers)

    found = ask().json
    assert found["patient"] == MARIE
    assert [item["report"] for item in found["results"]] == [MARIES_REPORT.id]
    assert found["results"][0]["study_uid"] == MARIES_CHEST.uid
    assert ask(f"?patient={OTHER}").status_code == 404
    reports = "patient/DiagnosticReport.rs"
    without = ask(scope=reports).json
    assert without["missing"] == {"studies": "not-granted", "findings": "not-granted"}
    assert without["results"][0]["findings"] == []
    assert ask(scope="patient/Observation.rs").status_code == 403
    assert ask(scope="patient/DiagnosticReport.r").status_code == 403
    assert ask(patient=None).status_code == 403


def test_the_api_is_as_its_description_says(token_clinic: Clinic, issuer: TokenIssuer) -> None:
    schema = schemathesis.openapi.from_wsgi("/api/openapi.json", token_clinic.app)
    operation = schema["/api/results"]["GET"]
    headers = {"Authorization": f"Bearer {issuer.token(MARIE)}"}

    @hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)
    @hypothesis.given(case=operation.as_strategy())
    def holds(case: Any) -> None:
        case.call_and_validate(headers=headers, base_url="https://localhost")

    holds()

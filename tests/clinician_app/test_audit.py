"""A look is on record before it is granted (A1, A2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from fhir.resources.R4B.auditevent import AuditEvent

from clinician_app.app import create_app
from clinician_app.audit import AuditTrail
from imaging_core.database import Pool
from tests.clinician_app.conftest import MARIE, MARIES_CHEST, MARIES_REPORT, Clinic

IMAGE = f"/studies/{MARIES_CHEST.uid}/series/{MARIES_CHEST.series_uid}/instances/{MARIES_CHEST.sop_uid()}/rendered"


@pytest.fixture
def events(pool: Pool) -> Callable[[], list[dict[str, Any]]]:
    def read() -> list[dict[str, Any]]:
        with pool.connection() as connection:
            return [row[0] for row in connection.execute("SELECT event FROM ledger.audit_outbox ORDER BY id")]

    return read


@pytest.mark.requirement("A1")
@pytest.mark.parametrize(
    ("path", "words", "what"),
    [
        ("/", "Patient's imaging searched", None),
        (f"/reports/{MARIES_REPORT.id}", "Report read", {"reference": f"DiagnosticReport/{MARIES_REPORT.id}"}),
        (f"/studies/{MARIES_CHEST.uid}", "Report read", {"reference": f"DiagnosticReport/{MARIES_REPORT.id}"}),
        (IMAGE, "Image viewed", {"identifier": {"value": f"urn:oid:{MARIES_CHEST.sop_uid()}"}}),
        (
            f"/reports/{MARIES_REPORT.id}/heatmap.png",
            "Image viewed",
            {"reference": f"DiagnosticReport/{MARIES_REPORT.id}"},
        ),
    ],
)
def test_who_looked_at_what(
    clinic: Clinic, events: Callable[[], list[dict[str, Any]]], path: str, words: str, what: dict[str, Any]
) -> None:
    launch = clinic.launch()
    before = len(events())
    assert clinic.get(launch + path).status_code == 200
    (event,) = events()[before:]
    AuditEvent.model_validate(event)
    assert event["outcomeDesc"] == words
    client, server, user = event["agent"]
    assert client["who"]["identifier"]["value"] == "imaging-app"
    assert server["who"]["identifier"]["value"] == "clinician_app"
    assert user["who"]["identifier"] == {"system": "https://ehr.example", "value": "dr-lefevre"}
    assert user["requestor"] is True
    assert event["entity"][0]["what"] == {"reference": f"Patient/{MARIE}"}
    assert event["entity"][1].get("what") == what
    assert client["network"]["address"], "IHE BALP: both machines' addresses, or the pattern isn't followed"
    assert server["network"]["address"]
    assert "IHE.BasicAudit.Patient" in event["meta"]["profile"][0]


@pytest.mark.requirement("A2")
def test_without_a_record_there_is_no_look(clinic: Clinic, owner_pool: Pool) -> None:
    launch = clinic.launch()
    clinic.get(f"{launch}/")
    with owner_pool.connection() as connection:
        connection.execute("REVOKE INSERT ON ledger.audit_outbox FROM imaging_page")
    try:
        for path in (
            "/",
            f"/reports/{MARIES_REPORT.id}",
            IMAGE,
            f"/reports/{MARIES_REPORT.id}/heatmap.png",
            "/api/results",
        ):
            answer = clinic.get(launch + path)
            assert answer.status_code == 503, path
            assert answer.headers["Retry-After"]
            assert "Chest PA" not in answer.text
            assert answer.mimetype != "image/png"
    finally:
        with owner_pool.connection() as connection:
            connection.execute("GRANT INSERT ON ledger.audit_outbox TO imaging_page")


@pytest.mark.requirement("XI4")
def test_with_the_database_away_nothing_is_served(clinic: Clinic) -> None:
    class Away:
        def connection(self) -> Any:
            from psycopg_pool import PoolTimeout

            raise PoolTimeout("away")

    services = dataclasses.replace(clinic.services, audit=AuditTrail(Away(), "test"))  # type: ignore[arg-type]  # no pool
    without = dataclasses.replace(clinic, app=create_app(clinic.services.settings, services))
    launch = without.launch()
    assert without.get(f"{launch}/").status_code == 503

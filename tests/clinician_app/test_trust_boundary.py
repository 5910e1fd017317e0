"""Whatever an EHR's FHIR claims, what lies in our own stores is shown only as the patient's whom our ledger knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from imaging_core.database import Pool
from imaging_core.settings import Settings
from tests.clinician_app.conftest import (
    MARIE,
    MARIES_BRAIN,
    MARIES_CHEST,
    MARIES_REPORT,
    OTHERS_CHEST,
    Clinic,
    registration,
)
from tests.clinician_app.made_up_chart import patient
from tests.clinician_app.odd_fhir import OddFhir, of_resources, running

IMAGE = f"/studies/{MARIES_CHEST.uid}/series/{MARIES_CHEST.series_uid}/instances/{MARIES_CHEST.sop_uid()}"


def _claims(patient_id: str) -> list[dict[str, Any]]:
    """Return what another hospital's server says: that our study, and our report of it, are its own patient's."""
    person = patient(patient_id, "Stranger", ["Sam"], "1990-01-01", "male", "77")
    owned = [MARIES_CHEST.resource, *MARIES_REPORT.resources()]
    return [person, *({**item, "subject": {"reference": f"Patient/{patient_id}"}} for item in owned)]


@pytest.fixture
def liar(charts: None) -> Iterator[OddFhir]:
    with running(of_resources()) as server:
        yield server


@pytest.fixture
def clinic(make_clinic: Callable[..., Clinic], settings: Settings, liar: OddFhir, owner_pool: Pool) -> Clinic:
    """An app that two EHRs launch, each said to hold its own results; only the first is this installation's."""
    with owner_pool.connection() as connection:
        connection.execute("TRUNCATE cache.resource, cache.reading")
    return make_clinic(registration(settings.fhir_base_url), registration(liar.base, name="elsewhere"))


@pytest.mark.requirement("S70", "XE3", "XE8")
@pytest.mark.parametrize("patient_id", ["stranger", MARIE])
def test_an_ehr_that_claims_our_study_gets_none_of_it(clinic: Clinic, liar: OddFhir, patient_id: str) -> None:
    liar.answer = of_resources(*_claims(patient_id))
    launch = clinic.launch(patient_id, ehr=clinic.services.smart.registration("elsewhere"))
    page = clinic.get(f"{launch}/reports/{MARIES_REPORT.id}")
    assert page.status_code == 200
    assert "Stranger" in page.text
    assert "data-viewer" not in page.text
    assert "5f0c5f0c" not in page.text, "nothing of the result file"
    assert "held by this imaging service" in page.text
    for path in (f"{IMAGE}/rendered", f"{IMAGE}/rendered?max=144", f"{IMAGE}/pixels"):
        assert clinic.get(launch + path).status_code == 404, path
    assert clinic.get(f"{launch}/reports/{MARIES_REPORT.id}/heatmap.png").status_code == 404


@pytest.mark.requirement("S70")
def test_the_pipeline_s_progress_is_not_told_to_others(clinic: Clinic, liar: OddFhir, pool: Pool) -> None:
    liar.answer = of_resources(*_claims("stranger")[:2])
    launch = clinic.launch("stranger", ehr=clinic.services.smart.registration("elsewhere"))
    with pool.connection() as connection:
        connection.execute(
            "UPDATE ledger.study SET failed_at = now(), subject = %s WHERE study_uid = %s",
            ("Patient/stranger", MARIES_CHEST.uid),
        )
    try:
        assert "Analysis failed" not in clinic.get(f"{launch}/").text
    finally:
        with pool.connection() as connection:
            connection.execute(
                "UPDATE ledger.study SET failed_at = NULL, subject = %s WHERE study_uid = %s",
                (f"Patient/{MARIE}", MARIES_CHEST.uid),
            )


@pytest.mark.requirement("S70")
@pytest.mark.parametrize(
    "change",
    [
        "subject = 'Patient/somebody-else'",
        "subject = NULL",
        "rejected_at = now()",
        "hold_reason = 'patient-conflict', held_at = now()",
    ],
)
def test_our_own_server_is_not_believed_against_the_ledger(clinic: Clinic, pool: Pool, change: str) -> None:
    launch = clinic.launch()
    assert clinic.get(f"{launch}{IMAGE}/rendered?max=144").status_code == 200
    with pool.connection() as connection:
        connection.execute(f"UPDATE ledger.study SET {change} WHERE study_uid = %s", (MARIES_CHEST.uid,))  # noqa: S608  # of the table above
    try:
        for path in (f"{IMAGE}/rendered?max=144", f"{IMAGE}/pixels", f"/reports/{MARIES_REPORT.id}/heatmap.png"):
            assert clinic.get(launch + path).status_code == 404, path
        assert "data-viewer" not in clinic.get(f"{launch}/reports/{MARIES_REPORT.id}").text
    finally:
        with pool.connection() as connection:
            connection.execute(
                "UPDATE ledger.study SET subject = %s, rejected_at = NULL, hold_reason = NULL, held_at = NULL"
                " WHERE study_uid = %s",
                (f"Patient/{MARIE}", MARIES_CHEST.uid),
            )
    assert clinic.get(f"{launch}{IMAGE}/rendered?max=144").status_code == 200


@pytest.mark.requirement("S70")
def test_a_gateway_of_our_service_is_named_by_the_setting(
    make_clinic: Callable[..., Clinic], settings: Settings, liar: OddFhir
) -> None:
    person = patient(MARIE, "Dupont", ["Marie"], "1958-04-03", "female", "4711")
    liar.answer = of_resources(person, MARIES_CHEST.resource, *MARIES_REPORT.resources())
    clinic = make_clinic(registration(liar.base), fhir_aliases=(f"{liar.base}/",))
    launch = clinic.launch()
    assert clinic.get(f"{launch}{IMAGE}/rendered?max=144").status_code == 200


@pytest.mark.requirement("XE8")
def test_the_page_role_sees_the_set_patient_s_studies_and_no_other(page_pool: Pool, charts: None) -> None:
    with page_pool.connection() as connection:
        assert connection.execute("SELECT count(*) FROM ledger.own_study").fetchone() == (0,)
        connection.execute("SELECT set_config('imaging.subject', %s, true)", (f"Patient/{MARIE}",))
        found = {row[0] for row in connection.execute("SELECT study_uid FROM ledger.own_study")}
        assert found == {MARIES_CHEST.uid, MARIES_BRAIN.uid}
        assert OTHERS_CHEST.uid not in found
    with page_pool.connection() as connection:  # the next transaction of a pooled connection knows nothing of it
        assert connection.execute("SELECT count(*) FROM ledger.own_study").fetchone() == (0,)


def test_the_latest_decision_is_that_with_the_highest_sequence(page_pool: Pool, owner_pool: Pool, charts: None) -> None:
    """A rebuild keeps `sequence` and numbers `id` anew, perhaps in another order."""
    decide = (
        "INSERT INTO ledger.hold_resolution (study_uid, action, subject, who, sequence)"
        " VALUES (%s, %s, %s, 'admin', %s)"
    )
    with owner_pool.connection() as connection:
        connection.execute(decide, (MARIES_CHEST.uid, "link", f"Patient/{MARIE}", 1_000_000_002))
        connection.execute(decide, (MARIES_CHEST.uid, "create", None, 1_000_000_001))
    try:
        with page_pool.connection() as connection:
            connection.execute("SELECT set_config('imaging.subject', %s, true)", (f"Patient/{MARIE}",))
            found = connection.execute(
                "SELECT linked FROM ledger.own_study WHERE study_uid = %s", (MARIES_CHEST.uid,)
            ).fetchone()
    finally:
        with owner_pool.connection() as connection:
            connection.execute("DELETE FROM ledger.hold_resolution WHERE study_uid = %s", (MARIES_CHEST.uid,))
    assert found == (True,)

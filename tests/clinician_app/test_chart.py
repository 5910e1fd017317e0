"""Reading through the cache: servers that lie, refuse or are away."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from clinician_app.outages import Outages
from imaging_core.database import Pool
from tests.clinician_app.conftest import (
    MARIE,
    MARIES_CHEST,
    MARIES_REPORT,
    OTHERS_CHEST,
    OTHERS_REPORT,
    Clinic,
    registration,
)
from tests.clinician_app.made_up_chart import patient
from tests.clinician_app.odd_fhir import OddFhir, of_resources, refusal, running, running_at

PERSON = patient(MARIE, "Dupont", ["Marie"], "1958-04-03", "female", "4711")
EVERYTHING = (
    PERSON,
    MARIES_CHEST.resource,
    *MARIES_REPORT.resources(),
    OTHERS_CHEST.resource,
    *OTHERS_REPORT.resources(),
)


def _age(owner_pool: Pool, base: str, by: timedelta) -> None:
    """Make what is cached of a server older; the owner steps around its own policies for it."""
    with owner_pool.connection() as connection:
        connection.execute("ALTER TABLE cache.reading NO FORCE ROW LEVEL SECURITY")
        connection.execute("UPDATE cache.reading SET read_at = read_at - %s WHERE server = %s", (by, base))
        connection.execute("ALTER TABLE cache.reading FORCE ROW LEVEL SECURITY")


@pytest.mark.requirement("S70", "XE3")
def test_a_server_that_answers_with_other_patients_resources(
    make_clinic: Callable[..., Clinic], blob_store: object
) -> None:
    unowned = {**MARIES_CHEST.resource, "id": "nobody-s", "description": "Nobody's study"}
    del unowned["subject"]
    with running(of_resources(*EVERYTHING, unowned)) as server:
        clinic = make_clinic(registration(server.base))
        launch = clinic.launch()
        page = clinic.get(f"{launch}/").text
        assert "Chest PA" in page
        assert "Chest AP" not in page
        assert "Nobody" not in page
        assert clinic.get(f"{launch}/reports/{OTHERS_REPORT.id}").status_code == 404
        address = (
            f"/studies/{OTHERS_CHEST.uid}/series/{OTHERS_CHEST.series_uid}/instances/{OTHERS_CHEST.sop_uid()}/rendered"
        )
        assert clinic.get(launch + address).status_code == 404


@pytest.mark.requirement("S70")
def test_every_search_names_the_patient(make_clinic: Callable[..., Clinic]) -> None:
    with running(of_resources(*EVERYTHING)) as server:
        clinic = make_clinic(registration(server.base))
        clinic.get(f"{clinic.launch()}/")
        searches = [path for path in server.asked if "?" in path]
        assert len(searches) == 3
        assert all(f"patient={MARIE}" in path for path in searches)


@pytest.mark.requirement("S70", "XE8")
def test_a_poisoned_cache_shows_nothing_of_another_patient(
    make_clinic: Callable[..., Clinic], charts: None, settings: object, page_pool: Pool
) -> None:
    with running(of_resources(*EVERYTHING)) as server:
        clinic = make_clinic(registration(server.base))
        launch = clinic.launch()
        clinic.get(f"{launch}/")
        # somebody's mistake has written another patient's study under this launch's key
        from clinician_app.cache import CacheKey, launch_access
        from tests.clinician_app.conftest import ALL_SCOPES

        key = CacheKey(server.base, launch_access(server.base, "dr-lefevre", ALL_SCOPES.split()), MARIE)
        now = datetime.now(UTC) + timedelta(seconds=3)
        clinic.services.cache.store(key, "studies", [OTHERS_CHEST.resource], now)
        page = clinic.get(f"{launch}/").text
        assert "Chest AP" not in page
        assert "Chest PA" not in page  # so the poisoned row was what was read


@pytest.mark.requirement("S69")
def test_while_fhir_is_away_the_last_reading_is_shown_with_its_age(
    make_clinic: Callable[..., Clinic], owner_pool: Pool
) -> None:
    with running(of_resources(*EVERYTHING)) as server:
        clinic = make_clinic(registration(server.base))
        launch = clinic.launch()
        assert "be reached" not in clinic.get(f"{launch}/").text
    _age(owner_pool, server.base, timedelta(minutes=7))
    page = clinic.get(f"{launch}/")
    assert page.status_code == 200
    assert "The record service can't be reached." in page.text
    assert "7 minutes ago" in page.text
    assert "Chest PA" in page.text
    _age(owner_pool, server.base, timedelta(hours=25))
    page = clinic.get(f"{launch}/").text
    assert "Chest PA" not in page
    assert "read at the moment" in page


@pytest.mark.requirement("S69")
def test_a_fresh_reading_is_not_asked_for_again(make_clinic: Callable[..., Clinic]) -> None:
    with running(of_resources(*EVERYTHING)) as server:
        clinic = make_clinic(registration(server.base))
        launch = clinic.launch()
        clinic.get(f"{launch}/")
        before = len(server.asked)
        clinic.get(f"{launch}/reports/{MARIES_REPORT.id}")
        assert len(server.asked) == before == 4


@pytest.mark.requirement("S69")
def test_what_the_server_refuses_is_explained_and_forgotten(
    make_clinic: Callable[..., Clinic], owner_pool: Pool
) -> None:
    whole = of_resources(*EVERYTHING)
    with running(whole) as server:
        clinic = make_clinic(registration(server.base))
        launch = clinic.launch()
        assert "Chest PA" in clinic.get(f"{launch}/").text
        _age(owner_pool, server.base, timedelta(minutes=1))
        server.answer = lambda path, query: refusal(403) if path.startswith("ImagingStudy") else whole(path, query)
        page = clinic.get(f"{launch}/").text
        assert "refused access to imaging studies" in page
        assert "Chest PA" not in page
    page = clinic.get(f"{launch}/").text  # away now: what was refused does not come back from the cache
    assert "Chest PA" not in page


@pytest.mark.requirement("S69", "S76")
def test_an_ended_token_ends_the_session_and_shows_nothing_cached(
    make_clinic: Callable[..., Clinic], owner_pool: Pool
) -> None:
    with running(of_resources(*EVERYTHING)) as server:
        clinic = make_clinic(registration(server.base))
        launch = clinic.launch()
        clinic.get(f"{launch}/")
        _age(owner_pool, server.base, timedelta(minutes=1))
        server.answer = lambda path, query: refusal(401)
        page = clinic.get(f"{launch}/")
        assert page.status_code == 401
        assert "Dupont" not in page.text
        assert "Chest" not in page.text


@pytest.mark.requirement("S69")
@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_busy_server_counts_as_away(make_clinic: Callable[..., Clinic], status: int) -> None:
    with running(lambda path, query: refusal(status)) as server:
        clinic = make_clinic(registration(server.base))
        page = clinic.get(f"{clinic.launch()}/")
        assert page.status_code == 200
        assert "read at the moment" in page.text
        assert len(server.asked) == 1  # one failure is enough for a page


@pytest.mark.requirement("XE1", "XE7")
def test_a_next_link_elsewhere_is_not_followed(make_clinic: Callable[..., Clinic]) -> None:
    whole = of_resources(*EVERYTHING)
    with OddOnes() as evil, running(whole) as server:

        def answer(path: str, query: dict[str, list[str]]) -> tuple[int, dict[str, object]]:
            status, body = whole(path, query)
            if body.get("resourceType") == "Bundle":
                body["link"] = [{"relation": "next", "url": f"{evil.base}/ImagingStudy?page=2"}]
            return status, body

        server.answer = answer
        clinic = make_clinic(registration(server.base))
        page = clinic.get(f"{clinic.launch()}/")
        assert page.status_code == 200
        assert evil.asked == []


class OddOnes(OddFhir):
    """A server that nobody should ask."""

    def __init__(self) -> None:
        super().__init__(of_resources())

    def __enter__(self) -> OddOnes:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@pytest.mark.requirement("XI3")
def test_logs_hold_nothing_of_the_patient(
    make_clinic: Callable[..., Clinic], capsys: pytest.CaptureFixture[str]
) -> None:
    with running(of_resources(*EVERYTHING)) as server:
        clinic = make_clinic(registration(server.base))
        launch = clinic.launch()
        for path in (
            "/",
            f"/reports/{MARIES_REPORT.id}",
            f"/studies/{MARIES_CHEST.uid}",
            "/studies/1.2.3",
            "/?lang=fr",
        ):
            clinic.get(launch + path)
    clinic.get(f"{launch}/reports/x")
    told = "".join(capsys.readouterr())
    assert "route=/l/<launch_id>/reports/<report_id>" in re.sub(r"\x1b\[[0-9;]*m", "", told)
    for words in (
        "Dupont",
        "Marie",
        "4711",
        "1958-04-03",
        "A-1001",
        MARIES_CHEST.uid,
        MARIE,
        launch.removeprefix("/l/"),
        "dr-lefevre",
    ):
        assert words not in told


@pytest.mark.requirement("S69")
def test_a_server_that_does_not_answer_is_left_alone_for_a_moment(make_clinic: Callable[..., Clinic]) -> None:
    now = [0.0]
    with running(of_resources(*EVERYTHING)) as server:
        clinic = make_clinic(registration(server.base))
    clinic.services = dataclasses.replace(clinic.services, outages=Outages(10.0, lambda: now[0]))
    clinic.services.attach(clinic.app)
    launch = clinic.launch()
    assert "read at the moment" in clinic.get(f"{launch}/").text
    with running_at(server.base, of_resources(*EVERYTHING)) as again:
        assert "read at the moment" in clinic.get(f"{launch}/").text
        assert again.asked == []
        now[0] = 11.0
        assert "Chest PA" in clinic.get(f"{launch}/").text

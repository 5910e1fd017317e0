"""Refreshing: once for all, and what happens when it fails."""

from __future__ import annotations

import threading
import time
from typing import Any

import psycopg
import pytest

from smart_launch import SessionStore
from tests.smart_launch.scene import Scene, refused
from tests.smart_launch.strict_ehr import StrictEhr, json_answer


def ready(scene: Scene, owner: psycopg.Connection[Any] | None = None) -> str:
    scene.ehr.resources["Patient/p1"] = {"resourceType": "Patient", "id": "p1"}
    path = scene.launch()
    if owner is not None:
        expire(owner, path)
    return path


def expire(owner: psycopg.Connection[Any], path: str) -> None:
    owner.execute(
        "UPDATE app.launch_token SET expires_at = now() - interval '1 minute' WHERE launch_id = %s",
        (path.split("/")[2],),
    )


@pytest.mark.requirement("S73")
def test_a_refresh_asks_for_no_scope(scene: Scene, owner: psycopg.Connection[Any]) -> None:
    path = ready(scene, owner)
    assert scene.home(f"{path}patient")["id"] == "p1"
    form = scene.ehr.last("/token").form
    assert form["grant_type"] == ["refresh_token"]
    assert set(form) == {"grant_type", "refresh_token", "client_id"}


@pytest.mark.requirement("S74", "XG1")
def test_a_rotated_refresh_token_replaces_the_old_one(scene: Scene, owner: psycopg.Connection[Any]) -> None:
    path = ready(scene)
    for _ in range(3):  # the double takes each refresh token once
        expire(owner, path)
        assert scene.home(f"{path}patient")["id"] == "p1"
    assert scene.ehr.failures == []


@pytest.mark.requirement("S74")
def test_without_a_new_refresh_token_the_old_one_stays(scene: Scene, owner: psycopg.Connection[Any]) -> None:
    path = ready(scene)
    old = next(iter(scene.ehr.refresh_tokens))
    scene.ehr.access_tokens.add("fresh")
    scene.ehr.token_answer = lambda: json_answer({"access_token": "fresh", "token_type": "Bearer", "expires_in": 60})
    for _ in range(2):
        scene.ehr.refresh_tokens = {old: "x"}
        expire(owner, path)
        assert scene.home(f"{path}patient")["id"] == "p1"
        assert scene.ehr.last("/token").form["refresh_token"] == [old]


@pytest.mark.requirement("S74", "XG2")
def test_many_requests_at_once_refresh_once(
    ehr: StrictEhr, sessions: SessionStore, owner: psycopg.Connection[Any]
) -> None:
    """Several processes are as many clients on one database: the row lock is what they share."""
    scene = Scene(ehr, sessions)
    path = ready(scene, owner)
    cookie = scene.cookie("__Host-launch-")
    workers = [Scene(ehr, sessions) for _ in range(4)]
    statuses: list[int] = []
    held = threading.Event()
    ehr.refresh_gate = lambda: held.wait(30)

    def read(worker: Scene) -> None:
        browser = worker.other_browser()
        browser.set_cookie(cookie.key, cookie.value, domain="app.example", secure=True)
        statuses.append(worker.get(f"{path}patient", browser).status_code)

    threads = [threading.Thread(target=read, args=(workers[index % 4],)) for index in range(12)]
    for thread in threads:
        thread.start()
    # while one refresh is under way, the others wait for its row and do not ask the EHR themselves
    end = time.monotonic() + 30
    while ehr.paths().count("/token") < 3 and _waiting_for_a_lock(owner) < 5:
        assert time.monotonic() < end
        time.sleep(0.01)  # a bounded wait for the other requests to arrive
    held.set()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 12
    assert ehr.paths().count("/token") == 2
    assert ehr.failures == []


def _waiting_for_a_lock(owner: psycopg.Connection[Any]) -> int:
    row = owner.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'").fetchone()
    return int(row[0]) if row else 0


@pytest.mark.requirement("S75", "XG4")
def test_a_refused_refresh_ends_the_launch(scene: Scene, owner: psycopg.Connection[Any]) -> None:
    path = ready(scene, owner)
    scene.ehr.refresh_tokens.clear()
    refused(scene.get(f"{path}patient"), "launch-ended")
    assert owner.execute(
        "SELECT count(*) FROM app.launch_token WHERE launch_id = %s", (path.split("/")[2],)
    ).fetchone() == (0,)
    refused(scene.get(path), "launch-ended")


@pytest.mark.requirement("S75")
def test_an_ehr_that_is_away_does_not_end_the_launch(scene: Scene, owner: psycopg.Connection[Any]) -> None:
    path = ready(scene, owner)
    scene.ehr.token_answer = lambda: json_answer({}, 503)
    refused(scene.get(f"{path}patient"), "ehr-busy")
    assert scene.get(path).status_code == 200


@pytest.mark.requirement("S76")
def test_without_a_refresh_token_expiry_is_a_friendly_end(
    ehr: StrictEhr, sessions: SessionStore, owner: psycopg.Connection[Any]
) -> None:
    ehr.token = {"refresh_token": None}
    scene = Scene(ehr, sessions)
    path = ready(scene)
    assert scene.home(f"{path}patient")["id"] == "p1"
    expire(owner, path)
    refused(scene.get(f"{path}patient"), "launch-ended")
    assert ehr.paths().count("/token") == 1


@pytest.mark.requirement("S61", "XG3")
@pytest.mark.parametrize(
    ("patient", "code"), [("p1", None), (None, None), ("p2", "patient-changed"), ("../x", "launch-ended")]
)
def test_a_refresh_that_names_another_patient_ends_the_launch(
    scene: Scene, owner: psycopg.Connection[Any], patient: str | None, code: str | None
) -> None:
    path = ready(scene, owner)
    answer = {"access_token": "fresh", "token_type": "Bearer", "expires_in": 60, "patient": patient}
    scene.ehr.access_tokens.add("fresh")
    scene.ehr.token_answer = lambda: json_answer({name: value for name, value in answer.items() if value})
    response = scene.get(f"{path}patient")
    if code is None:
        assert response.status_code == 200
    else:
        refused(response, code)
        refused(scene.get(path), "launch-ended")


@pytest.mark.requirement("S50", "S73")
def test_a_refresh_may_narrow_the_rights(scene: Scene, owner: psycopg.Connection[Any]) -> None:
    path = ready(scene, owner)
    assert scene.home(path)["may_read_studies"] is True
    scene.ehr.access_tokens.add("fresh")
    answer = {"access_token": "fresh", "token_type": "Bearer", "expires_in": 60, "scope": "patient/Patient.rs"}
    scene.ehr.token_answer = lambda: json_answer(answer)
    assert scene.home(f"{path}patient")["id"] == "p1"
    assert scene.home(path)["may_read_studies"] is False


@pytest.mark.requirement("XG5")
def test_after_logout_nothing_is_refreshed(scene: Scene, owner: psycopg.Connection[Any]) -> None:
    path = ready(scene)
    token = scene.home(path)["csrf_token"]
    scene.post(f"{path}logout", data={"csrf_token": token})
    before = scene.ehr.paths().count("/token")
    refused(scene.get(f"{path}patient"), "launch-ended")
    assert scene.ehr.paths().count("/token") == before


@pytest.mark.requirement("S48", "S76")
def test_a_short_life_is_used_up_to_its_end(ehr: StrictEhr, sessions: SessionStore) -> None:
    ehr.expires_in = 1
    ehr.token = {"refresh_token": None}
    scene = Scene(ehr, sessions)
    path = ready(scene)
    end = time.monotonic() + 10
    while scene.get(f"{path}patient").status_code == 200:
        assert time.monotonic() < end
    refused(scene.get(f"{path}patient"), "launch-ended")

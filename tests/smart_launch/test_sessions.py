"""Sessions: what is stored, who may use it, and when it ends."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from smart_launch import Keyring, LaunchError, SessionStore, SmartConfigurationError
from smart_launch.keyring import SealBroken
from tests.smart_launch.scene import BASE, Scene, refused, registration_of
from tests.smart_launch.strict_ehr import StrictEhr


@pytest.mark.requirement("S84", "XB6", "XB7")
def test_cookies_are_for_this_host_only_and_out_of_reach(scene: Scene) -> None:
    lines = scene.start().headers.getlist("Set-Cookie")
    lines += scene.callback(scene.authorized()).headers.getlist("Set-Cookie")
    set_lines = [line for line in lines if "Max-Age=0" not in line]
    assert len(set_lines) == 2
    for line in lines:
        attributes = {part.strip().split("=")[0].lower(): part.strip() for part in line.split(";")[1:]}
        assert line.startswith("__Host-")
        assert {"secure", "httponly", "partitioned"} <= set(attributes)
        assert attributes["path"] == "Path=/"
        assert attributes["samesite"] == "SameSite=None"
        assert "domain" not in attributes
    values = [line.split("=", 1)[1].split(";")[0] for line in set_lines]
    assert all(len(value) == 43 for value in values)  # 256 bits


@pytest.mark.requirement("S77", "XI3")
def test_the_database_holds_nothing_that_can_be_used(scene: Scene, owner: psycopg.Connection[Any]) -> None:
    answer = scene.authorized()
    binding = scene.cookie("__Host-state-").value
    response = scene.callback(answer)
    session = scene.cookie("__Host-launch-").value
    verifier = scene.ehr.last("/token").form["code_verifier"][0]
    secrets = [answer["state"], answer["code"], binding, session, verifier, "launch-1"]
    secrets += [*scene.ehr.access_tokens, *scene.ehr.refresh_tokens]
    dump = ""
    for table in ("authorization_request", "launch", "launch_token", "launch_rate"):
        for row in owner.execute(f"SELECT t::text, to_jsonb(t)::text FROM app.{table} t").fetchall():  # noqa: S608
            dump += "".join(row)
        for row in owner.execute(f"SELECT t.* FROM app.{table} t").fetchall():  # noqa: S608
            dump += "".join(bytes(item).decode("latin-1") for item in row if isinstance(item, bytes))
    for secret in secrets:
        assert secret not in dump
        assert secret.encode().hex() not in dump
    assert scene.home(response.location)["patient"] == "p1"


@pytest.mark.requirement("S77", "XB1")
def test_a_cookie_from_before_the_callback_is_worth_nothing_after_it(scene: Scene) -> None:
    scene.browser.set_cookie("__Host-launch-planted", "planted-value", domain="app.example", secure=True)
    path = scene.launch()
    launch_id = path.split("/")[2]
    assert scene.cookie(f"__Host-launch-{launch_id}").value != "planted-value"
    attacker = scene.other_browser()
    for name in ("__Host-launch-planted", f"__Host-launch-{launch_id}"):
        attacker.set_cookie(name, "planted-value", domain="app.example", secure=True)
    refused(scene.get(path, attacker), "launch-ended")
    assert scene.home(path)["patient"] == "p1"


@pytest.mark.requirement("XB1")
def test_the_cookie_of_the_way_is_not_the_cookie_of_the_session(scene: Scene) -> None:
    answer = scene.authorized()
    binding = scene.cookie("__Host-state-").value
    scene.callback(answer)
    assert scene.cookie("__Host-launch-").value != binding


@pytest.mark.requirement("S10", "XB11", "XH11")
def test_a_launch_is_open_to_its_own_cookie_only(scene: Scene) -> None:
    first = scene.launch()
    stranger = scene.other_browser()
    scene.ehr.token = {"patient": "p2"}
    second = scene.launch(stranger)
    refused(scene.get(first, stranger), "launch-ended")
    refused(scene.get(second), "launch-ended")
    assert scene.home(first)["patient"] == "p1"
    assert scene.home(second, stranger)["patient"] == "p2"


@pytest.mark.requirement("XH11")
def test_one_launch_s_session_id_does_not_open_another_launch(scene: Scene) -> None:
    first = scene.launch()
    value = scene.cookie("__Host-launch-").value
    stranger = scene.other_browser()
    second = scene.launch(stranger)
    scene.browser.set_cookie(f"__Host-launch-{second.split('/')[2]}", value, domain="app.example", secure=True)
    refused(scene.get(second), "launch-ended")
    assert scene.get(first).status_code == 200


@pytest.mark.requirement("S10", "XB11")
def test_relaunch_for_another_patient_never_shows_the_first(scene: Scene) -> None:
    shown = {}
    for patient in ("pa", "pb", "pc"):
        scene.ehr.token = {"patient": patient}
        shown[scene.launch()] = patient
    for path, patient in shown.items():
        assert scene.home(path)["patient"] == patient


@pytest.mark.requirement("XH10")
@pytest.mark.parametrize("launch_id", ["..", "%2e%2e", "x' OR '1'='1", "a" * 5000, "é", "%00", "../../launch", "null"])
def test_odd_launch_ids_find_nothing(scene: Scene, launch_id: str) -> None:
    scene.launch()
    assert scene.get(f"/l/{launch_id}/").status_code in (301, 308, 400, 401, 404)


@pytest.mark.requirement("S79", "S80", "XB8")
def test_logout_ends_launch_and_tokens(scene: Scene, owner: psycopg.Connection[Any]) -> None:
    other = scene.launch()
    path = scene.launch()
    cookie = scene.cookie(f"__Host-launch-{path.split('/')[2]}")
    token = scene.home(path)["csrf_token"]
    response = scene.post(f"{path}logout", data={"csrf_token": token})
    assert response.status_code == 200
    assert "You are signed out" in response.text
    assert response.headers["Clear-Site-Data"] == '"cache"'
    assert len(scene.ehr.revoked) == 2
    refused(scene.get(path), "launch-ended")
    scene.browser.set_cookie(cookie.key, cookie.value, domain="app.example", secure=True)
    refused(scene.get(path), "launch-ended")
    assert scene.home(other)["patient"] == "p1"
    assert owner.execute(
        "SELECT count(*) FROM app.launch_token WHERE launch_id = %s", (path.split("/")[2],)
    ).fetchone() == (0,)


@pytest.mark.requirement("S79")
@pytest.mark.parametrize("revocation", [None, "/gone"])
def test_logout_does_not_depend_on_the_ehr(scene: Scene, revocation: str | None) -> None:
    scene.ehr.discovery["revocation_endpoint"] = revocation and f"{scene.ehr.origin}{revocation}"
    path = scene.launch()
    response = scene.post(f"{path}logout", data={"csrf_token": scene.home(path)["csrf_token"]})
    assert response.status_code == 200
    refused(scene.get(path), "launch-ended")


@pytest.mark.requirement("S79")
@pytest.mark.parametrize("wanted", [True, False])
def test_the_ehr_s_own_session_is_ended_only_if_configured_and_never_unasked(
    ehr: StrictEhr, sessions: SessionStore, wanted: bool
) -> None:
    ehr.discovery["end_session_endpoint"] = f"{ehr.origin}/end"
    scene = Scene(ehr, sessions, [registration_of(ehr, end_session=wanted)])
    path = scene.launch()
    response = scene.post(f"{path}logout", data={"csrf_token": scene.home(path)["csrf_token"]})
    assert (f'href="{ehr.origin}/end?client_id={ehr.client_id}"' in response.text) is wanted
    assert "/end" not in ehr.paths()


@pytest.mark.requirement("S79")
def test_logout_is_a_post(scene: Scene) -> None:
    path = scene.launch()
    assert scene.get(f"{path}logout").status_code == 405
    assert scene.get(path).status_code == 200


@pytest.mark.requirement("S79", "XB9")
@pytest.mark.parametrize("column", ["last_seen_at", "ends_at"])
def test_a_launch_ends_by_itself(scene: Scene, owner: psycopg.Connection[Any], column: str) -> None:
    path = scene.launch()
    launch_id = path.split("/")[2]
    age = {"last_seen_at": "31 minutes", "ends_at": "1 second"}[column]
    owner.execute(
        f"UPDATE app.launch SET {column} = now() - interval '{age}' WHERE launch_id = %s",  # noqa: S608 - fixed words
        (launch_id,),
    )
    refused(scene.get(path), "launch-ended")
    assert owner.execute("SELECT end_reason FROM app.launch WHERE launch_id = %s", (launch_id,)).fetchone() == (
        "expired",
    )
    assert owner.execute("SELECT count(*) FROM app.launch_token WHERE launch_id = %s", (launch_id,)).fetchone() == (0,)


@pytest.mark.requirement("XB9")
def test_use_keeps_a_launch_open(scene: Scene, owner: psycopg.Connection[Any]) -> None:
    path = scene.launch()
    launch_id = path.split("/")[2]
    for _ in range(3):
        owner.execute(
            "UPDATE app.launch SET last_seen_at = last_seen_at - interval '20 minutes' WHERE launch_id = %s",
            (launch_id,),
        )
        assert scene.get(path).status_code == 200


@pytest.mark.requirement("XB9")
def test_one_launch_does_not_keep_another_one_open(scene: Scene, owner: psycopg.Connection[Any]) -> None:
    used, left = scene.launch(), scene.launch()
    for _ in range(2):
        owner.execute("UPDATE app.launch SET last_seen_at = last_seen_at - interval '20 minutes'")
        assert scene.get(used).status_code == 200
    refused(scene.get(left), "launch-ended")


@pytest.mark.requirement("XB9")
def test_times_are_settings(page_pool: ConnectionPool[Any], keyring: Keyring, ehr: StrictEhr) -> None:
    brief = SessionStore(page_pool, keyring, absolute_timeout=timedelta(seconds=0))
    scene = Scene(ehr, brief)
    refused(scene.get(scene.launch()), "launch-ended")


@pytest.mark.requirement("XB10")
def test_the_session_id_is_in_no_address_page_or_log(
    scene: Scene, caplog: pytest.LogCaptureFixture, capsys: Any
) -> None:
    caplog.set_level("DEBUG")
    path = scene.launch()
    page = scene.get(path)
    session = scene.cookie("__Host-launch-").value
    captured = capsys.readouterr()
    for place in (path, page.text, str(page.headers), caplog.text, captured.out, captured.err):
        assert session not in place


@pytest.mark.requirement("XI4")
def test_without_the_database_nothing_is_served(stores: Any, keyring: Keyring, ehr: StrictEhr, scene: Scene) -> None:
    path = scene.launch()
    with ConnectionPool("postgresql://nobody@127.0.0.1:1/none", min_size=0, max_size=2, timeout=0.3, open=True) as pool:
        broken = Scene(ehr, SessionStore(pool, keyring))
        refused(broken.start(), "sessions-unavailable")
        cookie = scene.cookie("__Host-launch-")
        broken.browser.set_cookie(cookie.key, cookie.value, domain="app.example", secure=True)
        refused(broken.get(path), "sessions-unavailable")


@pytest.mark.requirement("S77", "XI3")
def test_keys_are_changed_without_ending_sessions(page_pool: ConnectionPool[Any], ehr: StrictEhr) -> None:
    old, new = Keyring.new_key("old"), Keyring.new_key("new")
    scene = Scene(ehr, SessionStore(page_pool, Keyring.parse(old)))
    ehr.resources["Patient/p1"] = {"resourceType": "Patient", "id": "p1"}
    path = scene.launch()
    cookie = scene.cookie("__Host-launch-")

    def status(keys: str) -> int:
        later = Scene(ehr, SessionStore(page_pool, Keyring.parse(keys)))
        later.browser.set_cookie(cookie.key, cookie.value, domain="app.example", secure=True)
        return later.get(f"{path}patient").status_code

    assert status(f"{new},{old}") == 200
    assert status(new) == 401


def test_a_sealed_value_opens_in_its_place_only() -> None:
    ring = Keyring.parse(Keyring.new_key("a"))
    sealed = ring.seal("token", "access:1")
    assert ring.unseal(sealed, "access:1") == "token"
    assert sealed != ring.seal("token", "access:1")
    for broken in (sealed[:-1], sealed[:-1] + bytes([sealed[-1] ^ 1]), b"", b"\x05abc", sealed[:5]):
        with pytest.raises(SealBroken):
            ring.unseal(broken, "access:1")
    with pytest.raises(SealBroken):
        ring.unseal(sealed, "access:2")


@pytest.mark.parametrize(
    "text", ["", "a", "a:AAAA", "a:!!!", f"{Keyring.new_key('a')},{Keyring.new_key('a')}", ":" + "A" * 43]
)
def test_bad_app_keys_stop_the_start(text: str) -> None:
    with pytest.raises(SmartConfigurationError):
        Keyring.parse(text)


@pytest.mark.requirement("S77")
def test_an_overview_for_administrators_holds_no_secret(scene: Scene, sessions: SessionStore) -> None:
    path = scene.launch()
    launch_id = path.split("/")[2]
    mine = next(item for item in sessions.open_launches() if item.launch_id == launch_id)
    assert mine.subject == "user-7"
    assert not hasattr(mine, "patient")
    assert not any(isinstance(value, bytes) for value in vars(mine).values())
    assert sessions.end([launch_id], "revoked by an administrator") == 1
    refused(scene.get(path), "launch-ended")


@pytest.mark.requirement("S10")
def test_a_browser_with_very_many_launches_keeps_the_latest(scene: Scene) -> None:
    paths = [scene.launch() for _ in range(26)]
    assert scene.get(paths[-1]).status_code == 200
    assert scene.get(paths[3]).status_code == 200
    refused(scene.get(paths[0]), "launch-ended")
    jar = scene.browser._cookies or {}
    assert len(jar) <= 26


@pytest.mark.requirement("S10")
def test_pages_outside_of_a_launch_know_the_browser_s_launches(scene: Scene) -> None:
    path = scene.launch()
    token = scene.home(path)["csrf_token"]
    response = scene.post("/upload", data={"csrf_token": token})
    assert json.loads(response.text) == {"launches": [path.split("/")[2]]}
    refused(scene.post("/upload", browser=scene.other_browser(), data={"csrf_token": token}), "request-forged")


def test_error_of_a_missing_session_is_typed(scene: Scene) -> None:
    with scene.app.test_request_context("/l/x/", base_url=BASE), pytest.raises(LaunchError, match="launch-ended"):
        scene.smart.require("x")

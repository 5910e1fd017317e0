"""``imaging sessions``: the overview of running launches, and their end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from clinician_app.sessions_command import sessions
from smart_launch import Keyring, SessionStore
from tests.clinician_app.conftest import Clinic

KEYS = "k1:" + "A" * 43


@pytest.fixture
def command(stores: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clinic: Clinic) -> Any:
    """Run the command as the role of the command line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", stores.url("imaging_worker"))
    monkeypatch.setenv("SITE_ASSIGNER_SYSTEM", "https://hospital.example/patient-numbers")
    clinic.sessions.end([item.launch_id for item in clinic.sessions.open_launches()], "before the test")

    def run(*arguments: str, keys: str = "") -> Result:
        monkeypatch.setenv("APP_KEYS", keys)
        return CliRunner().invoke(sessions, arguments, catch_exceptions=False)

    return run


def opened(run: Any, *options: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("list", "--json", *options).output)
    return found


@pytest.mark.requirement("S79")
def test_who_has_the_app_open_is_shown_without_patients_or_secrets(command: Any, clinic: Clinic) -> None:
    clinic.launch(subject="dr-one")
    clinic.launch(subject="dr-two")
    found = opened(command)
    assert [item["subject"] for item in found] == ["dr-two", "dr-one"]
    assert set(found[0]) == {
        "launch_id",
        "ehr",
        "issuer",
        "subject",
        "fhir_user",
        "created_at",
        "last_seen_at",
        "ends_at",
        "key_id",
    }
    assert [item["subject"] for item in opened(command, "--user", "dr-one")] == ["dr-one"]
    assert opened(command, "--ehr", "another") == []
    text = command("list").output
    assert all(item["launch_id"] in text for item in found)
    assert "Practitioner" in text
    assert "made-up-marie" not in text


@pytest.mark.requirement("S79")
def test_launches_are_ended_one_by_one_and_in_bulk(command: Any, clinic: Clinic) -> None:
    paths = {name: clinic.launch(subject=name) for name in ("one", "two", "three")}
    ids = {item["subject"]: item["launch_id"] for item in opened(command)}
    assert "1 ended" in command("revoke", ids["one"], "--yes").output
    assert clinic.get(f"{paths['one']}/").status_code == 401
    assert clinic.get(f"{paths['two']}/").status_code == 200
    assert "1 ended" in command("revoke", "--user", "two", "--yes").output
    assert "no such launch" in command("revoke", "--before", "2020-01-01", "--yes").output
    assert "1 ended" in command("revoke", "--all", "--yes").output
    assert opened(command) == []
    assert clinic.get(f"{paths['three']}/").status_code == 401


@pytest.mark.requirement("S79")
def test_nothing_is_ended_by_accident(command: Any, clinic: Clinic) -> None:
    clinic.launch()
    assert command("revoke").exit_code == 2
    assert command("revoke", "--all").exit_code == 1  # asks, and hears no yes
    assert len(opened(command)) == 1


@pytest.mark.requirement("S77", "XI3")
def test_tokens_are_resealed_so_that_an_old_key_can_go(command: Any, clinic: Clinic) -> None:
    path = clinic.launch()
    fresh = Keyring.new_key("k2")
    assert "1 resealed with key k2" in command("reseal", keys=f"{fresh},{KEYS}").output
    assert opened(command)[0]["key_id"] == "k2"
    launch_id = path.rpartition("/")[2]
    later = SessionStore(clinic.sessions._pool, Keyring.parse(fresh))
    tokens = later.tokens(launch_id)
    assert tokens is not None
    assert tokens.access_token == clinic.token
    assert "0 resealed" in command("reseal", keys=fresh).output


@pytest.mark.requirement("XI3")
def test_what_no_key_opens_any_more_is_ended(command: Any, clinic: Clinic) -> None:
    clinic.launch()
    assert "0 resealed" in command("reseal", keys=Keyring.new_key("k9")).output
    assert opened(command) == []


@pytest.mark.requirement("XI3")
def test_the_command_line_s_role_sees_no_session_hash(stores: Any) -> None:
    import psycopg

    with (
        psycopg.connect(stores.url("imaging_worker")) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute("SELECT session_hash FROM app.launch")

"""The hold list over HTTP and by command: what a person sees, decides, and what then happens by itself."""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import azure.functions as func
import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from fhir_adapter.identity import patient_id, resource_id
from imaging_core.database import unit_of_work
from imaging_core.errors import Permanent
from imaging_core.ledger import act, study
from imaging_core.ledger import holds as ledger
from ingestion_functions import admin_api, audit, http_api, sweep
from ingestion_functions.auth import ADMIN_ROLE
from ingestion_functions.holds import holds as command
from ingestion_functions.http_api import Handler, answer
from ingestion_functions.register import register
from ingestion_functions.services import Services
from tests.ingestion_functions.conftest import Door
from tests.ingestion_functions.test_steps import send, study_row

ADMIN_TOKEN = "the-admin-token"


@pytest.fixture
def admin(parts: Services, monkeypatch: pytest.MonkeyPatch) -> Services:
    """The app's connections, with an admin's token."""
    made = replace(parts, settings=parts.settings.model_copy(update={"ingest_admin_token": SecretStr(ADMIN_TOKEN)}))
    monkeypatch.setattr(http_api, "services", lambda: made)
    return made


def ask(
    handler: Handler, *, token: str = ADMIN_TOKEN, body: object = None, if_match: str = "", **route: str
) -> func.HttpResponse:
    """Call an admin handler as the host does."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    headers |= {"If-Match": if_match} if if_match else {}
    request = func.HttpRequest(
        "POST" if body is not None else "GET",
        "http://127.0.0.1/api",
        headers=headers,
        params={},
        route_params=route,
        body=json.dumps(body).encode() if body is not None else b"",
    )
    return answer(request, handler, role=ADMIN_ROLE)


def told(response: func.HttpResponse) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(response.get_body())
    return found


def chart(parts: Services, number: str, *, family: str = "Doe", born: str = "1970-01-02") -> dict[str, Any]:
    """Put a Patient on the server as an EHR would."""
    return parts.fhir.update(
        {
            "resourceType": "Patient",
            "id": uuid.uuid4().hex,
            "identifier": [{"system": parts.settings.site_assigner_system, "value": number}],
            "name": [{"family": family, "given": ["Jane"]}],
            "birthDate": born,
        }
    )


@pytest.mark.requirement("P4", "A1")
def test_an_admin_sees_who_it_may_be_and_links(door: Door, admin: Services) -> None:
    number = uuid.uuid4().hex[:12]
    owner = chart(admin, number, family="Somebody", born="1950-01-01")
    study_uid = send(door, PatientID=number)
    register(admin, study_uid)
    listed = {row["study_uid"]: row for row in told(ask(admin_api.list_holds))["holds"]}
    assert listed[study_uid]["hold_reason"] == "patient-mismatch"
    assert number not in json.dumps(listed[study_uid])
    shown = ask(admin_api.show_hold, study=study_uid)
    said = told(shown)
    assert said["says"]["name"] == ["Doe^Jane"]
    assert said["says"]["patient id"] == [number]
    assert [found["patient"] for found in said["patients"]] == [owner["id"]]
    assert said["patients"][0]["birth_date"] == "1950-01-01"
    decision = {"action": "link", "patient": owner["id"], "reason": "the header's date is wrong", "who": "Dr Admin"}
    done = ask(admin_api.resolve_hold, body=decision, if_match=shown.headers["ETag"], study=study_uid)
    assert done.status_code == 200
    register(admin, study_uid)  # what the message does
    row = study_row(admin, study_uid)
    assert (row["hold_reason"], row["subject"]) == (None, f"Patient/{owner['id']}")
    assert study_uid not in {item["study_uid"] for item in told(ask(admin_api.list_holds))["holds"]}
    with unit_of_work(admin.pool) as connection:
        assert study.coerced(connection, study_uid)
        kinds = [item["kind"] for item in act.acts_of(connection, study_uid)]
    assert kinds == ["held", "released"]


@pytest.mark.requirement("P4", "P5")
@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("patient-mismatch", {"PatientBirthDate": "19991231"}),
        ("patient-ambiguous", {}),
        ("patient-id-empty", {"PatientID": ""}),
    ],
)
def test_a_patient_is_made_where_a_person_says_so(
    door: Door, admin: Services, reason: str, changes: dict[str, Any]
) -> None:
    number = uuid.uuid4().hex[:12]
    # intake itself made a Patient of this number before: the deterministic id is taken
    first = send(door, PatientID=number)
    register(admin, first)
    taken = admin.fhir.read("Patient", patient_id(admin.settings.site_assigner_system, number))
    assert taken is not None
    if reason == "patient-ambiguous":
        chart(admin, number)
    study_uid = send(door, **{"PatientID": number, **changes})
    register(admin, study_uid)
    assert study_row(admin, study_uid)["hold_reason"] == reason
    done = ask(admin_api.resolve_hold, body={"action": "create", "reason": "another person"}, study=study_uid)
    assert done.status_code == 200
    register(admin, study_uid)
    row = study_row(admin, study_uid)
    assert row["hold_reason"] is None
    made = admin.fhir.read(*row["subject"].split("/"))
    assert made is not None
    assert made["id"] != taken["id"]
    assert made["name"][0]["family"] == "Doe"
    # the number stays the other chart's own, or its next study would be ambiguous
    assert number not in {item["value"] for item in made["identifier"]}
    assert admin.fhir.read("Patient", taken["id"]) == taken
    # again, and with a later instance, it is the same one, written once
    register(admin, study_uid)
    later = send(door, StudyInstanceUID=study_uid, **{"PatientID": number, **changes})
    register(admin, later)
    assert study_row(admin, study_uid)["subject"] == row["subject"]
    assert study_row(admin, study_uid)["version"] == 2
    assert admin.fhir.read("Patient", made["id"]) == made


@pytest.mark.requirement("P3", "P4")
def test_making_a_patient_who_is_not_on_file_takes_the_number(door: Door, admin: Services) -> None:
    number = uuid.uuid4().hex[:12]
    strict = replace(admin, settings=admin.settings.model_copy(update={"patient_match": "hold"}))
    study_uid = send(door, PatientID=number)
    register(strict, study_uid)
    assert study_row(admin, study_uid)["hold_reason"] == "patient-not-found"
    ask(admin_api.resolve_hold, body={"action": "create"}, study=study_uid)
    register(strict, study_uid)
    assert study_row(admin, study_uid)["subject"] == (
        f"Patient/{patient_id(admin.settings.site_assigner_system, number)}"
    )


@pytest.mark.requirement("A1", "A2")
@pytest.mark.parametrize("action", ["create", "reject"])
def test_each_decision_is_audited_with_its_person(door: Door, admin: Services, action: str) -> None:
    study_uid = send(door, PatientID="")
    register(admin, study_uid)
    ask(admin_api.resolve_hold, body={"action": action, "who": "Dr Admin"}, study=study_uid)
    audit.deliver(admin)
    events = [
        event
        for event in admin.fhir.search("AuditEvent", {"_count": "200"})
        if any(
            entity.get("what", {}).get("identifier", {}).get("value") == f"urn:oid:{study_uid}"
            for entity in event["entity"]
        )
    ]
    assert [event["outcomeDesc"] for event in events] == ["Hold of an unidentified study resolved"]
    people = {agent["who"].get("display") for agent in events[0]["agent"]}
    assert "Dr Admin" in people


@pytest.mark.requirement("P4")
def test_of_two_who_decide_at_once_one_is_told(door: Door, admin: Services) -> None:
    study_uid = send(door, PatientID="")
    register(admin, study_uid)
    tag = ask(admin_api.show_hold, study=study_uid).headers["ETag"]
    with ThreadPoolExecutor(4) as threads:
        answers = list(
            threads.map(
                lambda action: (
                    ask(admin_api.resolve_hold, body={"action": action}, if_match=tag, study=study_uid).status_code
                ),
                ["create", "create", "create", "create"],
            )
        )
    assert sorted(answers) == [200, 412, 412, 412]
    with unit_of_work(admin.pool) as connection:
        found = connection.execute(
            "SELECT count(*) FROM ledger.hold_resolution WHERE study_uid = %s", (study_uid,)
        ).fetchone()
    assert found == (1,)


@pytest.mark.requirement("P4")
def test_a_decision_is_about_the_hold_that_was_seen(door: Door, admin: Services) -> None:
    study_uid = send(door, PatientID="")
    register(admin, study_uid)
    seen = ask(admin_api.show_hold, study=study_uid).headers["ETag"]
    # another patient's number joins meanwhile: it is another question now
    with unit_of_work(admin.pool) as connection:
        study.hold(connection, study_uid, "patient-conflict", "two")
    stale = ask(admin_api.resolve_hold, body={"action": "create"}, if_match=seen, study=study_uid)
    assert stale.status_code == 412
    assert told(stale)["code"] == "precondition-failed"
    assert ask(admin_api.resolve_hold, body={"action": "create"}, if_match='"2"', study=study_uid).status_code == 200


@pytest.mark.requirement("P4")
@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"action": "link"}, 400),
        ({"action": "link", "patient": "nobody-by-this-id"}, 409),
        ({"action": "link", "patient": "../Patient/1"}, 400),
        ({"action": "create", "patient": "x"}, 400),
        ({"action": "burn"}, 400),
        ({"action": "create", "extra": 1}, 400),
        ({}, 400),
    ],
)
def test_a_decision_that_makes_no_sense_is_refused(
    door: Door, admin: Services, body: dict[str, Any], status: int
) -> None:
    study_uid = send(door, PatientID="")
    register(admin, study_uid)
    assert ask(admin_api.resolve_hold, body=body, study=study_uid).status_code == status
    assert study_row(admin, study_uid)["hold_reason"] == "patient-id-empty"


def test_only_admins_get_in(door: Door, admin: Services) -> None:
    upload = admin.settings.ingest_token.get_secret_value()
    for handler in (admin_api.list_holds, admin_api.list_quarantine):
        assert ask(handler).status_code == 200
        assert ask(handler, token=upload).status_code == 403
        assert ask(handler, token="wrong").status_code == 401
    # and an admin's token sends no images
    assert door.with_token(ADMIN_TOKEN)(admin_api.list_holds).status_code == 403
    assert ask(admin_api.show_hold, study="1.2.3").status_code == 404
    assert ask(admin_api.show_hold, study="no-uid").status_code == 400


@pytest.mark.requirement("P3", "P4")
def test_a_held_study_flows_on_when_its_patient_comes_on_file(
    door: Door, admin: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = uuid.uuid4().hex[:12]
    strict = replace(admin, settings=admin.settings.model_copy(update={"patient_match": "hold"}))
    study_uid = send(door, PatientID=number)
    register(strict, study_uid)
    chart(admin, number)
    hinted: list[str] = []
    monkeypatch.setattr(sweep, "services", lambda: strict)
    monkeypatch.setattr(sweep, "hint", lambda _parts, _queue, uid: hinted.append(uid))
    sweep.sweep()
    assert study_uid not in hinted  # not each half minute
    with unit_of_work(admin.pool) as connection:
        connection.execute(
            "UPDATE ledger.study SET held_at = now() - interval '1 hour' WHERE study_uid = %s", (study_uid,)
        )
    sweep.sweep()
    assert study_uid in hinted
    hinted.clear()
    sweep.sweep()
    assert study_uid not in hinted
    register(strict, study_uid)
    assert study_row(admin, study_uid)["hold_reason"] is None


@pytest.mark.requirement("P4")
def test_the_commands_list_show_and_resolve(
    door: Door, admin: Services, monkeypatch: pytest.MonkeyPatch, stores: Any
) -> None:
    monkeypatch.setenv("IMAGING_DATA_DIR", str(stores.layout.root))
    study_uid = send(door, PatientID="", PatientName="Cmd^Shown")
    register(admin, study_uid)
    runner = CliRunner()
    listed = json.loads(runner.invoke(command, ["list", "--json"]).output)
    assert study_uid in {row["study_uid"] for row in listed}
    assert runner.invoke(command, ["list"]).exit_code == 0
    assert "Cmd^Shown" in runner.invoke(command, ["show", study_uid]).output
    both = runner.invoke(command, ["resolve", study_uid, "--create", "--reject"])
    assert isinstance(both.exception, Permanent)
    done = runner.invoke(command, ["resolve", study_uid, "--create", "--who", "admin", "--reason", "asked"])
    assert done.exit_code == 0, done.output
    again = runner.invoke(command, ["resolve", study_uid, "--create", "--who", "other"])
    assert isinstance(again.exception, Permanent)
    register(admin, study_uid)
    assert study_row(admin, study_uid)["hold_reason"] is None
    with unit_of_work(admin.pool) as connection:
        decided = ledger.latest(connection, study_uid)
        assert not study.coerced(connection, study_uid)
    assert decided is not None
    assert (decided.action, decided.who, decided.reason) == ("create", "admin", "asked")
    stored = admin.fhir.read("ImagingStudy", resource_id(study_uid, "imaging-study"))
    assert stored is not None

from __future__ import annotations

import base64
import typing
from collections.abc import Callable
from typing import Any

import pytest

from fhir_adapter.audit_event import ACTS, Act, Agent, build
from tests import fhir_validation

APP = Agent("imaging-app", "https://ehr.example", "Sandbox EHR", "10.0.0.7")
SERVER = Agent("clinician_app", display="Imaging app", address="app.example")
USER = Agent("sub-1", "https://ehr.example", "Practitioner/1")
PATIENT = "Patient/p"


def event(act: Act, **options: Any) -> dict[str, Any]:
    return build(
        act,
        **{
            "client": APP,
            "server": SERVER,
            "observer": "clinician_app",
            "user": USER,
            "patient": PATIENT,
            "what": "DiagnosticReport/r",
            "trace_id": "ab" * 16,
            **options,
        },
    )


@pytest.mark.requirement("A1")
def test_each_act_of_the_list_has_a_pattern() -> None:
    required = {
        "image-received",
        "image-viewed",
        "patient-searched",
        "report-read",
        "report-signed",
        "report-amended",
        "ai-run",
        "batch-run",
        "hold-resolved",
        "access-refused",
    }
    assert required <= set(ACTS) == set(typing.get_args(Act))


@pytest.mark.requirement("A1")
@pytest.mark.parametrize(
    ("act", "profile", "action", "client_role"),
    [
        ("image-received", "PatientCreate", "C", "110153"),
        ("image-viewed", "PatientRead", "R", "110152"),
        ("report-read", "PatientRead", "R", "110152"),
        ("report-signed", "PatientUpdate", "U", "110153"),
        ("ai-run", "PatientCreate", "C", "110153"),
        ("hold-resolved", "PatientUpdate", "U", "110153"),
    ],
)
def test_the_pattern_of_an_act(act: Act, profile: str, action: str, client_role: str) -> None:
    made = event(act)
    assert made["meta"]["profile"][0].endswith(f"IHE.BasicAudit.{profile}")
    assert made["action"] == action
    assert made["agent"][0]["type"]["coding"][0]["code"] == client_role
    assert [agent["requestor"] for agent in made["agent"]] == [False, False, True]
    assert made["agent"][0]["network"] == {"address": "10.0.0.7", "type": "2"}
    assert made["agent"][1]["network"]["type"] == "1"
    kinds = [entity["type"]["code"] for entity in made["entity"]]
    assert kinds == ["1", "2", "XrequestId"]
    patient, target, trace = (entity["what"] for entity in made["entity"])
    assert (patient, target) == ({"reference": PATIENT}, {"reference": "DiagnosticReport/r"})
    assert trace == {"identifier": {"value": "ab" * 16}}
    assert [agent["who"]["identifier"]["value"] for agent in made["agent"]] == ["imaging-app", "clinician_app", "sub-1"]
    assert made["agent"][2]["who"] == {
        "identifier": {"system": "https://ehr.example", "value": "sub-1"},
        "display": "Practitioner/1",
    }
    assert made["outcome"] == "0"
    assert made["source"]["observer"]["display"] == "clinician_app"


@pytest.mark.requirement("A1")
@pytest.mark.parametrize(
    "lacking",
    [{"client": Agent("sweep")}, {"server": Agent("ingestion")}, {"what": None}, {"outcome": "serious-failure"}],
)
def test_a_pattern_is_claimed_only_where_it_is_followed(lacking: dict[str, Any]) -> None:
    """BALP demands who, network address of client and server, and the object; a step of the system has no address."""
    assert "meta" in event("report-read")
    made = event("report-read", **lacking)
    assert "meta" not in made
    assert made["agent"][0]["who"]["identifier"]["value"]


@pytest.mark.requirement("A1")
def test_a_search_a_refusal_and_a_batch() -> None:
    search = event("patient-searched", query="DiagnosticReport?patient=p")
    query = next(entity for entity in search["entity"] if "query" in entity)
    assert base64.b64decode(query["query"]).decode() == "DiagnosticReport?patient=p"
    assert "what" not in query
    refused = event("access-refused", outcome="serious-failure")
    assert refused["outcome"] == "8"
    assert "meta" not in refused
    batch = event("batch-run", patient=None, user=None, what="urn:imaging:job:7", id_="x")
    assert batch["entity"][0]["role"]["code"] == "20"
    assert batch["agent"][0]["requestor"] is True
    assert batch["id"] == "x"


@pytest.mark.requirement("A1")
def test_all_are_valid(validate_resources: Callable[[list[dict[str, Any]]], list[fhir_validation.Issue]]) -> None:
    made = [event(act, what=what) for act in ACTS for what in ("DiagnosticReport/r", "urn:oid:1.2.3")]
    made += [event(act, patient=None, user=None) for act in ACTS]
    assert validate_resources(made) == []

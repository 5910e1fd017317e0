"""AuditEvents in the patterns of IHE BALP (Basic Audit Log Patterns), one for each act of A1.

An act is a row of a table; what varies is who did it, to whom, to what, and how it ended. A refused access follows
FHIR's own pattern for "access denied", for BALP's are for what succeeded.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, Literal

from fhir_adapter.client import Resource
from fhir_adapter.dicom_time import now_instant
from fhir_adapter.terminology import DCM

__all__ = ["ACTS", "Act", "ActPattern", "Agent", "build"]

Act = Literal[
    "image-received",
    "image-viewed",
    "patient-searched",
    "report-read",
    "report-signed",
    "report-amended",
    "report-rejected",
    "ai-run",
    "batch-run",
    "hold-resolved",
    "quarantine-decided",
    "study-relinked",
    "model-activated",
    "access-refused",
]

_BALP = "https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit."
_EVENT_TYPE = "http://terminology.hl7.org/CodeSystem/audit-event-type"
_INTERACTION = "http://hl7.org/fhir/restful-interaction"
_ENTITY_TYPE = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
_ENTITY_ROLE = "http://terminology.hl7.org/CodeSystem/object-role"
_PARTICIPATION = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"
_REQUEST_ID = "https://profiles.ihe.net/ITI/BALP/CodeSystem/BasicAuditEntityType"
_SOURCE = {"system": DCM, "code": "110153", "display": "Source Role ID"}
_DESTINATION = {"system": DCM, "code": "110152", "display": "Destination Role ID"}


@dataclass(frozen=True)
class ActPattern:
    """How an act is written down.

    Parameters
    ----------
    pattern : str
        BALP pattern without ``Patient``; empty: none of BALP's.
    interaction : str
        FHIR RESTful interaction.
    action : str
        AuditEvent.action.
    words : str
        What happened, for people.
    user_type : str
        v3-ParticipationType of the user: IRCP who received information, AUT who wrote it.
    """

    pattern: str
    interaction: str
    action: str
    words: str
    user_type: str = "AUT"


ACTS: dict[Act, ActPattern] = {
    "image-received": ActPattern("Create", "create", "C", "Image received"),
    "image-viewed": ActPattern("Read", "read", "R", "Image viewed", "IRCP"),
    "patient-searched": ActPattern("Query", "search", "E", "Patient's imaging searched", "IRCP"),
    "report-read": ActPattern("Read", "read", "R", "Report read", "IRCP"),
    "report-signed": ActPattern("Update", "update", "U", "Report signed"),
    "report-amended": ActPattern("Update", "update", "U", "Signed report amended"),
    "report-rejected": ActPattern("Update", "update", "U", "Report rejected"),
    "ai-run": ActPattern("Create", "create", "C", "Study analysed by a model"),
    "batch-run": ActPattern("", "batch", "E", "Batch re-analysis run"),
    "hold-resolved": ActPattern("Update", "update", "U", "Hold of an unidentified study resolved"),
    "quarantine-decided": ActPattern("Update", "update", "U", "Decision about a quarantined file"),
    "study-relinked": ActPattern("Update", "update", "U", "Study moved to the patient that a merge left"),
    "model-activated": ActPattern("Update", "update", "U", "AI model activated, exchanged or switched off"),
    "access-refused": ActPattern("", "read", "R", "Access refused", "IRCP"),
}


@dataclass(frozen=True)
class Agent:
    """A user, an OAuth client or a service.

    Parameters
    ----------
    value : str
        For a user: ``sub`` of the id_token; for a client: its client id; for a service: its name.
    system : str
        Who gave it: the issuer, the EHR's ``iss`` ...
    display : str
        For people.
    address : str
        Host name or IP address, as seen on the connection; users have none.
    """

    value: str
    system: str = ""
    display: str = ""
    address: str = ""


def build(
    act: Act,
    *,
    client: Agent,
    server: Agent,
    observer: str,
    user: Agent | None = None,
    patient: str | None = None,
    what: str | None = None,
    query: str | None = None,
    trace_id: str = "",
    outcome: Literal["success", "minor-failure", "serious-failure"] = "success",
    recorded: str = "",
    id_: str | None = None,
) -> Resource:
    """Return the AuditEvent of an act.

    Parameters
    ----------
    act : str
        A key of `ACTS`.
    client, server : Agent
        Who asked, and which part of the system served it.
    observer : str
        Which part recorded the event.
    user : Agent, optional
        The person behind it.
    patient : str, optional
        ``Patient/<id>``; decides between BALP's patterns with and without a Patient.
    what : str, optional
        Object of the act: ``Type/id``, or ``urn:oid:<SOP UID>`` of an instance.
    query : str, optional
        The search, for ``patient-searched``.
    trace_id : str
        Id of the trace (BALP: the request id).
    outcome : str
        How it ended.
    recorded : str
        FHIR instant; empty: now.
    id_ : str, optional
        Of the resource, where the event is delivered by PUT so that a repetition makes no second one.
    """
    row = ACTS[act]
    entities = [_patient(patient)] if patient else []
    if query is not None:
        encoded = base64.b64encode(query.encode()).decode()
        entities.append({**_typed("2", "System Object", "24", "Query"), "query": encoded})
    elif what:
        role = ("20", "Job") if act == "batch-run" else ("4", "Domain Resource")
        target = {"identifier": {"value": what}} if what.startswith("urn:") else {"reference": what}
        entities.append({"what": target, **_typed("2", "System Object", *role)})
    if trace_id:
        entities.append(
            {"what": {"identifier": {"value": trace_id}}, "type": {"system": _REQUEST_ID, "code": "XrequestId"}}
        )
    # BALP: what is read flows from the server, what is written or asked for from the client
    reading = row.action == "R"
    agents = [
        _agent(client, _DESTINATION if reading else _SOURCE, requestor=user is None),
        _agent(server, _SOURCE if reading else _DESTINATION, requestor=False),
    ]
    if user is not None:
        display = "information recipient" if row.user_type == "IRCP" else "author (originator)"
        agents.append(
            _agent(user, {"system": _PARTICIPATION, "code": row.user_type, "display": display}, requestor=True)
        )
    resource: Resource = {
        "resourceType": "AuditEvent",
        "type": {"system": _EVENT_TYPE, "code": "rest", "display": "RESTful Operation"},
        "subtype": [{"system": _INTERACTION, "code": row.interaction, "display": row.interaction}],
        "action": row.action,
        "recorded": recorded or now_instant(),
        "outcome": {"success": "0", "minor-failure": "4", "serious-failure": "8"}[outcome],
        "outcomeDesc": row.words,
        "agent": agents,
        "source": {"observer": {"display": observer}},
    }
    if entities:
        resource["entity"] = entities
    if row.pattern and outcome == "success" and _follows(row.pattern, client, server, entities):
        resource["meta"] = {"profile": [f"{_BALP}{'Patient' if patient else ''}{row.pattern}"]}
    if id_ is not None:
        resource["id"] = id_
    return resource


def _follows(pattern: str, client: Agent, server: Agent, entities: list[Resource]) -> bool:
    """Return whether the event has what its pattern demands, so that it may be claimed.

    BALP asks for both machines' network addresses and for the object (a search: the query); some acts have neither, as
    a step of this system that asks itself.
    """
    kind = "24" if pattern == "Query" else "4"
    held = {(entity.get("role") or {}).get("code") for entity in entities}
    return bool(client.address and server.address) and kind in held


def _agent(agent: Agent, kind: Resource, *, requestor: bool) -> Resource:
    identifier = {**({"system": agent.system} if agent.system else {}), "value": agent.value}
    made: Resource = {
        "type": {"coding": [kind]},
        "who": {"identifier": identifier, **({"display": agent.display} if agent.display else {})},
        "requestor": requestor,
    }
    if agent.address:
        numeric = all(part.isdigit() for part in agent.address.split(".")) or ":" in agent.address
        made["network"] = {"address": agent.address, "type": "2" if numeric else "1"}
    return made


def _patient(reference: str) -> dict[str, Any]:
    return {"what": {"reference": reference}, **_typed("1", "Person", "1", "Patient")}


def _typed(kind: str, kind_words: str, role: str, role_words: str) -> dict[str, Any]:
    return {
        "type": {"system": _ENTITY_TYPE, "code": kind, "display": kind_words},
        "role": {"system": _ENTITY_ROLE, "code": role, "display": role_words},
    }

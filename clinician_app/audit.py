"""Audit of what is looked at (A1, A2): queued durably before the answer goes out, else the answer does not go out.

The events follow IHE BALP's PatientRead and PatientQuery patterns. They wait in ``ledger.audit_outbox``, from where the
worker delivers them to the FHIR service.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

import psycopg
from psycopg.types.json import Jsonb

from imaging_core.database import Pool, unit_of_work
from imaging_core.errors import Retryable
from imaging_core.telemetry import trace_id
from smart_launch import LaunchSession

__all__ = ["Act", "AuditTrail"]

Act = Literal["patient-searched", "report-read", "image-viewed"]

_BALP = "https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit."
_DCM = "http://dicom.nema.org/resources/ontology/DCM"
_REST = {
    "system": "http://terminology.hl7.org/CodeSystem/audit-event-type",
    "code": "rest",
    "display": "RESTful Operation",
}
_OBJECT_TYPE = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
_OBJECT_ROLE = "http://terminology.hl7.org/CodeSystem/object-role"
# act: BALP pattern, RESTful interaction, action code, words
_ACTS: dict[Act, tuple[str, str, str, str]] = {
    "patient-searched": ("PatientQuery", "search", "E", "Patient's imaging listed"),
    "report-read": ("PatientRead", "read", "R", "Report read"),
    "image-viewed": ("PatientRead", "read", "R", "Image viewed"),
}


class AuditTrail:
    """The queue of audit events.

    Parameters
    ----------
    pool : Pool
        Connections of role ``imaging_page``, which may add to the queue and nothing else.
    site : str
        Who observes: the source of the events.
    """

    def __init__(self, pool: Pool, site: str) -> None:
        self._pool = pool
        self._site = site

    def record(self, act: Act, launch: LaunchSession, subject: str, what: str) -> None:
        """Queue one act.

        Parameters
        ----------
        act : str
            What was done.
        launch : LaunchSession
            By whom, from which EHR.
        subject : str
            Id of the Patient.
        what : str
            What was looked at: a reference (``DiagnosticReport/...``) or ``urn:oid:`` of an instance.

        Raises
        ------
        Retryable
            ``audit-unavailable``: the act must not be answered.
        """
        event = self._event(act, launch, subject, what)
        try:
            with unit_of_work(self._pool) as connection:
                connection.execute("INSERT INTO ledger.audit_outbox (event) VALUES (%s)", (Jsonb(event),))
        except (Retryable, psycopg.Error) as error:
            raise Retryable("audit-unavailable", type(error).__name__) from error

    def _event(self, act: Act, launch: LaunchSession, subject: str, what: str) -> dict[str, Any]:
        pattern, interaction, action, words = _ACTS[act]
        target = {"reference": what} if not what.startswith("urn:") else {"identifier": {"value": what}}
        return {
            "resourceType": "AuditEvent",
            "meta": {"profile": [_BALP + pattern]},
            "type": _REST,
            "subtype": [{"system": "http://hl7.org/fhir/restful-interaction", "code": interaction}],
            "action": action,
            "recorded": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "outcome": "0",
            "outcomeDesc": words,
            "agent": [_user(launch), _client(launch)],
            "source": {"observer": {"display": self._site}},
            "entity": [
                _entity({"reference": f"Patient/{subject}"}, "1", "Person", "1", "Patient"),
                _entity(target, "2", "System Object", "4", "Domain Resource"),
                {
                    "what": {"identifier": {"value": trace_id() or "none"}},
                    "type": {
                        "system": "https://profiles.ihe.net/ITI/BALP/CodeSystem/BasicAuditEntityType",
                        "code": "XrequestId",
                    },
                },
            ],
        }


def _user(launch: LaunchSession) -> dict[str, Any]:
    """Who looked: iss and sub of the id_token, for good (S65); fhirUser as the EHR calls them."""
    identifier = {"system": launch.issuer or launch.iss, "value": launch.subject or "unknown"}
    who: dict[str, Any] = {"identifier": identifier}
    if launch.fhir_user:
        who["display"] = launch.fhir_user
    return {
        "type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "code": "IRCP"}]},
        "who": who,
        "requestor": True,
    }


def _client(launch: LaunchSession) -> dict[str, Any]:
    return {
        "type": {"coding": [{"system": _DCM, "code": "110153", "display": "Source Role ID"}]},
        "who": {"identifier": {"system": launch.iss, "value": launch.ehr.client_id}, "display": launch.ehr.name},
        "requestor": False,
    }


def _entity(what: dict[str, Any], kind: str, kind_words: str, role: str, role_words: str) -> dict[str, Any]:
    return {
        "what": what,
        "type": {"system": _OBJECT_TYPE, "code": kind, "display": kind_words},
        "role": {"system": _OBJECT_ROLE, "code": role, "display": role_words},
    }

"""Audit of what is looked at (A1, A2): queued durably before the answer goes out, else the answer does not go out.

The events wait in ``ledger.audit_outbox``, from where the worker delivers them to the FHIR service.
"""

from __future__ import annotations

from typing import Any, Protocol
from urllib.parse import urlsplit

import psycopg
from flask import request
from psycopg.types.json import Jsonb

from fhir_adapter.audit_event import Act, Agent, build
from imaging_core.database import Pool, unit_of_work
from imaging_core.errors import Retryable
from imaging_core.telemetry import trace_id
from smart_launch import LaunchSession, Registration

__all__ = ["Actor", "AuditTrail"]


class Actor(Protocol):
    """Who did it: a launch, or the bearer of a token."""

    @property
    def ehr(self) -> Registration:
        """Whose user or token it is."""
        ...

    @property
    def iss(self) -> str:
        """The EHR's FHIR base."""
        ...

    @property
    def issuer(self) -> str | None:
        """Who says so."""
        ...

    @property
    def subject(self) -> str | None:
        """The user."""
        ...

    @property
    def fhir_user(self) -> str | None:
        """The user as a FHIR resource."""
        ...


class AuditTrail:
    """The queue of audit events.

    Parameters
    ----------
    pool : Pool
        Connections of role ``imaging_page``, which may add to the queue and nothing else.
    observer : str
        Who observes: the source of the events.
    """

    def __init__(self, pool: Pool, observer: str) -> None:
        self._pool = pool
        self._observer = observer

    def event(self, act: Act, launch: LaunchSession | Actor, subject: str, what: str = "") -> dict[str, Any]:
        """Return the AuditEvent of an act of this request.

        Parameters
        ----------
        act : str
            What was done.
        launch : LaunchSession or Actor
            By whom (``iss`` and ``sub`` of the id_token, S65), from which EHR.
        subject : str
            Id of the Patient where the results are.
        what : str
            What it was done to: ``DiagnosticReport/...``, or ``urn:oid:`` of an instance; '' for the timeline.
        """
        return build(
            act,
            client=Agent(
                getattr(launch, "client_id", "") or launch.ehr.client_id,
                launch.iss,
                launch.ehr.name,
                request.remote_addr or "",
            ),
            server=Agent("clinician_app", "", self._observer, urlsplit(f"//{request.host}").hostname or ""),
            observer=self._observer,
            user=Agent(launch.subject or "unknown", launch.issuer or launch.iss, launch.fhir_user or ""),
            patient=f"Patient/{subject}",
            what=what or None,
            query=f"patient={subject}" if act == "patient-searched" else None,
            trace_id=trace_id(),
            outcome="minor-failure" if act == "access-refused" else "success",
        )

    def record(self, act: Act, launch: LaunchSession | Actor, subject: str, what: str = "") -> None:
        """Queue one act; parameters as for `event`.

        Raises
        ------
        Retryable
            ``audit-unavailable``: the act must not be answered.
        """
        event = self.event(act, launch, subject, what)
        try:
            with unit_of_work(self._pool) as connection:
                connection.execute("INSERT INTO ledger.audit_outbox (event) VALUES (%s)", (Jsonb(event),))
        except (Retryable, psycopg.Error) as error:
            raise Retryable("audit-unavailable", type(error).__name__) from error

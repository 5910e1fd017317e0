"""Audit of what the pipeline does (A1, A2): queued with the act, delivered to the FHIR service by the sweep."""

from __future__ import annotations

import socket
import uuid
from typing import Any

import psycopg

from fhir_adapter.audit_event import Act, Agent, build
from fhir_adapter.bundle import put_entry
from fhir_adapter.identity import NAMESPACE
from imaging_core import telemetry
from imaging_core.database import unit_of_work
from imaging_core.ledger import audit as ledger
from imaging_core.ledger.study import MADE_HERE
from ingestion_functions.services import Services

__all__ = ["deliver", "note"]

_OBSERVER = "ingestion_functions"
# BALP wants both machines. What this system does by itself, or by a command of its operator, it does here; a sender is
# known by its client id or AE title, which is its machine's name as far as anybody can tell.
_OWN_ACTS = ("ai-run", "study-relinked")
_MOST_BUNDLES = 50
log = telemetry.get_logger(__name__)


def note(
    connection: psycopg.Connection[Any], act: Act, *, client: str, what: str, patient: str | None, user: str = ""
) -> None:
    """Queue one event in the act's transaction.

    Parameters
    ----------
    client : str
        Who asked for it: the sending client, or a step of this system.
    what : str
        ``Type/id`` of the act's object.
    patient : str or None
        ``Patient/<id>``.
    user : str
        The person behind it, where there is one.
    """
    here = socket.gethostname()
    event = build(
        act,
        client=Agent(client, address=here if act in _OWN_ACTS or client.startswith(MADE_HERE) else client),
        server=Agent(_OBSERVER, address=here),
        observer=_OBSERVER,
        user=Agent(user, display=user) if user else None,
        patient=patient,
        what=what,
        trace_id=telemetry.trace_id(),
    )
    ledger.queue(connection, event)


def deliver(parts: Services) -> int:
    """Deliver what waits, up to 100 events a transaction; return how many.

    Raises
    ------
    Retryable, Permanent
        The FHIR service is away, or refuses; the events wait on.
    """
    sent = 0
    for _ in range(_MOST_BUNDLES):
        with unit_of_work(parts.pool) as connection:
            waiting = ledger.undelivered(connection)
            if not waiting:
                break
            # By PUT under an id of its own: a transaction that is sent again makes no second event.
            events = [
                {**item.event, "id": str(uuid.uuid5(NAMESPACE, f"audit:{item.id}:{item.created_at.isoformat()}"))}
                for item in waiting
            ]
            parts.fhir.transaction([put_entry(event, None) for event in events], resend=True)
            ledger.delivered(connection, [item.id for item in waiting])
            sent += len(waiting)
    return sent

"""What every step shares: trace, retry with backoff and jitter, giving up.

A queue message is a hint: it names a study, the ledger says what is to be done. A part that is away is no fault of the
study: the step is due again later, for as long as it takes. A refusal ends the study's way until a person sends it
back.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import azure.functions as func
import psycopg

from imaging_core import telemetry
from imaging_core.database import unit_of_work
from imaging_core.errors import ImagingError, Retryable
from imaging_core.ledger import study as ledger
from imaging_core.ledger.study import StudyRow
from ingestion_functions.services import Services, services

__all__ = ["failed", "give_up", "hint", "run"]

_FIRST_S, _MOST_S = 2.0, 300.0
log = telemetry.get_logger(__name__)


def run(message: func.QueueMessage, step: Callable[[Services, str], None]) -> None:
    """Run a step for the study that a message names, under the message's trace."""
    hinted: dict[str, Any] = message.get_json()
    with telemetry.continue_trace(hinted.get("traceparent"), step.__name__):
        step(services(), str(hinted["study_uid"]))


def hint(parts: Services, queue: str, study_uid: str, *, delay_s: float = 0.0) -> None:
    """Send a hint; where the queue is away the sweep stands in."""
    try:
        parts.queues.send(queue, {"study_uid": study_uid}, delay_s=int(delay_s))
    except Retryable:
        log.warning("hint lost; the sweep will find it", study=telemetry.hashed_uid(study_uid))


def failed(connection: psycopg.Connection[Any], row: StudyRow, error: ImagingError) -> float:
    """Note a failure of a claimed study; return in how many seconds the step is due again, 0 where it is not."""
    uid = telemetry.hashed_uid(row.study_uid)
    if not isinstance(error, Retryable):
        log.error("failed", code=error.code, study=uid)
        ledger.mark_failed(connection, row.study_uid, f"{error.code}: {error.detail}")
        return 0.0
    # Full jitter, so that what failed together does not come back together.
    delay = max(error.retry_after, random.uniform(1.0, min(_MOST_S, _FIRST_S * 2**row.tries)))  # noqa: S311  # no secret
    log.warning("postponed", code=error.code, study=uid, seconds=round(delay, 1), tries=row.tries + 1)
    ledger.postpone(connection, row.study_uid, delay, f"{error.code}: {error.detail}")
    return delay


def give_up(message: func.QueueMessage) -> None:
    """Mark a study failed whose message was tried as often as host.json allows (maxDequeueCount)."""
    hinted: dict[str, Any] = message.get_json()
    study_uid = str(hinted.get("study_uid", ""))
    with telemetry.continue_trace(hinted.get("traceparent"), "give_up"):
        log.error("poison", study=telemetry.hashed_uid(study_uid))
        with unit_of_work(services().pool) as connection:
            ledger.mark_failed(connection, study_uid, "internal: the step failed each time it was tried")

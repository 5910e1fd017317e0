"""The sweep: whatever is not converged goes back on its queue, so that a lost message costs time and nothing else."""

from __future__ import annotations

from imaging_core import telemetry
from imaging_core.database import unit_of_work
from imaging_core.errors import ImagingError, Retryable
from imaging_core.ledger import study as ledger
from imaging_core.queues import ANALYSES, STUDIES
from ingestion_functions import audit
from ingestion_functions.services import services
from ingestion_functions.steps import hint

__all__ = ["sweep"]

log = telemetry.get_logger(__name__)


def sweep() -> None:
    """Send a hint for each study that is due and has none in sight, and deliver the audit that waits."""
    parts = services()
    with telemetry.continue_trace(None, "sweep"):
        try:
            with unit_of_work(parts.pool) as connection:
                to_register, to_analyse = ledger.unfinished(connection, parts.settings.sweep_after_s)
        except Retryable as error:
            log.warning("postponed", step="sweep", code=error.code)
            return
        for queue, studies in ((STUDIES, to_register), (ANALYSES, to_analyse)):
            for study_uid in studies:
                hint(parts, queue, study_uid)
        try:
            audited = audit.deliver(parts)
        except ImagingError as error:
            log.warning("audit waits", code=error.code)
        else:
            if audited:
                log.info("audit delivered", events=audited)
        if to_register or to_analyse:
            log.info("swept", to_register=len(to_register), to_analyse=len(to_analyse))

"""The sweep: whatever is not converged goes back on its queue, so that a lost message costs time and nothing else.

It also carries what has no queue: audit that waits, history for the journal, merged patients, released files. Each of
these stands alone: one that fails is tried again half a minute later and keeps no other from its work.
"""

from __future__ import annotations

from collections.abc import Callable

from imaging_core import telemetry
from imaging_core.database import unit_of_work
from imaging_core.errors import ImagingError
from imaging_core.ledger import study as ledger
from imaging_core.queues import ANALYSES, STUDIES
from ingestion_functions import archive, audit, journal, merges, quarantine, signed_objects
from ingestion_functions.services import Services, services
from ingestion_functions.steps import hint

__all__ = ["sweep"]

log = telemetry.get_logger(__name__)


def sweep() -> None:
    """Do everything that is due."""
    parts = services()
    with telemetry.continue_trace(None, "sweep"):
        for name, work in _WORK:
            try:
                done = work(parts)
            except ImagingError as error:
                log.warning("postponed", step=f"sweep: {name}", code=error.code)
            else:
                if done:
                    log.info("swept", step=f"sweep: {name}", number=done)


def _journal(parts: Services) -> int:
    return journal.ship(parts.pool, parts.blobs, parts.settings.journal_after_s)


def _unfinished(parts: Services) -> int:
    """Send a hint for each study that is due and has none in sight."""
    with unit_of_work(parts.pool) as connection:
        to_register, to_analyse = ledger.unfinished(connection, parts.settings.sweep_after_s)
        to_register += ledger.held_again(connection)
    for queue, studies in ((STUDIES, to_register), (ANALYSES, to_analyse)):
        for study_uid in studies:
            hint(parts, queue, study_uid)
    return len(to_register) + len(to_analyse)


_WORK: tuple[tuple[str, Callable[[Services], int]], ...] = (
    ("unfinished studies", _unfinished),
    ("journal", _journal),
    ("audit", audit.deliver),
    ("released files", quarantine.release_due),
    ("merged patients", merges.follow_merges),
    ("signed reports", signed_objects.take_in),
    ("renditions", archive.due),
)

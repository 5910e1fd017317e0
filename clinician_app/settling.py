"""Acts that a killed process left are settled by the processes that live: at the next act, and every minute beside."""

from __future__ import annotations

import threading

from clinician_app.signing import SigningDesk
from imaging_core.errors import ImagingError
from imaging_core.telemetry import get_logger

__all__ = ["keep_settling"]

_EVERY_S = 60.0


def keep_settling(desk: SigningDesk, *, every_s: float = _EVERY_S) -> threading.Event:
    """Settle in the background for as long as the process lives; return what ends it.

    Several processes may do so at once: an act is noted as ended by one of them.
    """
    over = threading.Event()

    def work() -> None:
        while not over.wait(every_s):
            try:
                desk.settle()
            except ImagingError as error:
                get_logger(__name__).warning("signoff-not-settled", code=error.code)

    threading.Thread(target=work, name="settling", daemon=True).start()
    return over

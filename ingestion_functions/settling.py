"""When a study that is still coming in is registered and analysed.

A quiet study is registered at once, and analysed at once: a single image's report does not wait. While instances keep
coming, the next registration may be 0, 3, 9, 27 ... seconds after the last one, bounded by SETTLE_MOST_S; as soon as
nothing has come for a moment it is done without waiting longer. So the ImagingStudy of 1,000 instances is written a
handful of times, and its last version is there a moment after the last instance. Analyses: the first at once, the next
when the study is quiet, or SETTLE_MOST_S after the one before.
"""

from __future__ import annotations

import math

from imaging_core.ledger.study import Arrivals, StudyRow

__all__ = ["analysis_waits", "next_registration_s", "registration_waits"]

_QUIET_S = 1.5
_LONGEST_QUIET_S = 5.0
_FACTOR = 3.0


def next_registration_s(burst: int, most_s: float) -> float:
    """Return how long after the n-th registration of a burst the next one may be."""
    # two images of one examination, as most radiographs are, both go at once
    return 0.0 if burst <= 1 else min(most_s, _FACTOR ** (burst - 1))


def _quiet_s(burst: int) -> float:
    """Return after how long without an instance a burst counts as over: a longer one may falter longer."""
    return min(_LONGEST_QUIET_S, max(_QUIET_S, _FACTOR ** (burst - 1) / 4))


def registration_waits(row: StudyRow, growth: Arrivals) -> int:
    """Return in how many whole seconds to look again; 0: register now."""
    quiet = _quiet_s(row.burst)
    if row.register_in <= 0 or not growth.unregistered or growth.quiet_s >= quiet:
        return 0
    return math.ceil(min(row.register_in, max(quiet - growth.quiet_s, 1.0)))


def analysis_waits(row: StudyRow, growth: Arrivals, most_s: float) -> int:
    """Return in how many whole seconds to look again; 0: analyse now."""
    quiet = _quiet_s(row.burst)
    if row.analysed_ago is None or row.burst <= 1 or row.analysed_ago >= most_s:
        return 0
    if growth.unregistered or growth.quiet_s < quiet:
        return math.ceil(max(quiet - growth.quiet_s, 1.0))
    return 0

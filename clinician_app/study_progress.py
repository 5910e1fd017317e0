"""How far the pipeline has come with a study (view ``cache.study_progress``): why there is no report yet, or ever."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from clinician_app.cache import CacheKey, ChartCache

__all__ = ["StudyProgress", "load_progress"]

Stage = Literal["pending", "no-model", "not-analysed", "analysed", "failed", "held", "unknown"]


@dataclass(frozen=True)
class StudyProgress:
    """Stage of one study; `reasons` are the codes of what was not analysed."""

    stage: Stage
    reasons: tuple[str, ...] = ()


def load_progress(cache: ChartCache, key: CacheKey, study_uids: Iterable[str]) -> dict[str, StudyProgress]:
    """Return the progress of those of the studies that the launch may see and the ledger knows."""
    wanted = [uid for uid in study_uids if uid]
    if not wanted:
        return {}
    with cache.transaction(key) as connection:
        rows = connection.execute(
            "SELECT study_uid, held, failed, settled, analyses FROM cache.study_progress WHERE study_uid = ANY(%s)",
            (wanted,),
        ).fetchall()
    return {row[0]: _progress(*row[1:]) for row in rows}


def _progress(held: bool, failed: bool, settled: bool, analyses: list[dict[str, object]]) -> StudyProgress:
    if held:
        return StudyProgress("held")
    if failed:
        return StudyProgress("failed")
    if not settled:
        return StudyProgress("pending")
    states = {item.get("state") for item in analyses}
    codes: dict[str, None] = {}
    for item in analyses:
        named = item.get("not_analysed")
        for entry in named if isinstance(named, list) else []:
            if isinstance(entry, dict) and isinstance(entry.get("reason"), str):
                codes[entry["reason"]] = None
    if "analysed" in states:
        return StudyProgress("analysed", tuple(codes))
    if "not_analysed" in states:
        return StudyProgress("not-analysed", tuple(codes))
    if "no_model" in states:
        return StudyProgress("no-model")
    return StudyProgress("unknown")

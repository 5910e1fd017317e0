"""NCRONTAB schedules: six fields ``second minute hour day month weekday`` in UTC, as timer triggers use them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from imaging_core.errors import Permanent

__all__ = ["Schedule", "parse"]

_FIELDS = (("second", 0, 59), ("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 6))
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
# the longest gap that a schedule can have: 29 February over a century that is no leap year
_HORIZON = timedelta(days=8 * 366 + 1)


@dataclass(frozen=True)
class Schedule:
    """A parsed expression: for each field the values at which it fires."""

    seconds: frozenset[int]
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]

    def next_after(self, moment: datetime) -> datetime:
        """Return the first time after `moment` (aware, any zone; whole seconds).

        Raises
        ------
        Permanent
            The expression names a day that does not exist (31 February).
        """
        candidate = moment.replace(microsecond=0) + timedelta(seconds=1)
        limit = candidate + _HORIZON
        while candidate < limit:
            if candidate.month not in self.months or not self._fires_on(candidate):
                candidate = candidate.replace(hour=0, minute=0, second=0) + timedelta(days=1)
            elif candidate.hour not in self.hours:
                candidate = candidate.replace(minute=0, second=0) + timedelta(hours=1)
            elif candidate.minute not in self.minutes:
                candidate = candidate.replace(second=0) + timedelta(minutes=1)
            elif candidate.second not in self.seconds:
                candidate += timedelta(seconds=1)
            else:
                return candidate
        raise Permanent("bad-setting", "the schedule never fires")

    def _fires_on(self, day: datetime) -> bool:
        # NCrontab wants both the day and the weekday to match, unlike Unix cron
        return day.day in self.days and day.isoweekday() % 7 in self.weekdays


def parse(expression: str) -> Schedule:
    """Parse six fields (five: the second is 0).

    Raises
    ------
    Permanent
        With code ``bad-setting``, naming the field.
    """
    parts = expression.split()
    if len(parts) == 5:
        parts.insert(0, "0")
    if len(parts) != 6:
        raise Permanent("bad-setting", f"a schedule has six fields: {expression!r}")
    return Schedule(*(_field(part, *spec) for part, spec in zip(parts, _FIELDS, strict=True)))


def _field(text: str, name: str, low: int, high: int) -> frozenset[int]:
    values: set[int] = set()
    for item in text.split(","):
        span, _, step_text = item.partition("/")
        step = _number(step_text, name, 1, high) if step_text else 1
        if span == "*":
            first, last = low, high
        else:
            start, _, end = span.partition("-")
            first = _number(start, name, low, high)
            last = _number(end, name, low, high) if end else (high if step_text else first)
        if last < first:
            raise Permanent("bad-setting", f"schedule, {name}: {item!r} runs backwards")
        values.update(range(first, last + 1, step))
    return frozenset(values)


def _number(text: str, name: str, low: int, high: int) -> int:
    names = _MONTHS if name == "month" else _DAYS if name == "weekday" else ()
    if text.lower()[:3] in names and text.isalpha():
        return names.index(text.lower()[:3]) + low
    if name == "weekday" and text == "7":
        return 0
    if not text.isdecimal() or not low <= int(text) <= high:
        raise Permanent("bad-setting", f"schedule, {name}: {text!r} is not within {low} to {high}")
    return int(text)

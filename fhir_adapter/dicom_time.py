"""DICOM dates and times as FHIR ones (D24).

FHIR demands an offset whenever there is a time. It comes from Timezone Offset From UTC (0008,0201), else from the
site's time zone; without either, or where the zone gives two answers, the date stands alone. Never a naive time,
never a guess.
"""

from __future__ import annotations

import functools
import re
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

__all__ = ["fhir_date", "fhir_date_time", "now_instant"]

_DATE = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})")
_TIME = re.compile(r"(\d{2}):?(?:(\d{2}):?(?:(\d{2})(?:\.(\d{1,6}))?)?)?")
_OFFSET = re.compile(r"([+-])(\d{2})(\d{2})")


def fhir_date(value: str) -> str | None:
    """Return a DA value as FHIR date, None where it is no date (PS3.5 6.2; the ACR-NEMA form ``YYYY.MM.DD`` too)."""
    parsed = _date(value)
    return parsed.isoformat() if parsed else None


@functools.lru_cache(maxsize=4096)
def fhir_date_time(day: str, time: str, offset: str, zone: str) -> str | None:
    """Return date and time as FHIR dateTime.

    Parameters
    ----------
    day, time : str
        DA and TM values; a time that is missing or unreadable leaves the date.
    offset : str
        Timezone Offset From UTC (0008,0201), ``&ZZXX``; empty where absent.
    zone : str
        IANA name of the site's time zone; empty: none.

    Returns
    -------
    str or None
        None where there is no usable date.
    """
    parsed = _date(day)
    if parsed is None:
        return None
    match = _TIME.fullmatch(time.strip())
    if match is None:
        return parsed.isoformat()
    hour, minute, second = (int(group or 0) for group in match.group(1, 2, 3))
    fraction = (match.group(4) or "").rstrip("0")
    if hour > 23 or minute > 59 or second > 60:
        return parsed.isoformat()
    # PS3.5 allows second 60 for a leap second, which datetime can't hold
    local = datetime(parsed.year, parsed.month, parsed.day, hour, minute, min(second, 59))
    zone_info = _fixed(offset) or _site_zone(zone, local)
    if zone_info is None:
        return parsed.isoformat()
    stamp = local.replace(tzinfo=zone_info).isoformat()
    return f"{stamp[:19]}.{fraction}{stamp[19:]}" if fraction else stamp


def now_instant() -> str:
    """Return the current time as FHIR instant, in UTC to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@functools.lru_cache(maxsize=4096)
def _date(value: str) -> date | None:
    match = _DATE.fullmatch(value.strip())
    if match is None:
        return None
    try:
        return date(*(int(group) for group in match.groups()))
    except ValueError:
        return None


def _fixed(offset: str) -> tzinfo | None:
    match = _OFFSET.fullmatch(offset.strip())
    if match is None or offset.strip() == "-0000":
        return None
    minutes = int(match.group(2)) * 60 + int(match.group(3))
    signed = -minutes if match.group(1) == "-" else minutes
    # PS3.3 C.12.1.1.1.2: from -1200 to +1400
    return timezone(timedelta(minutes=signed)) if -720 <= signed <= 840 and int(match.group(3)) < 60 else None


def _site_zone(name: str, local: datetime) -> tzinfo | None:
    if not name:
        return None
    zone = ZoneInfo(name)
    earlier = local.replace(tzinfo=zone, fold=0).utcoffset()
    later = local.replace(tzinfo=zone, fold=1).utcoffset()
    # twice or never on that day's clock: no answer is right
    return zone if earlier == later and earlier is not None and earlier.seconds % 60 == 0 else None

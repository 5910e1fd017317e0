"""English and French: which one a request gets, and how dates, names and numbers are written in it.

Order: ``?lang=`` (the switch on each page, remembered in a cookie), that cookie, Accept-Language, the site's.
Dates name the month, never as a number: 03/04 means two days on the two sides of the Atlantic.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import cast
from zoneinfo import ZoneInfo

from babel.dates import format_datetime
from flask import Flask, Response, current_app, request

from clinician_app.fhir_values import Moment, PersonName
from clinician_app.translation import current_language, init_babel

__all__ = ["LANGUAGES", "clock", "day", "init_language", "percent", "short_day", "spoken_name"]

LANGUAGES = {"en": "English", "fr": "Français"}
_COOKIE = "__Host-language"
_YEAR_SECONDS = 365 * 24 * 3600


def init_language(app: Flask, *, site_language: str, site_zone: str) -> None:
    """Choose the language of each request and register the filters of templates."""
    app.config["BABEL_DEFAULT_LOCALE"] = site_language
    app.config["BABEL_TRANSLATION_DIRECTORIES"] = "translations"
    app.extensions["site_zone"] = ZoneInfo(site_zone) if site_zone else None
    init_babel(app, _chosen)
    app.after_request(_remember)
    app.jinja_env.filters.update(day=day, short_day=short_day, clock=clock, percent=percent, spoken_name=spoken_name)
    app.jinja_env.globals.update(language=current_language, LANGUAGES=LANGUAGES)


def _chosen() -> str:
    for choice in (request.args.get("lang", ""), request.cookies.get(_COOKIE, "")):
        if choice in LANGUAGES:
            return choice
    site = cast(str, current_app.config["BABEL_DEFAULT_LOCALE"])
    return request.accept_languages.best_match([site, *LANGUAGES], default=site) or site


def _remember(response: Response) -> Response:
    choice = request.args.get("lang", "")
    if choice in LANGUAGES:
        response.set_cookie(
            _COOKIE, choice, max_age=_YEAR_SECONDS, secure=True, httponly=True, samesite="None", partitioned=True
        )
    return response


def _zoned(moment: Moment | datetime) -> datetime:
    value = moment.value if isinstance(moment, Moment) else moment
    zone = current_app.extensions["site_zone"]
    return value.astimezone(zone) if zone and value.tzinfo else value


_DAY_FORMS = {"year": "y", "month": "MMM y", "day": "d MMM y", "time": "d MMM y"}


def day(moment: Moment | datetime | date | None) -> str:
    """Write the day (or month, or year) with the month's name: ``3 Apr 2026``, ``3 avr. 2026``."""
    if moment is None:
        return ""
    if isinstance(moment, Moment):
        value = _zoned(moment) if moment.precision == "time" else moment.value
        return str(format_datetime(value, _DAY_FORMS[moment.precision], locale=current_language()))
    value = _zoned(moment) if isinstance(moment, datetime) else datetime(moment.year, moment.month, moment.day)
    return str(format_datetime(value, "d MMM y", locale=current_language()))


def short_day(moment: Moment | None) -> str:
    """Write day and month without the year, for lists that show the year beside."""
    if moment is None or moment.precision in ("year", "month"):
        return day(moment)
    value = _zoned(moment) if moment.precision == "time" else moment.value
    return str(format_datetime(value, "d MMM", locale=current_language()))


def clock(moment: Moment | datetime | None) -> str:
    """Write the time of day in the site's zone (in the sender's own where the site has none); '' for a mere date."""
    if moment is None or (isinstance(moment, Moment) and moment.precision != "time"):
        return ""
    return str(format_datetime(_zoned(moment), "HH:mm", locale=current_language()))


def percent(value: float | None) -> str:
    """Write a probability as whole percent; below 1 and above 99 as bounds, for a model is never sure."""
    if value is None:
        return ""
    if value < 0.01:
        text = "< 1"
    elif value > 0.99:
        text = "> 99"
    else:
        text = str(round(value * 100))
    return f"{text} %" if current_language() == "fr" else f"{text}%"


def spoken_name(name: PersonName) -> str:
    """Write a name in one line, family name first, as lists are read."""
    if name.family and name.given:
        return f"{name.family.upper()}, {name.given}"
    return name.family.upper() or name.given or name.text


def today() -> date:
    """The day at the site."""
    now = datetime.now(UTC)
    zone = current_app.extensions["site_zone"]
    return (now.astimezone(zone) if zone else now).date()

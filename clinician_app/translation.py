"""flask-babel's functions with types, which it does not ship."""

from __future__ import annotations

import flask_babel  # type: ignore[import-untyped]  # no stubs exist
from flask import Flask

__all__ = ["current_language", "gettext", "init_babel", "lazy_gettext", "ngettext"]


def init_babel(app: Flask, locale_selector: object) -> None:
    """Set up translations of a Flask app."""
    flask_babel.Babel(app, locale_selector=locale_selector)


def current_language() -> str:
    """Return the request's language; English outside of one."""
    return str(flask_babel.get_locale() or "en")


def gettext(message: str, **values: object) -> str:
    """Return a message in the request's language."""
    return str(flask_babel.gettext(message, **values))


def ngettext(singular: str, plural: str, num: int) -> str:
    """Return a message with a number, which it names as ``%(num)d``."""
    return str(flask_babel.ngettext(singular, plural, num))


def lazy_gettext(message: str) -> object:
    """Return what turns into the message in the language of the request that shows it."""
    lazy: object = flask_babel.lazy_gettext(message)
    return lazy

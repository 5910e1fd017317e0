"""Keeping codes, states and launch values out of access logs."""

from __future__ import annotations

import logging
import re

__all__ = ["keep_queries_out"]

_QUERY = re.compile(r"((?:/launch|/callback/[^\s?\"]*|/login))\?[^\s\"]*")


class _WithoutQueries(logging.Filter):
    """Cuts the query of launch and callback addresses out of log lines."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if "?" in message:
            cut = _QUERY.sub(r"\1", message)
            if cut != message:
                record.msg, record.args = cut, ()
        return True


def keep_queries_out() -> None:
    """Cut queries of launches and callbacks out of the access logs of Werkzeug and gunicorn.

    gunicorn fills its format from request fields, which a filter sees as one line; a format without `%(r)s`, `%(q)s`
    and `%(f)s` is better still.
    """
    for name in ("werkzeug", "gunicorn.access"):
        logger = logging.getLogger(name)
        if not any(isinstance(item, _WithoutQueries) for item in logger.filters):
            logger.addFilter(_WithoutQueries())

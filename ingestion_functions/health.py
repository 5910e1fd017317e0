"""Liveness and readiness; both open, for a probe has no token, and neither says more than names and states."""

from __future__ import annotations

from collections.abc import Callable

import azure.functions as func
import httpx

from imaging_core import __version__
from imaging_core.errors import ImagingError
from imaging_core.queues import STUDIES
from ingestion_functions.http_api import json_answer
from ingestion_functions.services import Services, services

__all__ = ["live", "ready", "warm_up"]


def live() -> func.HttpResponse:
    """The process answers."""
    return json_answer({"status": "ok", "version": __version__})


def warm_up() -> None:
    """Open this process's connections and start its decode children."""
    services().decoder.warm_up()


def ready() -> func.HttpResponse:
    """Whether each dependency answers: 200, or 503 where one does not."""
    try:
        parts = services()
    except ImagingError as error:
        return json_answer({"status": "not ready", "settings": error.detail}, 503)
    states = {name: _state(check) for name, check in _checks(parts).items()}
    good = all(state == "ok" for state in states.values())
    return json_answer({"status": "ok" if good else "not ready", "dependencies": states}, 200 if good else 503)


def _checks(parts: Services) -> dict[str, Callable[[], object]]:
    def database() -> None:
        with parts.pool.connection(timeout=3) as connection:
            connection.execute("SELECT 1 FROM ledger.study LIMIT 1")

    return {
        "postgres": database,
        "blob": parts.blobs.check,
        "queue": lambda: parts.queues.depth(STUDIES),
        "fhir": parts.fhir.capabilities,
        "ai": lambda: parts.ai.get("/readyz", timeout=3).raise_for_status(),
    }


def _state(check: Callable[[], object]) -> str:
    try:
        check()
    except ImagingError as error:
        return error.code
    except (httpx.HTTPError, OSError) as error:
        return type(error).__name__
    except Exception as error:  # psycopg and pool errors; the probe tells the type and goes on to the next dependency
        return type(error).__name__
    return "ok"

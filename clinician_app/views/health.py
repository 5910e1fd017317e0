"""``/healthz`` and ``/readyz``: for supervisors and load balancers; they name parts, never patients."""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint, Response, jsonify

from clinician_app.services import current_services
from imaging_core.database import unit_of_work
from imaging_core.errors import Retryable

__all__ = ["health"]

health = Blueprint("health", __name__)


@health.get("/healthz")
def alive() -> Response:
    """Say that the process answers."""
    return jsonify(status="ok")


@health.get("/readyz")
def ready() -> Response:
    """Say whether sessions can be checked and images read. FHIR may be away: what is cached is still shown."""
    services = current_services()

    def database() -> None:
        with unit_of_work(services.pool) as connection:
            connection.execute("SELECT 1")

    parts = {"postgres": _state(database), "blob": _state(services.blobs.check)}
    response = jsonify(status="ok" if set(parts.values()) == {"ok"} else "unavailable", parts=parts)
    response.status_code = 200 if set(parts.values()) == {"ok"} else 503
    return response


def _state(check: Callable[[], None]) -> str:
    try:
        check()
    except Retryable:
        return "unavailable"
    return "ok"

"""What ``imaging status`` tells: addresses, health, versions, queues and ledger of a running stack."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg

from imaging_core.errors import ImagingError
from infra.local.configuration import Layout, Ports
from infra.local.credentials import Credentials
from infra.local.parts import Part
from infra.local.postgres import database_url
from infra.local.processes import family
from infra.local.stack import build
from infra.local.stack_state import StackState, read_state

__all__ = ["ports_of", "status"]


def ports_of(state: StackState, otherwise: Ports) -> Ports:
    """Return the ports of a running stack; those of parts that do not run from the settings."""
    known = {
        name.removesuffix("_PORT").lower(): port for part in state.parts.values() for name, port in part.ports.items()
    }
    return Ports(**{name: known.get(name, getattr(otherwise, name)) for name in Ports.__dataclass_fields__})


def status(layout: Layout, configured: Ports, *, with_secrets: bool = False) -> dict[str, Any]:
    """Return the document of ``imaging status --json`` (see the interfaces' page).

    Parameters
    ----------
    with_secrets : bool
        Each part also has its ``token``.
    """
    state = read_state(layout.state)
    if state is None or state.supervisor is None:
        return {"parts": {}, "queues": {}, "ledger": {}, "ca_file": str(layout.ca_file), "state": "stopped"}
    ports = ports_of(state, configured)
    running = state.supervisor.alive
    stack = build(layout, ports, list(state.parts))
    with ThreadPoolExecutor(max(len(stack.parts), 1)) as threads:
        health = dict(
            zip(state.parts, threads.map(lambda part: part.healthy(), _ordered(stack.parts, state)), strict=True)
        )
    parts: dict[str, Any] = {}
    for part in _ordered(stack.parts, state):
        item = state.parts[part.name]
        parts[part.name] = {
            "url": item.url,
            "healthy": health[part.name] and item.process is not None and item.process.alive,
            "pids": family(item.process) if item.process is not None else [],
            "log": item.log,
            "version": item.version,
            "state": item.state if running or item.process is None else "unsupervised",
            "restarts": item.restarts,
            "detail": item.detail,
        }
        if with_secrets:
            parts[part.name]["token"] = part.token
    return {
        "parts": parts,
        "queues": _queues(stack.part("blob").token) if health.get("blob") else {},
        "ledger": _ledger(stack.credentials, ports.postgres) if health.get("postgres") else {},
        "ca_file": str(layout.ca_file),
        "state": state.state if running else "stopped",
    }


def _ordered(parts: tuple[Part, ...], state: StackState) -> list[Part]:
    by_name = {part.name: part for part in parts}
    return [by_name[name] for name in state.parts]


def _queues(connection: str) -> dict[str, int]:
    from imaging_core.queues import QUEUES, Queues
    from imaging_core.settings import load_settings

    queues = Queues.from_settings(load_settings(storage_connection_string=connection))
    depths: dict[str, int] = {}
    for name in QUEUES:
        # a queue is made when its first message comes
        with contextlib.suppress(ImagingError):
            depths[name] = queues.depth(name)
    return {name: depths.get(name, 0) for name in QUEUES}


def _ledger(credentials: Credentials, port: int) -> dict[str, int]:
    from imaging_core.ledger.counts import counts

    try:
        with psycopg.connect(database_url(credentials, port, "imaging_worker"), connect_timeout=5) as connection:
            return dict(counts(connection))
    except psycopg.Error:
        return {}  # PostgreSQL went away since it was asked

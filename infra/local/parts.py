"""What the supervisor needs to know of a part: how to start it, when it is healthy, how to stop it."""

from __future__ import annotations

import contextlib
import signal
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from urllib.parse import urlsplit

__all__ = ["Part", "answers"]

_CHECK_SECONDS = 2.0


@dataclass(frozen=True)
class Part:
    """One process of the stack, with what it starts itself.

    Parameters
    ----------
    name : str
        As in ``imaging status``.
    command : tuple[str, ...]
        Program and arguments.
    environment : Mapping[str, str]
        The part's settings, added to the environment of the stack.
    ports : Mapping[str, int]
        Setting to port, e.g. ``{"FHIR_PORT": 8080}``.
    url : str
        Where users of the part reach it.
    healthy : Callable[[], bool]
        Whether it serves now; quick, never raises.
    needs : tuple[str, ...]
        Parts that must be ready before this one starts; those that are not part of this run are taken as there.
    uses : tuple[str, ...]
        Parts that it calls while it works: they are stopped after it.
    prepare : Callable[[], None] or None
        Done before each start: installing packages, writing configuration.
    complete : Callable[[], None] or None
        Done once the process is healthy, before the part counts as ready: roles, migrations, containers.
    folder : Path or None
        Working folder; None: the one of ``imaging up``, where `imaging.toml` is.
    user : str or None
        System user to run as, in that user's group, where that is not the caller.
    token : str
        What ``imaging status --secrets`` shows.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    ports: Mapping[str, int]
    url: str
    healthy: Callable[[], bool]
    needs: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    prepare: Callable[[], None] | None = None
    complete: Callable[[], None] | None = None
    folder: Path | None = None
    user: str | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 10.0
    start_seconds: float = 90.0
    version: str = ""
    token: str = field(default="", repr=False)


def answers(
    url: str, *, token: str = "", ca_file: Path | None = None, host: str = "", below: int = 400
) -> Callable[[], bool]:
    """Return a check that `url` answers with a status below `below` within two seconds.

    Parameters
    ----------
    ca_file : Path or None
        For https: the authority that signed the part's certificate.
    host : str
        Host header, for names below ``localhost`` that the system's resolver does not know.
    """
    address = urlsplit(url)
    port = address.port or (443 if address.scheme == "https" else 80)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if host:
        headers["Host"] = host

    context = ssl.create_default_context(cafile=str(ca_file)) if ca_file is not None else None

    def connect() -> HTTPConnection:
        if context is None:
            return HTTPConnection(address.hostname or "", port, timeout=_CHECK_SECONDS)
        return HTTPSConnection(address.hostname or "", port, timeout=_CHECK_SECONDS, context=context)

    def check() -> bool:
        # the standard library's client: checks come many times a second while the parts need the cores to start
        with contextlib.closing(connect()) as connection:
            try:
                connection.request("GET", address.path or "/", headers=headers)
                return connection.getresponse().status < below
            except (OSError, HTTPException):
                return False

    return check

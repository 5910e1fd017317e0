"""Speed of launches and sessions: our own time, without the EHR's, against an empty Flask view in the same run."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import requests
import structlog
from cryptography.hazmat.primitives.asymmetric import ec
from flask import Flask
from joserfc.jwk import KeySet
from psycopg_pool import ConnectionPool

from infra.local.commands import stop_stack
from infra.local.configuration import Layout, Ports, load_stack_settings
from infra.local.credentials import load_credentials
from infra.local.postgres import database_url
from infra.local.stack_state import read_state
from infra.local.status import ports_of
from smart_launch import Keyring, SessionStore
from smart_launch.guarded_http import GuardedSession
from smart_launch.signing_keys import load_keys, public_jwks
from tests.conftest import free_ports
from tests.smart_launch.conftest import pem
from tests.smart_launch.scene import BASE, Scene, launch_many, registration_of
from tests.smart_launch.strict_ehr import StrictEhr

__all__ = ["run"]

_LAUNCHES = 100
_PAGES = 400
_AT_ONCE = 200


class _EhrTime:
    """Adds up the time in which requests to the EHR are under way."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def counted(self) -> Iterator[None]:
        send = GuardedSession.send

        def timed(session: GuardedSession, request: requests.PreparedRequest, **options: Any) -> requests.Response:
            begun = time.perf_counter()
            try:
                return send(session, request, **options)
            finally:
                self.seconds += time.perf_counter() - begun

        GuardedSession.send = timed  # type: ignore[method-assign,assignment]
        try:
            yield
        finally:
            GuardedSession.send = send  # type: ignore[method-assign]


@contextmanager
def _database() -> Iterator[str]:
    with TemporaryDirectory(prefix="stack-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)  # PostgreSQL's own user passes through
        command = [sys.executable, "-P", "-m", "imaging_core.cli", "up", "--data-dir", folder, "--only", "postgres"]
        subprocess.run(command, check=True, env={**os.environ, **free_ports()}, stdout=subprocess.DEVNULL)
        layout = Layout.at(Path(folder))
        try:
            state = read_state(layout.state)
            if state is None:
                raise RuntimeError("the database did not start")
            ports = ports_of(state, Ports.from_settings(load_stack_settings(Path(folder))))
            yield database_url(load_credentials(layout), ports.postgres, "imaging_page")
        finally:
            stop_stack(layout)


def run() -> list[str]:
    """Return the section's lines."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    ehr = StrictEhr()
    keys = load_keys(pem(ec.generate_private_key(ec.SECP384R1())))
    ehr.client_keys = KeySet.import_key_set(public_jwks(keys))  # type: ignore[arg-type]
    registration = registration_of(ehr, client_auth="private_key_jwt", signing_keys=keys)
    try:
        with _database() as url, ConnectionPool(url, min_size=4, max_size=12, open=True) as pool:
            pool.wait()
            scene = Scene(ehr, SessionStore(pool, Keyring.parse(Keyring.new_key("k"))), [registration])
            return _measured(scene)
    finally:
        ehr.stop()


def _measured(scene: Scene) -> list[str]:
    scene.app.add_url_rule("/l/<launch_id>/warm", "warm", lambda launch_id: _token(scene, launch_id))
    own = [_launch(scene) for _ in range(_LAUNCHES)][5:]
    empty = Flask("empty")
    empty.add_url_rule("/", "empty", lambda: "x")
    visitor = empty.test_client()
    floor, floor_cpu = _milliseconds(lambda: visitor.get("/", base_url=BASE))
    path = scene.launch()
    page, page_cpu = _milliseconds(lambda: scene.get(f"{path}warm"))
    begun = time.perf_counter()
    found = launch_many(scene, _AT_ONCE)
    seconds = time.perf_counter() - begun
    mixed = sum(meant != shown for meant, shown in found)
    return [
        "## SMART launches",
        "",
        "Everything local; the EHR's own time is left out of the first row: what remains is ours, signatures included.",
        "",
        "| what | figure | floor in the same run |",
        "|---|---|---|",
        f"| launch and callback, our time, median of {len(own)} | {median(own):.1f} ms "
        f"| an empty Flask view {floor:.2f} ms (ratio {median(own) / floor:.0f}) |",
        f"| session and token of a warm page, added | {page - floor:.2f} ms, {page_cpu - floor_cpu:.2f} ms of it CPU "
        f"| an empty Flask view {floor:.2f} ms (ratio {page / floor:.1f}) |",
        f"| {_AT_ONCE} launches at once, to their first pages "
        f"| {seconds:.1f} s, {len(found)} finished, {mixed} mixed up | |",
        "",
    ]


def _launch(scene: Scene) -> float:
    """Launch once; return the milliseconds that were neither the EHR's nor the browser's."""
    browser, away = scene.other_browser(), _EhrTime()
    with away.counted():
        begun = time.perf_counter()
        response = scene.start(browser)
        first = time.perf_counter() - begun
        answer = scene.ehr.authorize(response.location)
        begun = time.perf_counter()
        opened = scene.callback(answer, browser)
        second = time.perf_counter() - begun
    if opened.status_code != 303:
        raise RuntimeError(opened.text)
    return (first + second - away.seconds) * 1000


def _token(scene: Scene, launch_id: str) -> str:
    """Do what a page does before it does anything: find its launch, and the launch's token."""
    scene.smart.tokens.current(scene.smart.require(launch_id))
    return "x"


def _milliseconds(act: Callable[[], object]) -> tuple[float, float]:
    """Return the medians of time and of this thread's CPU time over some calls."""
    for _ in range(20):
        act()
    times, cpu = [], []
    for _ in range(_PAGES):
        begun, used = time.perf_counter(), time.thread_time()
        act()
        times.append(time.perf_counter() - begun)
        cpu.append(time.thread_time() - used)
    return median(times) * 1000, median(cpu) * 1000


if __name__ == "__main__":
    print("\n".join(run()))

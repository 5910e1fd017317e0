"""The example application as gunicorn serves it, in several processes, with every log on."""

from __future__ import annotations

import logging
import os
from typing import Any

from psycopg_pool import ConnectionPool

from smart_launch import Keyring, SessionStore, SmartLaunch, load_registrations
from tests.smart_launch.example_app import make_app


def _app() -> Any:
    logging.basicConfig(level=logging.DEBUG)
    environment = os.environ
    pool: ConnectionPool[Any] = ConnectionPool(environment["SERVED_DATABASE_URL"], min_size=1, max_size=8, open=True)
    smart = SmartLaunch(
        load_registrations(environment["SERVED_REGISTRATIONS"]),
        SessionStore(pool, Keyring.parse(environment["SERVED_KEYS"])),
        environment["SERVED_BASE_URL"],
        rate_limit_per_address=0,
    )
    return make_app(smart)


app = _app()

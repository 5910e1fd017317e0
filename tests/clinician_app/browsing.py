"""The app on a loopback port for a real browser, and what every page must keep to while it is looked at."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, Page
from werkzeug.serving import make_server

from tests.clinician_app.conftest import Clinic

__all__ = ["CHROMIUM", "Pages", "serving"]

CHROMIUM = "/usr/bin/chromium"


class Pages:
    """Opens paths of a launch in pages of their own; remembers errors and who was asked for something."""

    def __init__(self, browser: Browser, clinic: Clinic, origin: str) -> None:
        self._browser = browser
        self._clinic = clinic
        self.origin = origin
        self.trouble: list[str] = []
        self.asked: set[str] = set()
        self.contexts: list[BrowserContext] = []

    def open(self, launch: str, path: str, **options: object) -> Page:
        """Open a path of a launch in a browser that has that launch's cookie and no other."""
        launch_id = launch.removeprefix("/l/")
        jar = self._clinic.client.get_cookie(f"__Host-launch-{launch_id}", domain="localhost")
        assert jar is not None
        chosen = {
            "ignore_https_errors": True,
            "viewport": {"width": 1440, "height": 900},
            "locale": "en",
            **options,
        }
        context = self._browser.new_context(**chosen)  # type: ignore[arg-type]  # playwright checks them
        self.contexts.append(context)
        context.add_cookies(
            [{"name": jar.key, "value": jar.value, "url": self.origin, "secure": True, "httpOnly": True}]
        )
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: self.trouble.append(str(error)))
        page.on("console", lambda message: self.trouble.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: self.asked.add(_origin(request.url)))
        page.goto(self.origin + launch + path)
        return page


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


@contextmanager
def serving(browser: Browser, clinic: Clinic) -> Iterator[Pages]:
    """Serve the app; at the end no page may have failed at a script, or asked anybody else for anything."""
    server = make_server("127.0.0.1", 0, clinic.app, threaded=True, ssl_context="adhoc")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    origin = f"https://localhost:{server.server_port}"
    clinic.services.smart._origin = origin  # the origin that the app is told to be served at
    pages = Pages(browser, clinic, origin)
    try:
        yield pages
    finally:
        for context in pages.contexts:
            context.close()
        server.shutdown()
    assert [line for line in pages.trouble if "409" not in line and "403" not in line] == []
    assert pages.asked <= {origin}

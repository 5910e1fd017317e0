"""The sandbox EHR as tests see it: its pages, its token endpoint, its FHIR, and the control of its faults."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smart_launch import SmartLaunch
from tests.smart_launch.browser import Browser
from tests.smart_launch.example_app import make_app

__all__ = ["CONTROL_TOKEN", "Late", "Sandbox"]

CONTROL_TOKEN = "control-of-the-tests"


class Late:
    """A WSGI application that is put in after its port is known."""

    def __init__(self) -> None:
        self.app: Any = None

    def __call__(self, environ: Any, start_response: Any) -> Any:
        return self.app(environ, start_response)


@dataclass
class Sandbox:
    """The sandbox EHR of a stack, and an application that is registered with it, both over TLS."""

    origin: str
    app_origin: str
    ca_file: str
    smart: SmartLaunch = field(repr=False, default=None)  # type: ignore[assignment]  # a stack's app has its own
    fhir: Callable[..., Any] = field(repr=False, default=None)  # type: ignore[assignment]
    late: Late = field(repr=False, default_factory=Late)
    log_file: Path = Path()
    control_token: str = field(default=CONTROL_TOKEN, repr=False)

    @property
    def iss(self) -> str:
        return f"{self.origin}/fhir"

    def browser(self, **options: Any) -> Browser:
        return Browser(self.ca_file, **options)

    def control(self, method: str, path: str, document: Any = None) -> Any:
        browser = self.browser()
        page = browser._send(
            method,
            f"{self.origin}/control/{path}",
            json.dumps(document) if document is not None else None,
            {"Authorization": f"Bearer {self.control_token}", "Content-Type": "application/json"},
        )
        assert page.status < 300, page.text
        return json.loads(page.text)

    def serve(self, smart: SmartLaunch) -> None:
        self.late.app = make_app(smart)

    def launch_url(self, browser: Browser, patient: str) -> str:
        """Open a patient's chart and launch the app, as a user does; return the address of the frame."""
        browser.get(f"{self.origin}/")
        page = browser.post(f"{self.origin}/patients/{patient}/launch", {})
        assert page.status == 200, page.text
        return page.attribute(r'<iframe[^>]* src="([^"]*)"')

    def launch(self, browser: Browser, patient: str) -> str:
        """Launch the app; return the address of its first page."""
        page = browser.follow(browser.get(self.launch_url(browser, patient)))
        assert page.status == 200, page.text
        return page.url

"""An application, a browser and EHR doubles, and the steps of a launch between them."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import Cookie, TestResponse

from smart_launch import Registration, SessionStore, SmartLaunch
from tests.smart_launch.example_app import make_app
from tests.smart_launch.strict_ehr import GRANTED, StrictEhr

BASE = "https://app.example"


def registration_of(ehr: StrictEhr, **changes: Any) -> Registration:
    values: dict[str, Any] = {
        "name": "ehr-a",
        "iss": ehr.iss,
        "client_id": ehr.client_id,
        "client_auth": "none",
        "scopes": GRANTED,
        "frame_ancestors": ("https://ehr.example",),
    }
    return Registration(**{**values, **changes})


@dataclass
class Scene:
    """One application with one browser; further browsers with `other_browser`."""

    ehr: StrictEhr
    sessions: SessionStore
    registrations: Sequence[Registration] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        registrations = self.registrations or [registration_of(self.ehr)]
        self.smart = SmartLaunch(registrations, self.sessions, BASE, **{"rate_limit_per_address": 0, **self.options})
        self.app: Flask = make_app(self.smart)
        self.browser = self.other_browser()

    def other_browser(self) -> FlaskClient:
        return self.app.test_client()

    def get(self, path: str, browser: FlaskClient | None = None, **options: Any) -> TestResponse:
        return (browser or self.browser).get(path, base_url=BASE, **options)

    def post(self, path: str, browser: FlaskClient | None = None, **options: Any) -> TestResponse:
        return (browser or self.browser).post(path, base_url=BASE, **options)

    def start(
        self, browser: FlaskClient | None = None, iss: str | None = None, launch: str = "launch-1"
    ) -> TestResponse:
        return self.get(f"/launch?{urlencode({'iss': iss or self.ehr.iss, 'launch': launch})}", browser)

    def authorized(self, browser: FlaskClient | None = None, ehr: StrictEhr | None = None) -> dict[str, str]:
        """Go as far as the EHR's redirect back; return its parameters."""
        ehr = ehr or self.ehr
        response = self.start(browser, iss=ehr.iss)
        assert response.status_code == 302, response.text
        return ehr.authorize(response.location)

    def callback(
        self, parameters: dict[str, str], browser: FlaskClient | None = None, name: str = "ehr-a"
    ) -> TestResponse:
        return self.get(f"/callback/{name}?{urlencode(parameters)}", browser)

    def launch(self, browser: FlaskClient | None = None) -> str:
        """Launch the app; return the path of its first page."""
        response = self.callback(self.authorized(browser), browser)
        assert response.status_code == 303, response.text
        return str(response.location)

    def home(self, path: str, browser: FlaskClient | None = None) -> dict[str, Any]:
        response = self.get(path, browser)
        assert response.status_code == 200, response.text
        document: dict[str, Any] = response.get_json()
        return document

    def cookie(self, prefix: str) -> Cookie:
        """Return the first cookie of the browser whose name begins so."""
        jar = self.browser._cookies or {}
        return next(item for item in jar.values() if item.key.startswith(prefix))

    def launched(self) -> dict[str, Any]:
        """Launch the app; return what its first page knows."""
        return self.home(self.launch())


def launch_many(scene: Scene, count: int) -> list[tuple[str, str | None]]:
    """Launch the app for as many patients at once, each in a browser of its own.

    Returns
    -------
    list of tuple
        For each launch, the patient that the EHR meant and the one that the app shows.
    """
    respond = scene.ehr.token_response
    # the double opens the patient that the launch value names
    scene.ehr.token_response = lambda sent: {**respond(sent), "patient": sent["launch"]}  # type: ignore[method-assign]
    begin = threading.Barrier(count)

    def one(number: int) -> tuple[str, str | None]:
        browser, patient = scene.other_browser(), f"patient-{number}"
        begin.wait(120)
        sent = scene.ehr.authorize(scene.start(browser, launch=patient).location)
        opened = scene.callback(sent, browser)
        return patient, scene.home(opened.location, browser)["patient"]

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(one, range(count)))


def query_of(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query, strict_parsing=True).items()}


def refused(response: TestResponse, code: str) -> None:
    """Make sure that an answer is the page of a fault, with a reference number, and nothing that leads elsewhere."""
    assert response.status_code >= 400, response.headers
    assert "Location" not in response.headers
    assert re.search(r"<code>[0-9a-f]{12}</code>", response.text), response.text
    assert fault_code(response) == code, response.text


def fault_code(response: TestResponse) -> str:
    from smart_launch.errors import FAULTS

    for code, entry in FAULTS.items():
        if f"<h1>{_escaped(entry.en[0])}</h1>" in response.text:
            return code
    raise AssertionError(response.text)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("'", "&#39;")

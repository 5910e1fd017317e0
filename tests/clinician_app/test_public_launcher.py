"""Launches of the whole app from `smart-on-fhir/smart-launcher-v2`, a simulator that nobody here wrote.

It is not part of this repository. With `SMART_LAUNCHER_DIR` naming a folder with its sources and packages (see
docs/connect_an_ehr.md) the tests below run it; without, they are named as not run.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
import urllib3
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from flask import Flask, Response, request
from werkzeug.serving import make_server

from fhir_adapter.client import FhirClient
from imaging_core.database import Pool
from imaging_core.settings import Settings
from infra.local.node import find_node
from smart_launch import BackendServices, LaunchError, Registration
from smart_launch.signing_keys import SigningKey, load_keys
from tests.clinician_app.conftest import ALL_SCOPES, MARIE, Clinic
from tests.smart_launch.workers import free_port

CALLBACK = "https://localhost/callback/launcher"
DOCTOR = "launcher-doctor"
CLIENT = "imaging-app"
PUBLIC, SYMMETRIC, ASYMMETRIC, BACKEND = range(4)
EHR_LAUNCH, STANDALONE, SYSTEM = 0, 2, 4


@dataclass
class Launcher:
    """The running simulator, a FHIR service behind it, and a place where the app's key set can be fetched."""

    origin: str
    gateway: str
    key_set: Callable[[], Any]

    def options(self, kind: int = EHR_LAUNCH, client: int = PUBLIC, **changes: str) -> str:
        """Return launch options in the simulator's own code: a list in base64url."""
        given = {
            "patient": MARIE,
            "provider": DOCTOR,
            "encounter": "NONE",
            "scope": "",
            "redirect_uris": CALLBACK,
            "client_id": CLIENT,
            "client_secret": "",
            "auth_error": "",
            "jwks_url": "",
            "jwks": "",
            **changes,
        }
        listed = [kind, given["patient"], given["provider"], given["encounter"], 1, 1, 0]
        listed += [given[name] for name in list(given)[3:]]
        return base64.urlsafe_b64encode(json.dumps([*listed, client, 2, ""]).encode()).rstrip(b"=").decode()

    @property
    def iss(self) -> str:
        return f"{self.origin}/v/r4/fhir"


@pytest.fixture(scope="module")
def launcher(settings: Settings) -> Iterator[Launcher]:
    folder = os.environ.get("SMART_LAUNCHER_DIR")
    if not folder:
        pytest.skip("SMART_LAUNCHER_DIR names no folder with smart-launcher-v2: docs/connect_an_ehr.md says how")
    keys: list[Callable[[], Any]] = []
    with _gateway(settings, keys) as gateway:
        port = free_port()
        environment = {**os.environ, "PORT": str(port), "HOST": "127.0.0.1", "FHIR_SERVER_R4": f"{gateway}/fhir"}
        command = [find_node().node, "node_modules/ts-node/dist/bin.js", "--skipProject", "--transpile-only"]
        process = subprocess.Popen(
            [*command, "backend/index.ts"], cwd=Path(folder), env=environment, stdout=subprocess.DEVNULL
        )
        found = Launcher(f"http://127.0.0.1:{port}", gateway, lambda: keys[-1]())
        try:
            _wait(f"{found.iss}/.well-known/smart-configuration", process)
            found.key_set = keys.append  # type: ignore[assignment]  # set by the test whose app publishes them
            yield found
        finally:
            process.terminate()
            process.wait(10)


@contextmanager
def _gateway(settings: Settings, keys: list[Callable[[], Any]]) -> Iterator[str]:
    """Serve the FHIR service without its token, as the simulator expects one, and the app's key set."""
    app, http = Flask("gateway"), urllib3.PoolManager()

    @app.get("/fhir/<path:path>")
    def fhir(path: str) -> Response:
        query = f"?{request.query_string.decode()}" if request.query_string else ""
        bearer = {"Authorization": f"Bearer {settings.fhir_token.get_secret_value()}"}
        answer = http.request("GET", f"{settings.fhir_base_url}/{path}{query}", headers=bearer)
        text = answer.data.decode().replace(settings.fhir_base_url, f"{request.host_url}fhir")
        return Response(text, answer.status, {"Content-Type": "application/fhir+json"})

    @app.get("/jwks")
    def jwks() -> Any:
        return keys[-1]()

    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    http, end = urllib3.PoolManager(), time.monotonic() + 90
    while True:
        assert process.poll() is None, "the simulator did not start"
        try:
            if http.request("GET", url, retries=False, timeout=2).status == 200:
                return
        except urllib3.exceptions.HTTPError:
            pass
        assert time.monotonic() < end, "the simulator did not start in time"
        time.sleep(0.1)  # a bounded wait for a process to listen


@pytest.fixture
def doctor(fhir_client: FhirClient) -> None:
    fhir_client.update({"resourceType": "Practitioner", "id": DOCTOR, "name": [{"family": "House"}]})


@dataclass
class Round:
    """One app, registered with the simulator."""

    clinic: Clinic
    launcher: Launcher

    def launch(self, launch: str) -> Any:
        """Launch from the simulator; return what the callback answered."""
        query = urlencode({"iss": self.clinic.ehr.iss, "launch": launch})
        return self._finish(self.clinic.get(f"/launch?{query}"))

    def standalone(self) -> Any:
        return self._finish(self.clinic.get("/login?ehr=launcher"))

    def _finish(self, begun: Any) -> Any:
        http = urllib3.PoolManager()
        if begun.status_code == 302:
            answer = http.request("GET", begun.location, redirect=False)
        else:
            found = re.search(r'<form id="authorize" method="post" action="([^"]*)"', begun.text)
            assert found is not None, begun.text
            fields = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)"', begun.text)
            body = urlencode({name: html.unescape(value) for name, value in fields})
            kind = {"Content-Type": "application/x-www-form-urlencoded"}
            answer = http.request("POST", html.unescape(found[1]), body=body, headers=kind, redirect=False)
        assert answer.status == 302, answer.data
        location = answer.headers["Location"]
        assert location.startswith(f"{CALLBACK}?"), location
        return self.clinic.get(f"/callback/launcher?{urlsplit(location).query}")

    def opened(self, answer: Any) -> str:
        assert answer.status_code == 303, answer.text
        page = self.clinic.get(answer.location)
        while page.status_code in (302, 303):
            page = self.clinic.get(page.location)
        assert page.status_code == 200, page.text
        assert "DUPONT" in page.text.upper()
        return str(answer.location)


@pytest.fixture
def prepared(
    launcher: Launcher, make_clinic: Callable[..., Clinic], charts: None, doctor: None
) -> Callable[..., Round]:
    def make(iss: str = "", **changes: Any) -> Round:
        values = {
            "name": "launcher",
            "iss": iss or launcher.iss,
            "client_id": CLIENT,
            "client_auth": "none",
            "scopes": f"{ALL_SCOPES} online_access",
            "frame_ancestors": (launcher.origin,),
            **changes,
        }
        clinic = make_clinic(Registration(**values))
        return Round(clinic, launcher)

    return make


def keys_of(kind: str) -> tuple[SigningKey, ...]:
    made = ec.generate_private_key(ec.SECP384R1()) if kind == "ES384" else rsa.generate_private_key(65537, 2048)
    encoding = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return load_keys(made.private_bytes(*encoding))


@pytest.mark.requirement("S5", "S41")
def test_public_client(prepared: Callable[..., Round], owner_pool: Pool) -> None:
    found = prepared()
    path = found.opened(found.launch(found.launcher.options(client=PUBLIC)))
    launch_id = path.split("/")[2]
    before = found.clinic.sessions.tokens(launch_id)
    assert before is not None
    assert before.refresh_token
    # the token ends, the next page refreshes it
    with found.clinic.services.pool.connection() as connection:
        connection.execute(
            "UPDATE app.launch_token SET expires_at = now() - interval '1 minute' WHERE launch_id = %s",
            (launch_id,),
        )
    with owner_pool.connection() as connection:
        connection.execute("TRUNCATE cache.resource, cache.reading")
    found.opened(SimpleNamespace(status_code=303, location=path))
    after = found.clinic.sessions.tokens(launch_id)
    assert after is not None
    assert after.expires_at > datetime.now(UTC) + timedelta(minutes=30)


@pytest.mark.requirement("S42")
def test_symmetric_client(prepared: Callable[..., Round]) -> None:
    found = prepared(client_auth="client_secret_basic", client_secret="a-secret-of-the-simulator")
    options = found.launcher.options(client=SYMMETRIC, client_secret="a-secret-of-the-simulator")
    found.opened(found.launch(options))
    wrong = found.launch(found.launcher.options(client=SYMMETRIC, client_secret="another"))
    assert wrong.status_code == 502
    assert "did not recognise the app" in wrong.text


@pytest.mark.requirement("S43", "S44", "S45")
@pytest.mark.parametrize("algorithm", ["ES384", "RS384"])
@pytest.mark.parametrize("place", ["by address", "in the registration"])
def test_asymmetric_client(prepared: Callable[..., Round], algorithm: str, place: str) -> None:
    found = prepared(client_auth="private_key_jwt", signing_keys=keys_of(algorithm))
    published = found.clinic.get("/.well-known/jwks.json").text
    found.launcher.key_set(lambda: json.loads(published))  # type: ignore[call-arg]
    told = {"jwks_url": f"{found.launcher.gateway}/jwks"} if place == "by address" else {"jwks": published}
    found.opened(found.launch(found.launcher.options(client=ASYMMETRIC, **told)))
    foreign = prepared(client_auth="private_key_jwt", signing_keys=keys_of(algorithm))
    refused = foreign.launch(found.launcher.options(client=ASYMMETRIC, jwks=published))
    assert refused.status_code == 502
    assert "did not recognise the app" in refused.text


@pytest.mark.requirement("S11", "S12")
def test_standalone_launch(prepared: Callable[..., Round], launcher: Launcher) -> None:
    simulated = f"{launcher.origin}/v/r4/sim/{launcher.options(kind=STANDALONE)}/fhir"
    found = prepared(iss=simulated)
    found.opened(found.standalone())


@pytest.mark.requirement("S65")
def test_the_user_of_the_simulator_is_a_clinician(prepared: Callable[..., Round]) -> None:
    found = prepared()
    path = found.opened(found.launch(found.launcher.options()))
    mine = next(item for item in found.clinic.sessions.open_launches() if item.launch_id == path.split("/")[2])
    assert mine.fhir_user == f"Practitioner/{DOCTOR}"
    assert mine.issuer == found.launcher.iss
    patient = found.launcher.options(kind=1, provider="")  # a patient's portal
    answer = found.launch(patient)
    assert answer.status_code == 403
    assert "This app is for clinicians" in answer.text


@pytest.mark.requirement("S37")
def test_an_error_that_the_simulator_plays(prepared: Callable[..., Round]) -> None:
    found = prepared()
    answer = found.launch(found.launcher.options(auth_error="token_invalid_token"))
    assert answer.status_code == 502
    assert "did not recognise the app" in answer.text


@pytest.mark.requirement("S81")
def test_backend_services(launcher: Launcher) -> None:
    keys = keys_of("ES384")
    from smart_launch.signing_keys import public_jwks

    options = launcher.options(
        kind=SYSTEM, client=BACKEND, scope="system/*.rs", client_id="system-app", jwks=json.dumps(public_jwks(keys))
    )
    registration = Registration(
        name="launcher",
        iss=f"{launcher.origin}/v/r4/sim/{options}/fhir",
        client_id=CLIENT,
        client_auth="none",
        scopes="launch patient/Patient.rs",
        system_client_id="system-app",
        system_scopes="system/Patient.rs",
        system_keys=keys,
    )
    services = BackendServices([registration])
    assert services.scopes("launcher").allows("system", "Patient", "s")
    assert services.fhir("launcher").get_json(f"Patient/{MARIE}")["id"] == MARIE
    with pytest.raises(LaunchError, match="client-refused"):
        BackendServices([replace(registration, system_keys=keys_of("ES384"))]).token("launcher")

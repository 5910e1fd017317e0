"""The launch client against two EHRs: the sandbox EHR of the stack, and a double that can be made to misbehave."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import urllib3
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from psycopg_pool import ConnectionPool
from werkzeug.serving import BaseWSGIServer, make_server

from infra.local.ca import Certificates, ensure_certificates
from infra.local.configuration import Layout, Ports, load_stack_settings
from infra.local.credentials import load_credentials
from infra.local.fhir import fhir_base_url
from infra.local.node import find_node, install_packages
from infra.local.stack_state import read_state
from infra.local.status import ports_of
from smart_launch import Keyring, Registration, SessionStore, SmartLaunch
from smart_launch.signing_keys import SigningKey, load_keys
from tests.conftest import Stores
from tests.smart_launch.mutation_plugin import RUNNING_STACK
from tests.smart_launch.sandbox import CONTROL_TOKEN, Late, Sandbox
from tests.smart_launch.scene import Scene
from tests.smart_launch.strict_ehr import StrictEhr

EHR_FOLDER = Path(__file__).resolve().parents[2] / "infra" / "local" / "ehr"
SCOPES = (
    "launch openid fhirUser online_access patient/Patient.rs patient/ImagingStudy.rs patient/DiagnosticReport.rs "
    "patient/Observation.rs"
)


@pytest.fixture(scope="session")
def stores(request: pytest.FixtureRequest) -> Stores:
    """The three stores: those of a running stack that the environment names, else those of this test run."""
    folder = os.environ.get(RUNNING_STACK)
    if not folder:
        own: Stores = request.getfixturevalue("stores")
        return own
    layout = Layout.at(Path(folder))
    state = read_state(layout.state)
    assert state is not None, f"{folder} holds no running stack"
    ports = ports_of(state, Ports.from_settings(load_stack_settings(Path(folder))))
    return Stores(layout, ports, load_credentials(layout))


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.fixture(scope="session")
def ec_keys() -> tuple[SigningKey, ...]:
    return load_keys(pem(ec.generate_private_key(ec.SECP384R1())))


@pytest.fixture(scope="session")
def rsa_keys() -> tuple[SigningKey, ...]:
    return load_keys(pem(rsa.generate_private_key(65537, 2048)))


@pytest.fixture(scope="session")
def keyring() -> Keyring:
    return Keyring.parse(Keyring.new_key("k1"))


@pytest.fixture(scope="session")
def page_pool(stores: Stores) -> Iterator[ConnectionPool[Any]]:
    """Connections of the role that serves pages."""
    with ConnectionPool(stores.url("imaging_page"), min_size=1, max_size=12, open=True) as opened:
        yield opened


@pytest.fixture
def owner(stores: Stores) -> Iterator[psycopg.Connection[Any]]:
    """A look into the database past the application."""
    with psycopg.connect(stores.url("postgres"), autocommit=True) as connection:
        yield connection


@pytest.fixture
def sessions(page_pool: ConnectionPool[Any], keyring: Keyring) -> SessionStore:
    return SessionStore(page_pool, keyring)


@pytest.fixture
def ehr() -> Iterator[StrictEhr]:
    """An EHR that behaves well until a test says otherwise."""
    double = StrictEhr()
    yield double
    double.stop()


@pytest.fixture
def second_ehr() -> Iterator[StrictEhr]:
    double = StrictEhr()
    yield double
    double.stop()


@pytest.fixture
def scene(ehr: StrictEhr, sessions: SessionStore) -> Scene:
    return Scene(ehr, sessions)


@pytest.fixture(scope="session")
def certificates(stores: Stores) -> Certificates:
    return ensure_certificates(stores.layout)


@contextmanager
def serving(app: Any, certificates: Certificates | None, port: int = 0) -> Iterator[BaseWSGIServer]:
    """Serve an application from a thread, with TLS if there are certificates."""
    context = (str(certificates.certificate), str(certificates.key)) if certificates else None
    server = make_server("127.0.0.1", port, app, threaded=True, ssl_context=context)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def _wait_for(ready: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "did not start in time"
        time.sleep(0.05)  # a bounded wait for a process to listen


@pytest.fixture(scope="session")
def sandbox(
    stores: Stores,
    certificates: Certificates,
    page_pool: ConnectionPool[Any],
    keyring: Keyring,
    ec_keys: tuple[SigningKey, ...],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Sandbox]:
    """Start the sandbox EHR and the example application."""
    folder = tmp_path_factory.mktemp("ehr")
    node = find_node()
    package = install_packages(EHR_FOLDER, node)
    fhir_url = fhir_base_url(stores.ports.fhir)
    http = urllib3.PoolManager()

    def fhir(method: str, path: str, resource: Any = None) -> Any:
        answer = http.request(
            method,
            f"{fhir_url}/{path}",
            body=json.dumps(resource) if resource is not None else None,
            headers={
                "Authorization": f"Bearer {stores.credentials.fhir_token}",
                "Content-Type": "application/fhir+json",
            },
        )
        assert answer.status < 300, answer.data
        return answer.json()

    late = Late()
    with serving(late, certificates) as app_server, _free_port() as ehr_port:
        app_origin = f"https://app.localhost:{app_server.server_port}"
        origin = f"https://ehr.localhost:{ehr_port}"
        environment = {
            **os.environ,
            "EHR_PORT": str(ehr_port),
            "EHR_ORIGIN": origin,
            "FHIR_UPSTREAM": fhir_url,
            "FHIR_UPSTREAM_TOKEN": stores.credentials.fhir_token,
            "APP_BASE_URL": app_origin,
            "TLS_CERT": str(certificates.certificate),
            "TLS_KEY": str(certificates.key),
            "CA_FILE": str(certificates.ca_file),
            "EHR_DATA_DIR": str(folder),
            "EHR_CONTROL_TOKEN": CONTROL_TOKEN,
        }
        registration = Registration(
            name="sandbox",
            iss=f"{origin}/fhir",
            client_id="imaging-app",
            client_auth="private_key_jwt",
            scopes=SCOPES,
            signing_keys=ec_keys,
            frame_ancestors=(origin,),
            ca_file=str(certificates.ca_file),
        )
        smart = SmartLaunch([registration], SessionStore(page_pool, keyring), app_origin, rate_limit_per_address=0)
        log_file = folder / "ehr.log"
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                [node.node, str(package / "server.mjs")], env=environment, stdout=log, stderr=subprocess.STDOUT
            )
            found = Sandbox(origin, app_origin, str(certificates.ca_file), smart, fhir, late, log_file)
            found.serve(smart)
            try:
                _wait_for(lambda: process.poll() is not None or _healthy(found))
                assert process.poll() is None, log_file.read_text()
                for number in (1, 2):
                    _add_patient(fhir, number)
                yield found
            finally:
                process.terminate()
                process.wait(10)


@contextmanager
def _free_port() -> Iterator[int]:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    yield port


def _healthy(found: Sandbox) -> bool:
    try:
        return bool(json.loads(found.browser().get(f"{found.origin}/healthz").text)["users"])
    except urllib3.exceptions.HTTPError:
        return False


def _add_patient(fhir: Callable[..., Any], number: int) -> None:
    patient = f"smart-{number}"
    fhir(
        "PUT",
        f"Patient/{patient}",
        {
            "resourceType": "Patient",
            "id": patient,
            "identifier": [{"system": "urn:oid:1.2.3", "value": f"S{number}"}],
            "name": [{"family": f"Tester{number}", "given": ["Ann"]}],
            "birthDate": f"197{number}-02-03",
            "gender": "female",
        },
    )
    fhir(
        "PUT",
        f"ImagingStudy/{patient}-study",
        {
            "resourceType": "ImagingStudy",
            "id": f"{patient}-study",
            "status": "available",
            "subject": {"reference": f"Patient/{patient}"},
        },
    )


@pytest.fixture
def neutral(sandbox: Sandbox) -> Iterator[Sandbox]:
    """The sandbox without anything that an earlier test has asked of it."""
    sandbox.control("DELETE", "state")
    sandbox.smart.discovery.forget(sandbox.smart.registrations[0])
    sandbox.serve(sandbox.smart)
    yield sandbox
    sandbox.control("DELETE", "state")


def with_registration(smart: SmartLaunch, **changes: Any) -> SmartLaunch:
    """Return a client like another one, with a changed registration."""
    changed = replace(smart.registrations[0], **changes)
    return SmartLaunch([changed], smart.sessions, smart.app_base_url, rate_limit_per_address=0)

"""The stack as a whole: which parts there are, and the settings that each is given."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from imaging_core import __version__
from imaging_core.errors import Permanent
from imaging_core.settings import LOCAL_SETTINGS, Settings, load_settings
from infra.local.azurite import PACKAGE as AZURITE_PACKAGE
from infra.local.azurite import azurite_part, connection_string
from infra.local.ca import Certificates, ensure_certificates
from infra.local.configuration import Layout, Ports, load_stack_settings
from infra.local.credentials import Credentials, app_client_key, load_credentials, write_private
from infra.local.fhir import fhir_base_url, fhir_part
from infra.local.node import Node, find_node, install_packages
from infra.local.parts import Part, answers
from infra.local.postgres import database_url, postgres_part

__all__ = ["EHR_PACKAGE", "PARTS", "Stack", "build", "install"]

PARTS = ("postgres", "blob", "fhir", "ingestion", "ai", "app", "ehr")
EHR_PACKAGE = Path(__file__).parent / "ehr"

# the one site of the local stack, where settings name no other
_SITE_NAME = "Local demonstration hospital"
_SITE_ASSIGNER = "https://hospital.example/patient-numbers"

_SCOPES = (
    "launch openid fhirUser online_access "
    "patient/Patient.rs patient/ImagingStudy.rs patient/DiagnosticReport.rus patient/Observation.rus "
    "patient/Provenance.u user/Practitioner.rs user/PractitionerRole.rs"
)
# the sandbox's Dr. Claire Moreau is a radiologist and may sign; its Dr. Martin Weber is not
_SIGNERS = "PractitionerRole.code in http://snomed.info/sct|66862007"


@dataclass(frozen=True)
class Stack:
    """Everything that was decided before a start."""

    layout: Layout
    ports: Ports
    credentials: Credentials
    certificates: Certificates
    settings: Settings
    environment: Mapping[str, str]
    parts: tuple[Part, ...]

    def part(self, name: str) -> Part:
        """Return the part of that name."""
        return next(part for part in self.parts if part.name == name)


def install() -> None:
    """Install the npm packages of Azurite and the sandbox EHR, as ``make install`` does; a second time does nothing."""
    node = find_node()
    for package in (AZURITE_PACKAGE, EHR_PACKAGE):
        if (package / "package-lock.json").exists():
            install_packages(package, node)


def build(layout: Layout, ports: Ports, only: Collection[str] = ()) -> Stack:
    """Describe the parts named in `only` (none: all).

    Raises
    ------
    Permanent
        With code ``bad-setting``: an unknown part, or something that is not installed.
    """
    unknown = sorted(set(only) - set(PARTS))
    if unknown:
        raise Permanent("bad-setting", f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    chosen = [name for name in PARTS if not only or name in only]
    credentials = load_credentials(layout)
    certificates = ensure_certificates(layout)
    settings = load_settings()
    _write_registrations(layout, ports, settings, certificates)
    environment = _shared_environment(layout, ports, credentials, settings, chosen)
    operator = _with_database(environment, ports, credentials, "imaging_worker")
    operator["DATABASE_OWNER_URL"] = database_url(credentials, ports.postgres, "imaging_owner")
    operator["INGEST_ADMIN_TOKEN"] = credentials.ingest_admin_token
    _write_operator_settings(layout, operator)
    node = find_node() if {"blob", "ehr"} & set(chosen) else None
    makers: dict[str, Callable[[], Part]] = {
        "postgres": lambda: postgres_part(layout, credentials, ports.postgres),
        "blob": lambda: azurite_part(layout, credentials, _given(node), ports.blob, ports.queue),
        "fhir": lambda: fhir_part(layout, credentials, ports.fhir),
        "ingestion": lambda: _ingestion(layout, ports, credentials, environment),
        "ai": lambda: _ai(ports, credentials, environment),
        "app": lambda: _app(ports, credentials, certificates, environment),
        "ehr": lambda: _ehr(layout, ports, credentials, certificates, _given(node)),
    }
    parts = tuple(makers[name]() for name in chosen)
    return Stack(layout, ports, credentials, certificates, settings, environment, parts)


def _given(node: Node | None) -> Node:
    return node if node is not None else find_node()


def _shared_environment(
    layout: Layout, ports: Ports, credentials: Credentials, settings: Settings, chosen: Collection[str]
) -> dict[str, str]:
    # a part of this run is reached here; one that is not is taken from the settings, else from its usual address
    own: dict[str, dict[str, str]] = {
        "fhir": {
            "FHIR_BASE_URL": fhir_base_url(ports.fhir),
            "FHIR_AUTH": "bearer",
            "FHIR_TOKEN": credentials.fhir_token,
        },
        "blob": {
            "STORAGE_CONNECTION_STRING": connection_string(credentials, ports.blob, ports.queue),
            "STORAGE_ACCOUNT_URL": "",
        },
        "ai": {"AI_URL": f"http://127.0.0.1:{ports.ai}", "AI_AUTH": "bearer", "AI_TOKEN": credentials.ai_token},
        "ingestion": {
            "INGEST_URL": f"http://127.0.0.1:{ports.ingestion}/api",
            "INGEST_AUTH": "developer",
            "INGEST_TOKEN": credentials.ingest_token,
        },
        "app": {"APP_BASE_URL": f"https://app.localhost:{ports.app}"},
    }
    shared: dict[str, str] = {}
    for name, values in own.items():
        first = next(iter(values))
        if name in chosen or not os.environ.get(first):
            shared.update(values)
    if not settings.site_name:
        shared["SITE_NAME"] = _SITE_NAME
    if not settings.site_assigner_system:
        shared["SITE_ASSIGNER_SYSTEM"] = _SITE_ASSIGNER
    shared["PATIENT_MATCH"] = os.environ.get("PATIENT_MATCH", "create")
    shared["SMART_REGISTRATIONS"] = os.environ.get("SMART_REGISTRATIONS") or str(layout.registrations)
    return shared


def _with_database(environment: Mapping[str, str], ports: Ports, credentials: Credentials, role: str) -> dict[str, str]:
    return {**environment, "DATABASE_AUTH": "password", "DATABASE_URL": database_url(credentials, ports.postgres, role)}


def _write_operator_settings(layout: Layout, environment: Mapping[str, str]) -> None:
    """Write what commands such as ``imaging send`` and ``imaging intake check`` read where nothing else is set."""
    known = Settings.model_fields
    lines = [f"{name.lower()} = {json.dumps(value)}\n" for name, value in environment.items() if name.lower() in known]
    write_private(layout.root / LOCAL_SETTINGS, "".join(lines).encode())


def _ingestion(layout: Layout, ports: Ports, credentials: Credentials, environment: Mapping[str, str]) -> Part:
    app = _package_folder("ingestion_functions") / "function_app.py"
    url = f"http://127.0.0.1:{ports.ingestion}/api"
    command = [sys.executable, "-P", "-m", "infra.local.functions_host", "--app", str(app)]
    command += ["--port", str(ports.ingestion), "--state", str(layout.root / "functions_host.sqlite")]
    settings = _with_database(environment, ports, credentials, "imaging_worker")
    settings |= {
        "INGEST_ADMIN_TOKEN": credentials.ingest_admin_token,
        "AzureWebJobsStorage": settings.get("STORAGE_CONNECTION_STRING", ""),
        "PYTHON_THREADPOOL_THREAD_COUNT": os.environ.get("PYTHON_THREADPOOL_THREAD_COUNT", "16"),
        # glibc gives each thread a heap of its own and keeps what a large request has left there
        "MALLOC_ARENA_MAX": os.environ.get("MALLOC_ARENA_MAX", "2"),
        # the most that Azure can be set to; MAX_REQUEST_BYTES is below it, so that a sender gets the app's own answer
        "FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": os.environ.get("FUNCTIONS_REQUEST_BODY_SIZE_LIMIT", "210000000"),
    }
    return Part(
        name="ingestion",
        command=tuple(command),
        environment=settings,
        ports={"INGESTION_PORT": ports.ingestion},
        url=url,
        healthy=answers(f"{url}/health"),
        needs=("postgres", "blob"),
        uses=("postgres", "blob", "fhir", "ai"),
        stop_seconds=35.0,
        version=__version__,
        token=credentials.ingest_token,
    )


def _ai(ports: Ports, credentials: Credentials, environment: Mapping[str, str]) -> Part:
    url = f"http://127.0.0.1:{ports.ai}"
    return Part(
        name="ai",
        command=_gunicorn("ai_container", ports.ai),
        environment={**environment, "TF_CPP_MIN_LOG_LEVEL": "2"},
        ports={"AI_PORT": ports.ai},
        url=url,
        healthy=answers(f"{url}/readyz"),
        uses=("blob", "fhir"),
        version=__version__,
        stop_seconds=20.0,
        token=credentials.ai_token,
    )


def _app(ports: Ports, credentials: Credentials, certificates: Certificates, environment: Mapping[str, str]) -> Part:
    settings = _with_database(environment, ports, credentials, "imaging_page")
    # the sandbox EHR's FHIR is the imaging service, seen through the token's rights
    settings["FHIR_ALIASES"] = os.environ.get("FHIR_ALIASES") or f"https://ehr.localhost:{ports.ehr}/fhir"
    settings["DATABASE_WORKLIST_URL"] = database_url(credentials, ports.postgres, "imaging_worklist")
    settings["APP_KEYS"] = credentials.app_keys
    # one machine shares its cores among all parts; a second process of the app costs as much memory as the first
    workers = ("--workers", str(load_stack_settings().app_workers))
    tls = ("--certfile", str(certificates.certificate), "--keyfile", str(certificates.key))
    return Part(
        name="app",
        command=(*_gunicorn("clinician_app", ports.app), *workers, *tls),
        environment=settings,
        ports={"APP_PORT": ports.app},
        url=f"https://app.localhost:{ports.app}",
        healthy=answers(
            f"https://127.0.0.1:{ports.app}/healthz", ca_file=certificates.ca_file, host=f"app.localhost:{ports.app}"
        ),
        needs=("postgres",),
        uses=("postgres", "blob", "fhir", "ehr"),
        version=__version__,
        stop_seconds=25.0,
    )


def _gunicorn(package: str, port: int) -> tuple[str, ...]:
    command = [sys.executable, "-P", "-m", "gunicorn", f"{package}.wsgi:app", "--bind", f"127.0.0.1:{port}"]
    configuration = next(_package_folder(package).glob("gunicorn_conf*.py"), None)
    if configuration is not None:
        command += ["--config", f"python:{package}.{configuration.stem}"]
    return tuple(command)


def _ehr(layout: Layout, ports: Ports, credentials: Credentials, certificates: Certificates, node: Node) -> Part:
    folder = install_packages(EHR_PACKAGE, node)
    origin = f"https://ehr.localhost:{ports.ehr}"
    return Part(
        name="ehr",
        command=(node.node, str(folder / "server.mjs")),
        environment={
            "EHR_PORT": str(ports.ehr),
            "EHR_ORIGIN": origin,
            "FHIR_UPSTREAM": fhir_base_url(ports.fhir),
            "FHIR_UPSTREAM_TOKEN": credentials.fhir_token,
            "APP_BASE_URL": f"https://app.localhost:{ports.app}",
            "TLS_CERT": str(certificates.certificate),
            "TLS_KEY": str(certificates.key),
            "CA_FILE": str(certificates.ca_file),
            "EHR_DATA_DIR": str(layout.root / "ehr"),
            "EHR_CONTROL_TOKEN": credentials.ehr_control_token,
        },
        ports={"EHR_PORT": ports.ehr},
        url=origin,
        healthy=answers(
            f"https://127.0.0.1:{ports.ehr}/fhir/.well-known/smart-configuration",
            ca_file=certificates.ca_file,
            host=f"ehr.localhost:{ports.ehr}",
        ),
        uses=("fhir",),
        prepare=lambda: (layout.root / "ehr").mkdir(mode=0o700, exist_ok=True),
        version=__version__,
        token=credentials.ehr_control_token,
    )


def _write_registrations(layout: Layout, ports: Ports, settings: Settings, certificates: Certificates) -> None:
    origin = f"https://ehr.localhost:{ports.ehr}"
    text = f"""\
# Written at each start of the local stack; to register other EHRs, set SMART_REGISTRATIONS to a file of your own.
[[ehr]]
name = "sandbox"
iss = "{origin}/fhir"
client_id = "imaging-app"
client_auth = "private_key_jwt"
key = "file:{app_client_key(layout)}"
scopes = "{_SCOPES}"
imaging_fhir = "same"
patient_identifier_systems = ["{settings.site_assigner_system or _SITE_ASSIGNER}"]
signers = "{_SIGNERS}"
frame_ancestors = ["{origin}"]
issuer = ""
ca_file = "{certificates.ca_file}"
# the sandbox's access tokens are opaque: what one is good for that a program shows to the app, the app asks the sandbox
system_client_id = "imaging-backend"
system_scopes = "system/ImagingStudy.rs"
system_key = "file:{app_client_key(layout, "sandbox-system")}"
"""
    write_private(layout.registrations, text.encode())


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise Permanent("bad-setting", f"the package {name} is not installed")
    return Path(next(iter(spec.submodule_search_locations)))

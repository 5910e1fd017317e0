"""The FHIR service of the local stack: `sekmet-fhir` behind a bearer token."""

from __future__ import annotations

import sys
from importlib import metadata

import yaml

from infra.local.configuration import Layout
from infra.local.credentials import Credentials, write_private
from infra.local.parts import Part, answers

__all__ = ["fhir_base_url", "fhir_part"]


def fhir_base_url(port: int) -> str:
    """Return FHIR_BASE_URL of the local service."""
    return f"http://127.0.0.1:{port}/fhir"


def fhir_part(layout: Layout, credentials: Credentials, port: int) -> Part:
    """Describe the server; its configuration is written before each start."""
    folder = layout.root / "fhir"
    base = fhir_base_url(port)

    def prepare() -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        settings = {
            "base_url": base,
            "host": "127.0.0.1",
            "port": port,
            "data_dir": str(folder / "data"),
            # its traffic log would hold patients' data
            "log_inbound": False,
            # it would answer orders by itself
            "simulator": {"enabled": False},
            "server_auth": {"types": ["bearer"], "tokens": [credentials.fhir_token]},
        }
        write_private(folder / "settings.yaml", yaml.safe_dump(settings).encode())

    run = "from sekmet.cli import app; app()"
    return Part(
        name="fhir",
        command=(sys.executable, "-P", "-c", run, "serve", "-c", str(folder / "settings.yaml")),
        environment={},
        ports={"FHIR_PORT": port},
        url=base,
        healthy=answers(f"{base}/metadata", token=credentials.fhir_token),
        prepare=prepare,
        folder=folder,
        version=metadata.version("sekmet-fhir"),
        token=credentials.fhir_token,
    )

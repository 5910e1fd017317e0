"""Orthanc from Debian as a peer: DICOMweb plugin, index in PostgreSQL where `orthanc-postgresql` is installed."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psycopg

from infra.local.configuration import Layout
from infra.local.credentials import load_credentials
from infra.local.postgres import database_url

__all__ = ["Orthanc", "orthanc_server"]

_PLUGINS = Path("/usr/share/orthanc/plugins")
_INDEX = _PLUGINS / "libOrthancPostgreSQLIndex.so"


@dataclass(frozen=True)
class Orthanc:
    """A running Orthanc and what it is."""

    url: str
    title: str
    dicom_port: int


@contextmanager
def orthanc_server(folder: Path, owner_url: str) -> Iterator[Orthanc]:
    """Run Orthanc, its files in `folder`, its index in a database of the stack's own PostgreSQL."""
    program = shutil.which("Orthanc")
    if program is None:
        raise RuntimeError("Orthanc is not installed: apt-get install orthanc orthanc-dicomweb orthanc-postgresql")
    port, dicom_port = _free_port(), _free_port()
    with_postgres = _INDEX.exists()
    settings: dict[str, object] = {
        "HttpPort": port,
        "HttpServerEnabled": True,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomServerEnabled": True,
        "DicomPort": dicom_port,
        "DicomAlwaysAllowStore": True,
        "DicomCheckCalledAet": False,
        "StorageDirectory": str(folder / "orthanc"),
        "IndexDirectory": str(folder / "orthanc"),
        "Plugins": [str(_PLUGINS / "libOrthancDicomWeb.so"), *([str(_INDEX)] if with_postgres else [])],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    if with_postgres:
        settings["PostgreSQL"] = {
            "EnableIndex": True,
            "EnableStorage": False,
            "ConnectionUri": _database(folder, urlsplit(owner_url).port or 0),
        }
    configuration = folder / "orthanc.json"
    configuration.write_text(json.dumps(settings), "utf-8")
    configuration.chmod(0o600)
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([program, str(configuration)], stdout=log, stderr=subprocess.STDOUT)
    try:
        url = f"http://127.0.0.1:{port}"
        version = _wait(url, process)
        index = "PostgreSQL (the same server)" if with_postgres else "SQLite (orthanc-postgresql is not installed)"
        yield Orthanc(url, f"Orthanc {version}, index in {index}, files in the same file system.", dicom_port)
    finally:
        process.terminate()
        process.wait(30)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _database(folder: Path, port: int) -> str:
    credentials = load_credentials(Layout.at(folder))
    with psycopg.connect(database_url(credentials, port, "postgres", "postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE orthanc")
    return database_url(credentials, port, "postgres", "orthanc")


def _wait(url: str, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            return str(httpx.get(f"{url}/system").json()["Version"])
        except httpx.TransportError:
            time.sleep(0.1)
    raise RuntimeError("Orthanc did not start: see orthanc.log")

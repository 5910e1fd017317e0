"""Blob and Queue Storage of the local stack: Azurite, with an account key of its own instead of the well-known one."""

from __future__ import annotations

import json
from pathlib import Path

from infra.local.configuration import Layout
from infra.local.credentials import Credentials
from infra.local.node import Node, install_packages
from infra.local.parts import Part, answers

__all__ = ["PACKAGE", "azurite_part", "connection_string"]

ACCOUNT = "imaging"
PACKAGE = Path(__file__).parent / "node"


def connection_string(credentials: Credentials, blob_port: int, queue_port: int) -> str:
    """Return STORAGE_CONNECTION_STRING of the local account."""
    return (
        f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={credentials.storage_key};"
        f"BlobEndpoint=http://127.0.0.1:{blob_port}/{ACCOUNT};QueueEndpoint=http://127.0.0.1:{queue_port}/{ACCOUNT};"
    )


def azurite_part(layout: Layout, credentials: Credentials, node: Node, blob_port: int, queue_port: int) -> Part:
    """Describe Azurite.

    Notes
    -----
    It runs with ``node/journal.cjs``, so that a killed Azurite has lost nothing that it had answered for.
    """
    folder = install_packages(PACKAGE, node)
    data = layout.root / "azurite"
    script = folder / "node_modules" / "azurite" / "dist" / "src" / "azurite.js"
    blob_answers = answers(f"http://127.0.0.1:{blob_port}/{ACCOUNT}", below=500)
    queue_answers = answers(f"http://127.0.0.1:{queue_port}/{ACCOUNT}", below=500)
    manifest = json.loads((script.parents[2] / "package.json").read_text("utf-8"))
    command = [
        node.node,
        "--require",
        str(folder / "journal.cjs"),
        str(script),
        "--silent",
        "--disableTelemetry",
        "--skipApiVersionCheck",
    ]
    command += ["--location", str(data), "--blobHost", "127.0.0.1", "--blobPort", str(blob_port)]
    command += ["--queueHost", "127.0.0.1", "--queuePort", str(queue_port), "--tableHost", "127.0.0.1"]
    # the table service can't be switched off; any free port serves
    command += ["--tablePort", "0"]
    return Part(
        name="blob",
        command=tuple(command),
        environment={"AZURITE_ACCOUNTS": f"{ACCOUNT}:{credentials.storage_key}"},
        ports={"BLOB_PORT": blob_port, "QUEUE_PORT": queue_port},
        url=f"http://127.0.0.1:{blob_port}/{ACCOUNT}",
        healthy=lambda: blob_answers() and queue_answers(),
        version=str(manifest["version"]),
        complete=lambda: _make_containers(connection_string(credentials, blob_port, queue_port)),
        token=connection_string(credentials, blob_port, queue_port),
    )


def _make_containers(connection: str) -> None:
    """Make what Bicep makes on Azure."""
    # the SDK is slow to import, and commands that start nothing need it not
    from imaging_core.blobs import BlobStore
    from imaging_core.queues import Queues
    from imaging_core.settings import load_settings

    settings = load_settings(storage_connection_string=connection)
    BlobStore.from_settings(settings).ensure_containers()
    Queues.from_settings(settings).ensure_queues()

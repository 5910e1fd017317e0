"""Azurite with its journal: what was answered for is there after a SIGKILL."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from azure.core.exceptions import AzureError
from azure.storage.blob import BlobServiceClient
from azure.storage.queue import QueueServiceClient

from infra.local.azurite import azurite_part
from infra.local.configuration import Layout, Ports
from infra.local.credentials import load_credentials
from infra.local.node import find_node
from infra.local.parts import Part

from .conftest import eventually, free_ports


@contextmanager
def killed_at_the_end(part: Part, log: Path) -> Iterator[None]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            part.command, env={**os.environ, **part.environment}, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        eventually(part.healthy)
        yield
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.fixture
def part(tmp_path: Path) -> Part:
    layout = Layout.at(tmp_path)
    ports = Ports.from_settings(free_ports())
    return azurite_part(layout, load_credentials(layout), find_node(), ports.blob, ports.queue)


def test_killed_azurite_has_lost_and_revived_nothing(part: Part, tmp_path: Path) -> None:
    blobs = BlobServiceClient.from_connection_string(part.token, retry_total=0)
    messages = QueueServiceClient.from_connection_string(part.token, retry_total=0).get_queue_client("hints")
    images = blobs.get_container_client("images")
    expected: dict[str, bytes] = {}
    for number in range(3):
        with killed_at_the_end(part, tmp_path / "log"):
            if number == 0:
                images.create_container(metadata={"kept": "yes"})
                messages.create_queue()
            found = {blob.name: images.download_blob(blob.name).readall() for blob in images.list_blobs()}
            assert found == expected
            assert images.get_container_properties().metadata == {"kept": "yes"}
            assert [message.content for message in messages.peek_messages(32)] == [str(i) for i in range(number)]
            for index in range(12):
                name = f"{number}/{index}"
                images.upload_blob(name, name.encode())
                expected[name] = name.encode()
                if index % 3 == 0:
                    images.delete_blob(name)
                    del expected[name]
                elif index % 3 == 1:
                    images.upload_blob(name, b"second version", overwrite=True)
                    expected[name] = b"second version"
            messages.send_message(str(number))


def test_well_known_key_opens_nothing(part: Part, tmp_path: Path) -> None:
    with killed_at_the_end(part, tmp_path / "log"):
        known = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
        wrong = ";".join(
            f"AccountKey={known}" if item.startswith("AccountKey=") else item for item in part.token.split(";")
        )
        with pytest.raises(AzureError):
            BlobServiceClient.from_connection_string(wrong, retry_total=0).create_container("images")

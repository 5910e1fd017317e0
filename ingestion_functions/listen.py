"""``imaging listen``: the DICOM listener as a process of its own, for modalities that speak nothing else."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import click

from imaging_core import telemetry
from imaging_core.errors import Permanent
from imaging_core.settings import operator_settings
from ingestion_functions.services import intake_services

__all__ = ["listen"]


@click.command()
@click.option("--check", is_flag=True, help="Ask a running listener for a C-ECHO instead; exit 1 without an answer.")
@click.option(
    "--data-dir", type=click.Path(path_type=Path, file_okay=False), help="Folder of the local stack, to feed it."
)
def listen(check: bool, data_dir: Path | None) -> None:
    """Take in what modalities and PACS send by DICOM C-STORE, until SIGTERM or Ctrl-C.

    Settings: LISTEN_HOST, LISTEN_PORT, LISTEN_AE_TITLE, LISTEN_ALLOWED_AE, LISTEN_TLS_CERT and the others of the group.
    """
    try:
        from ingestion_functions import listener
    except ModuleNotFoundError as error:
        if error.name != "pynetdicom":
            raise
        raise Permanent("bad-setting", "pynetdicom is not installed: pip install 'imaging[listen]'") from error
    settings = operator_settings(data_dir)
    if check:
        click.echo(f"C-ECHO answered in {listener.echo(settings) * 1000:.0f} ms")
        return
    telemetry.configure("listen", settings)
    parts = intake_services(settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        running = listener.Listener(parts)
        parts.decoder.warm_up()
        running.start()
        while not stop.wait(1.0):
            continue
        running.stop()
    finally:
        parts.decoder.close()
        parts.pool.close()

"""``python -m infra.local.functions_host --app ingestion_functions/function_app.py --port 7071``."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import click
import structlog

from imaging_core.errors import Permanent
from imaging_core.settings import load_settings
from imaging_core.telemetry import configure, get_logger
from infra.local.functions_host.host import HostArguments, serve

_DEFAULT_BODY_LIMIT = 100 * 1024 * 1024


@click.command()
@click.option("--app", required=True, type=click.Path(path_type=Path), help="Path of function_app.py.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=7071, show_default=True, help="Port to listen on.")
@click.option(
    "--state",
    default=".imaging/functions_host.sqlite",
    show_default=True,
    type=click.Path(path_type=Path),
    help="File that remembers delivered blob events.",
)
def main(app: Path, host: str, port: int, state: Path) -> None:
    """Run a function app on this machine."""
    if not structlog.is_configured():
        configure("ingestion", load_settings())
    # an app setting of Functions, not one of ours
    limit = int(os.environ.get("FUNCTIONS_REQUEST_BODY_SIZE_LIMIT", _DEFAULT_BODY_LIMIT))
    try:
        asyncio.run(serve(HostArguments(app, host, port, state, limit)))
    except Permanent as error:
        get_logger("functions_host").error("host not started", code=error.code, detail=error.detail)
        sys.exit(1)


if __name__ == "__main__":
    main()

"""``python -m infra.local.supervise``: the supervisor as a process of its own, as ``imaging up`` starts it."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console

from imaging_core.errors import ImagingError
from infra.local.commands import run_foreground
from infra.local.configuration import Layout, load_stack_settings


@click.command()
@click.option("--data-dir", required=True, type=click.Path(path_type=Path))
@click.option("--only", default="")
def main(data_dir: Path, only: str) -> None:
    """Run the stack until SIGTERM."""
    settings = load_stack_settings(data_dir)
    parts = tuple(name for name in only.split(",") if name)
    try:
        fine = run_foreground(Layout.at(data_dir), settings, parts, Console())
    except ImagingError as error:
        click.echo(error.detail, err=True)
        sys.exit(1)
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()

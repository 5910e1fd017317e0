"""Subcommands of `imaging` that belong to no part."""

from __future__ import annotations

import click
import psycopg

from imaging_core.migrate import migrate as apply
from imaging_core.settings import load_settings

__all__ = ["migrate"]


@click.command()
def migrate() -> None:
    """Bring the database's schemas up to date (DATABASE_URL must be the owner's)."""
    settings = load_settings()
    settings.require("database_url")
    with psycopg.connect(settings.database_url.get_secret_value()) as connection:
        done = apply(connection)
    for item in done:
        click.echo(f"{item.component} {item.number:04} {item.name}")
    click.echo(f"{len(done)} migrations applied")

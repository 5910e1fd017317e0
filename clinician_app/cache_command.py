"""``imaging cache rebuild``: drop what the pages have cached; each launch reads it anew, by its own right."""

from __future__ import annotations

import click
import psycopg

from imaging_core.settings import load_settings

__all__ = ["cache"]


@click.group()
def cache() -> None:
    """The app's cache of FHIR resources."""


@cache.command()
def rebuild() -> None:
    """Empty the cache (DATABASE_URL must be the owner's); pages fill it again as they are asked for.

    Nothing is read ahead: what a launch may see can only be asked for with that launch's own token.
    """
    settings = load_settings()
    settings.require("database_url")
    with psycopg.connect(settings.database_url.get_secret_value()) as connection:
        counted = connection.execute("SELECT reltuples::bigint FROM pg_class WHERE oid = 'cache.resource'::regclass")
        known = counted.fetchone()
        connection.execute("TRUNCATE cache.resource, cache.reading")
    click.echo(f"cache emptied (about {max(known[0], 0) if known else 0} resources)")

"""The command `imaging`: a shell that finds its subcommands by the entry-point group ``imaging.commands``.

So that this module imports no part, and a part that is not installed takes nothing but its own commands away.
"""

from __future__ import annotations

from importlib import metadata

import click

from imaging_core.errors import ImagingError

__all__ = ["main"]


class _EntryPoints(click.Group):
    """A group whose commands are loaded when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all installed commands."""
        return sorted({entry.name for entry in metadata.entry_points(group="imaging.commands")})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one command."""
        for entry in metadata.entry_points(group="imaging.commands", name=cmd_name):
            command = entry.load()
            if isinstance(command, click.Command):
                return command
        return None

    def invoke(self, ctx: click.Context) -> object:
        """Show a typed error as one line, without a traceback."""
        try:
            return super().invoke(ctx)
        except ImagingError as error:
            raise click.ClickException(f"{error.code}: {error.detail}") from error


@click.command(cls=_EntryPoints)
@click.version_option(package_name="imaging")
def main() -> None:
    """Medical images in, FHIR results out."""


if __name__ == "__main__":
    main()

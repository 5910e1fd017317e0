"""``imaging keys rotate``: a new client key for an EHR, in steps that no EHR trips over."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import click

from imaging_core.errors import Permanent
from smart_launch.signing_keys import add_key, promote_key, retire_keys

__all__ = ["keys"]

_STEPS = {"add": add_key, "promote": promote_key, "retire": retire_keys}
_NEXT = {
    "add": "published beside the old one; when the EHRs' caches have let go (Epic: 29 hours), call this with --promote",
    "promote": "the new key signs; after five minutes, call this with --retire",
    "retire": "only the key that signs is left",
}


@click.group()
def keys() -> None:
    """The app's keys."""


@keys.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--add", "step", flag_value="add", default=True, help="Publish a new key (first step).")
@click.option("--promote", "step", flag_value="promote", help="Let the newest key sign (second step).")
@click.option("--retire", "step", flag_value="retire", help="Drop the old keys (third step).")
def rotate(file: Path, step: str) -> None:
    """Rotate the keys of a registration's key FILE (PEM); the app reads it at its next start."""
    changed = _STEPS[step](file.read_bytes())
    if not changed.strip():
        raise Permanent("bad-setting", f"{file} holds no PEM key")
    draft = file.with_name(f"{file.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(changed)
    draft.replace(file)
    click.echo(_NEXT[step])

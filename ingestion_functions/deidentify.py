"""``imaging deidentify``: copies of files that name nobody, for research and for other people's software.

The copies lie under pseudonyms only: ``OUT/<study>/<series>/<instance>.dcm``, all three mapped by the key. A copy that
is there already is left alone, so that a run that was cut off is simply called again.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from imaging_core.dicom.child import DecodePool
from imaging_core.dicom.deidentify import Options, SafePrivate
from imaging_core.dicom.deidentify_pixels import Region
from imaging_core.dicom.pseudonym import Pseudonyms, read_key
from imaging_core.errors import ImagingError, code
from imaging_core.settings import load_settings

__all__ = ["deidentify"]

_SHOWN = 20


@dataclass(frozen=True)
class _Outcome:
    path: Path
    outcome: str
    detail: str = ""

    @property
    def refused(self) -> bool:
        return self.outcome not in ("written", "there already")


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder of the copies.")
@click.option("--key", required=True, help="file:PATH of 16 secret bytes or more; the same key, the same pseudonyms.")
@click.option(
    "--dates",
    type=click.Choice(["remove", "shift"]),
    default="remove",
    show_default=True,
    help="Remove dates, or move all of a patient's dates back by the same number of days.",
)
@click.option("--region", multiple=True, metavar="LEFT,TOP,WIDTH,HEIGHT", help="Blank these pixels in every frame.")
@click.option("--pixels-seen", is_flag=True, help="A person has seen the pixels: they name nobody.")
@click.option("--safe-private", multiple=True, metavar="CREATOR:GGGG:EE", help="Keep this private element.")
@click.option("--workers", type=click.IntRange(1, 64), default=os.cpu_count() or 2, show_default=True)
def deidentify(
    paths: tuple[Path, ...],
    out: Path,
    key: str,
    dates: Literal["remove", "shift"],
    region: tuple[str, ...],
    pixels_seen: bool,
    safe_private: tuple[str, ...],
    workers: int,
) -> None:
    """Write de-identified copies of DICOM files and folders (PS3.15 Annex E, Basic Profile).

    Exit 1 if any file was refused.
    """
    try:
        options = Options(dates, tuple(map(_private, safe_private)), tuple(map(_region, region)), pixels_seen)
        pseudonyms = Pseudonyms(read_key(key))
        settings = load_settings().model_copy(update={"decode_workers": workers})
    except ImagingError as error:
        raise click.ClickException(error.detail) from error
    files = list(_files(paths, out.resolve()))
    out.mkdir(parents=True, exist_ok=True)
    console = Console()
    outcomes: list[_Outcome] = []
    with (
        DecodePool.from_settings(settings) as pool,
        ThreadPoolExecutor(workers) as threads,
        Progress(console=console, transient=True) as progress,
    ):
        task = progress.add_task("de-identifying", total=len(files))
        for outcome in threads.map(lambda path: _one(pool, path, out, pseudonyms, options), files):
            outcomes.append(outcome)
            progress.advance(task)
    _tell(console, outcomes)
    sys.exit(1 if any(outcome.refused for outcome in outcomes) else 0)


def _files(paths: tuple[Path, ...], out: Path) -> Iterator[Path]:
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and out not in file.resolve().parents:
                yield file


def _one(pool: DecodePool, path: Path, out: Path, pseudonyms: Pseudonyms, options: Options) -> _Outcome:
    try:
        data = path.read_bytes()
        header = pool.header(data)
        folder = out / pseudonyms.uid(header.study_uid) / pseudonyms.uid(header.series_uid)
        target = folder / f"{pseudonyms.uid(header.sop_uid)}.dcm"
        if target.exists():
            return _Outcome(path, "there already")
        copy = pool.deidentify(data, pseudonyms, options)
        folder.mkdir(parents=True, exist_ok=True)
        part = target.with_suffix(f".{os.getpid()}.part")
        part.write_bytes(copy)
        part.replace(target)  # a copy is there whole or not at all
    except ImagingError as error:
        return _Outcome(path, error.code, error.detail)
    except OSError as error:
        return _Outcome(path, "unreadable", error.strerror or type(error).__name__)
    return _Outcome(path, "written")


def _tell(console: Console, outcomes: list[_Outcome]) -> None:
    table = Table("outcome", "files", "what it means")
    for outcome, number in Counter(item.outcome for item in outcomes).most_common():
        meaning = {"written": "", "there already": "", "unreadable": "The file can't be read."}.get(outcome)
        table.add_row(outcome, str(number), code(outcome).en if meaning is None else meaning)
    console.print(table)
    refused = [item for item in outcomes if item.refused]
    for item in refused[:_SHOWN]:
        console.print(f"{item.path}: {item.outcome}: {item.detail}", markup=False)
    if len(refused) > _SHOWN:
        console.print(f"... and {len(refused) - _SHOWN} more")


def _region(text: str) -> Region:
    numbers = text.split(",")
    if len(numbers) != 4 or not all(number.strip().isdigit() for number in numbers):
        raise click.BadParameter("LEFT,TOP,WIDTH,HEIGHT, four whole numbers", param_hint="--region")
    return Region(*map(int, numbers))


def _private(text: str) -> SafePrivate:
    match = re.fullmatch(r"(.{1,64}):([0-9A-Fa-f]{4}):([0-9A-Fa-f]{2})", text)
    if match is None or not int(match[2], 16) & 1:
        raise click.BadParameter("CREATOR:GGGG:EE, the group odd and in hexadecimal", param_hint="--safe-private")
    return SafePrivate(match[1], int(match[2], 16), int(match[3], 16))

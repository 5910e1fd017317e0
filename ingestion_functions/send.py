"""``imaging send``: upload files and folders, or watch a folder, with a progress bar and a table of outcomes."""

from __future__ import annotations

import functools
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

import click
import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from imaging_core.azure_login import azure_credential
from imaging_core.errors import Permanent
from imaging_core.settings import Settings, operator_settings
from ingestion_functions.drop_folder import DropFolder
from ingestion_functions.send_client import IngestClient, Sent, kind_of

__all__ = ["send", "token_source"]

_SHOWN = 200
_COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())


def token_source(settings: Settings, file: Path | None = None) -> Callable[[], str]:
    """Return what gives the access token: a file (read anew each time), the developer token, else this login's own.

    There is no option for the token itself: command lines are shown to everybody on the machine.
    """
    if file is not None:
        return lambda: _token_in(file)
    if settings.ingest_auth == "developer":
        settings.require("ingest_token")
        return settings.ingest_token.get_secret_value
    scope = f"{settings.ingest_audience}/.default"
    return lambda: azure_credential().get_token(scope).token


def _token_in(file: Path) -> str:
    try:
        token = file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Permanent("bad-setting", f"{file}: the token can't be read ({type(error).__name__})") from error
    if not token:
        raise Permanent("bad-setting", f"{file} holds no token")
    return token


def _files(paths: tuple[Path, ...]) -> list[Path]:
    """Return every file once, folders with all that is below them; what is hidden is left out there."""
    found: dict[Path, None] = {}
    for path in paths:
        below = sorted(path.rglob("*")) if path.is_dir() else [path]
        for item in below:
            hidden = path.is_dir() and any(part.startswith(".") for part in item.relative_to(path).parts)
            if item.is_file() and not hidden:
                found[item] = None
    return list(found)


def _send_all(send_one: Callable[[Path], Sent], files: list[Path], workers: int) -> Iterator[Sent]:
    """Yield what became of each file as it is known; a few more than are in work are queued, not all."""
    with ThreadPoolExecutor(workers, thread_name_prefix="send") as threads:
        running: set[Future[Sent]] = set()
        waiting = iter(files)
        try:
            for path in waiting:
                running.add(threads.submit(send_one, path))
                if len(running) >= 2 * workers:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--watch", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Send what appears here.")
@click.option("--interval", default=2.0, show_default=True, help="With --watch: seconds between two looks.")
@click.option("--workers", default=4, show_default=True, type=click.IntRange(1, 32), help="Files in work at once.")
@click.option(
    "--patience", default=300.0, show_default=True, help="Seconds that a file is tried while it is refused 503."
)
@click.option("--to", "url", default="", help="Ingestion address; default: INGEST_URL.")
@click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with the access token; default: INGEST_TOKEN, else this login's.",
)
@click.option("--patient-id", default="", help="For pictures: patient number.")
@click.option("--assigner", default="", help="For pictures: URI or text of the number's issuer.")
@click.option("--birth-date", default="", help="For pictures: YYYY-MM-DD.")
@click.option("--family", default="", help="For pictures: family name.")
@click.option("--given", default="", help="For pictures: given name.")
@click.option("--modality", default="", help="For pictures: DICOM modality, default DX.")
@click.option("--body-part", default="", help="For pictures: Body Part Examined.")
@click.option("--view", default="", help="For pictures: View Position.")
@click.option(
    "--acquired-at", default="", help="For pictures: when it was taken, ISO 8601; without it the age is unknown."
)
@click.option("--sex", default="", help="For pictures: M, F or O.")
@click.option("--accession", default="", help="For pictures: accession number.")
@click.option("--study-uid", default="", help="For pictures: study that they belong to.")
def send(
    paths: tuple[Path, ...],
    watch: Path | None,
    interval: float,
    workers: int,
    patience: float,
    url: str,
    token_file: Path | None,
    **fields: str,
) -> None:
    """Upload files and folders; exit 1 if any was refused.

    What was sent before is recognised: sending a folder again after an interruption costs little and doubles nothing.
    With --watch it runs until it is stopped, and moves each file to sent/ or refused/ below the folder.
    """
    if bool(paths) == bool(watch):
        raise click.UsageError("name files and folders, or --watch a folder")
    settings = operator_settings()
    stop = threading.Event()
    base = (url or settings.ingest_url).rstrip("/")
    limits = httpx.Limits(max_connections=workers, max_keepalive_connections=workers)
    timeout = httpx.Timeout(230.0, connect=5.0, pool=None)
    with httpx.Client(base_url=base, timeout=timeout, limits=limits) as http:
        client = IngestClient(http, token_source(settings, token_file), patience_s=patience, stop=stop)
        given = {name: value for name, value in fields.items() if value}
        send_one = functools.partial(client.send, fields=given)
        if watch is not None:
            _watch(watch, send_one, workers, interval, stop)
            return
        results = _with_progress(send_one, _files(paths), workers)
    _show(results)
    if any(result.refused for result in results):
        raise SystemExit(1)


def _watch(
    folder: Path, send_one: Callable[[Path], Sent], workers: int, interval: float, stop: threading.Event
) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    def tell(result: Sent) -> None:
        click.echo(f"{result.outcome}  {result.path.relative_to(folder)}  {result.reason}".rstrip())

    def send_known(path: Path) -> Sent:
        if not kind_of(path):
            return Sent(path, "rejected", "file-type-not-taken: neither DICOM, PNG nor JPEG")
        return send_one(path)

    click.echo(f"watching {folder}; Ctrl-C stops")
    DropFolder(folder, send_known, workers=workers, tell=tell).run(stop, interval)


def _with_progress(send_one: Callable[[Path], Sent], files: list[Path], workers: int) -> list[Sent]:
    results = []
    with Progress(*_COLUMNS, console=Console(stderr=True)) as progress:
        task = progress.add_task("sending", total=len(files))
        for result in _send_all(send_one, files, workers):
            results.append(result)
            progress.advance(task)
    order = {path: number for number, path in enumerate(files)}
    return sorted(results, key=lambda result: order[result.path])


def _show(results: list[Sent]) -> None:
    """Print a table; of many files only what was not plainly taken, and the sums of all."""
    told = [result for result in results if result.refused or result.reason] if len(results) > _SHOWN else results
    table = Table("file", "outcome", "reason")
    for result in told:
        table.add_row(str(result.path), result.outcome, result.reason)
    console = Console()
    console.print(table)
    tally: Mapping[str, int] = Counter(result.outcome for result in results)
    console.print(", ".join(f"{number} {outcome}" for outcome, number in sorted(tally.items())) or "no files")

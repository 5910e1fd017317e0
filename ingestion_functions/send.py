"""``imaging send``: upload files and folders, with a progress bar and a table of outcomes."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from imaging_core.azure_login import azure_credential
from imaging_core.settings import Settings, operator_settings

__all__ = ["Sent", "send", "send_file", "token_headers"]

_PICTURES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg"}
# PS3.18 Table I.2-2, in words
_REASONS = {
    0x0110: "processing failure",
    0x0122: "SOP class not supported",
    0x0124: "not authorised",
    0xA700: "out of resources: send again later",
    0xA900: "the file contradicts itself",
    0xC000: "cannot be understood",
    0xC122: "transfer syntax not supported",
}


@dataclass(frozen=True)
class Sent:
    """What the ingestion said of one file."""

    path: Path
    outcome: str
    reason: str = ""
    study_uid: str = ""
    sop_uid: str = ""

    @property
    def refused(self) -> bool:
        """Neither stored nor there already."""
        return self.outcome not in ("accepted", "duplicate", "held", "stored")


def token_headers(settings: Settings) -> dict[str, str]:
    """Return the authorization of a call to the ingestion: the developer token, else this login's Entra token."""
    if settings.ingest_auth == "developer":
        token = settings.ingest_token.get_secret_value()
    else:
        token = azure_credential().get_token(f"{settings.ingest_audience}/.default").token
    return {"Authorization": f"Bearer {token}"}


def send_file(http: httpx.Client, path: Path, fields: Mapping[str, str]) -> Sent:
    """Send one file: DICOM by STOW-RS, PNG and JPEG by image upload with `fields`."""
    data = path.read_bytes()
    picture = next((kind for start, kind in _PICTURES.items() if data.startswith(start)), None)
    try:
        if picture:
            response = http.post("/images", data=dict(fields), files={"file": (path.name, data, picture)})
            return _of_image(path, response)
        boundary = uuid.uuid4().hex
        body = b"".join(
            (f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode(), data, f"\r\n--{boundary}--".encode())
        )
        kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
        response = http.post("/dicomweb/studies", content=body, headers={"Content-Type": kind})
        return _of_stow(path, response)
    except httpx.HTTPError as error:
        return Sent(path, "not sent", type(error).__name__)


def _json(response: httpx.Response) -> dict[str, object]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _of_image(path: Path, response: httpx.Response) -> Sent:
    body = _json(response)
    if response.status_code == 201:
        study, sop = str(body.get("study_uid", "")), str(body.get("sop_uid", ""))
        return Sent(path, str(body["outcome"]), str(body.get("reason") or ""), study, sop)
    return Sent(path, "rejected", f"{body.get('code', response.status_code)}: {body.get('detail', '')}")


def _of_stow(path: Path, response: httpx.Response) -> Sent:
    body = _json(response)
    if "code" in body:
        return Sent(path, "rejected", f"{body['code']}: {body.get('detail', '')}")
    for tag, outcome in (("00081199", "stored"), ("00081198", "rejected"), ("0008119A", "rejected")):
        for item in _items(body, tag):
            reason = _first(item, "00081197")
            known = _REASONS.get(int(reason), "") if reason else ""
            url = _first(item, "00081190").split("/")
            study = url[url.index("studies") + 1] if "studies" in url else ""
            return Sent(path, outcome, f"{int(reason):04X} {known}" if reason else "", study, _first(item, "00081155"))
    return Sent(path, "rejected", f"{body.get('code', response.status_code)}: {body.get('detail', '')}")


def _items(body: Mapping[str, object], tag: str) -> Iterator[Mapping[str, object]]:
    element = body.get(tag)
    values = element.get("Value", []) if isinstance(element, dict) else []
    yield from (item for item in values if isinstance(item, dict))


def _first(item: Mapping[str, object], tag: str) -> str:
    element = item.get(tag)
    values = element.get("Value", []) if isinstance(element, dict) else []
    return str(values[0]) if values else ""


def _files(paths: tuple[Path, ...]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        found.extend(sorted(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else [path])
    return found


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--to", "url", default="", help="Ingestion address; default: INGEST_URL.")
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
def send(paths: tuple[Path, ...], url: str, **fields: str) -> None:
    """Upload files and folders; exit 1 if any was refused."""
    settings = operator_settings()
    filled = {name: value for name, value in fields.items() if value}
    console = Console()
    files = _files(paths)
    results = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    base = (url or settings.ingest_url).rstrip("/")
    with (
        httpx.Client(base_url=base, headers=token_headers(settings), timeout=httpx.Timeout(230.0, connect=5.0)) as http,
        Progress(*columns, console=console) as progress,
    ):
        for path in progress.track(files, description="sending"):
            results.append(send_file(http, path, filled))
    table = Table("file", "outcome", "reason")
    for result in results:
        table.add_row(str(result.path), result.outcome, result.reason)
    console.print(table)
    tally = Counter(result.outcome for result in results)
    console.print(", ".join(f"{number} {outcome}" for outcome, number in sorted(tally.items())))
    if any(result.refused for result in results):
        raise SystemExit(1)

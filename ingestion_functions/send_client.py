"""One sender's way to the ingestion: DICOM by STOW-RS, pictures by image upload, what is too large by direct drop."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

__all__ = ["IngestClient", "Sent", "kind_of"]

_PICTURES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}
_STUDY_FIELDS = ("accession", "modality", "body_part", "view", "acquired_at", "study_uid")
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
_WARNINGS = {0xB000: "patient attributes are coerced when served", 0xB007: "lacks what its SOP class demands"}
_AGAIN = frozenset({429, 502, 503, 504})
_FIRST_S, _MOST_S = 1.0, 60.0
_DROP_POLL_S = 1.0


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

    @property
    def undecided(self) -> bool:
        """Not for good: the same file may be taken later."""
        return self.outcome == "not sent"


def kind_of(path: Path) -> str:
    """Return ``application/dicom``, ``image/png``, ``image/jpeg``, or empty for any other file."""
    with path.open("rb") as file:
        opening = file.read(132)
    if opening[128:] == b"DICM":
        return "application/dicom"
    return next((kind for start, kind in _PICTURES.items() if opening.startswith(start)), "")


class IngestClient:
    """Sends files; may be used by several threads.

    Parameters
    ----------
    http : httpx.Client
        With base URL and a time-out; credentials are added here.
    token : callable
        Returns the access token, fresh.
    patience_s : float
        How long a file is tried again while the service is away.
    stop : threading.Event or None
        Ends waiting.
    """

    def __init__(
        self,
        http: httpx.Client,
        token: Callable[[], str],
        *,
        patience_s: float = 300.0,
        stop: threading.Event | None = None,
    ) -> None:
        self._http = http
        self._token = token
        self._patience_s = patience_s
        self._stop = stop or threading.Event()

    def send(self, path: Path, fields: Mapping[str, str]) -> Sent:
        """Send one file and return what became of it; `fields` are the patient and study of a picture."""
        try:
            kind = kind_of(path)
            if kind.startswith("image/"):
                return self._picture(path, kind, fields)
            return self._instance(path)
        except OSError as error:
            return Sent(path, "not sent", f"{type(error).__name__}: the file can't be read")
        except httpx.HTTPError as error:
            return Sent(path, "not sent", f"{type(error).__name__}: the service can't be reached")

    def _picture(self, path: Path, kind: str, fields: Mapping[str, str]) -> Sent:
        def post() -> httpx.Response:
            with path.open("rb") as file:
                return self._post("/images", data=dict(fields), files={"file": ("picture", file, kind)})

        response = self._patiently(post)
        if response.status_code == 413:
            return self._drop(path, kind, fields)
        body = _json(response)
        if response.status_code == 201:
            study, sop = str(body.get("study_uid", "")), str(body.get("sop_uid", ""))
            return Sent(path, str(body["outcome"]), str(body.get("reason") or ""), study, sop)
        return _refused(path, response, body)

    def _instance(self, path: Path) -> Sent:
        boundary = uuid.uuid4().hex
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        tail = f"\r\n--{boundary}--\r\n".encode()
        headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Accept": "application/dicom+json",
            "Content-Length": str(len(head) + path.stat().st_size + len(tail)),
        }

        def body() -> Iterator[bytes]:
            yield head
            with path.open("rb") as file:
                while piece := file.read(1024 * 1024):
                    yield piece
            yield tail

        response = self._patiently(lambda: self._post("/dicomweb/studies", content=body(), headers=headers))
        if response.status_code == 413:
            return self._drop(path, "application/dicom", {})
        return _of_stow(path, response)

    def _drop(self, path: Path, kind: str, fields: Mapping[str, str]) -> Sent:
        """Send what is too large for a request by direct drop, and wait for what becomes of it."""
        study = {name: fields[name] for name in _STUDY_FIELDS if name in fields}
        patient = {name: value for name, value in fields.items() if name not in study}
        wanted: dict[str, object] = {
            "files": [{"name": path.name[:255], "bytes": path.stat().st_size, "content_type": kind}]
        }
        if patient:
            wanted |= {"patient": patient, "study": study}
        opened = self._patiently(lambda: self._post("/uploads", json=wanted))
        if opened.status_code != 201:
            return _refused(path, opened, _json(opened))
        upload = opened.json()
        (target,) = upload["files"]

        def put() -> httpx.Response:
            with path.open("rb") as file:
                headers = {**target["headers"], "Content-Length": str(path.stat().st_size)}
                return httpx.put(target["url"], content=file, headers=headers, timeout=self._http.timeout)

        done = self._patiently(put)
        if done.status_code != 201:
            return Sent(path, "not sent", f"the drop was answered {done.status_code}")
        until = time.monotonic() + self._patience_s
        while time.monotonic() < until and not self._stop.wait(_DROP_POLL_S):
            state = self._patiently(lambda: self._get(f"/uploads/{upload['upload_id']}"))
            found = _dropped(path, _json(state))
            if found is not None:
                return found
        return Sent(path, "not sent", "dropped, but not taken in yet: see the upload's state")

    def _patiently(self, call: Callable[[], httpx.Response]) -> httpx.Response:
        """Call again while the service says that it is away, as long as it asks for, with jitter."""
        until = time.monotonic() + self._patience_s
        wait = _FIRST_S
        while True:
            try:
                response = call()
                if response.status_code not in _AGAIN:
                    return response
                asked = _retry_after(response)
            except httpx.TransportError:
                if time.monotonic() + wait > until:
                    raise
                asked = 0.0
                response = None
            pause = max(asked, wait) * random.uniform(1.0, 1.3)  # noqa: S311  # no secret
            if time.monotonic() + pause > until or self._stop.wait(pause):
                if response is None:
                    raise httpx.ConnectError("stopped while waiting")
                return response
            wait = min(wait * 2, _MOST_S)

    def _post(self, url: str, *, headers: Mapping[str, str] | None = None, **body: object) -> httpx.Response:
        return self._http.post(url, headers={**(headers or {}), **self._authorization()}, **body)  # type: ignore[arg-type]  # httpx's own keywords

    def _get(self, url: str) -> httpx.Response:
        return self._http.get(url, headers=self._authorization())

    def _authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token()}"}


def _retry_after(response: httpx.Response) -> float:
    text = response.headers.get("Retry-After", "")
    return min(float(text), _MOST_S) if text.isdigit() else 0.0


def _json(response: httpx.Response) -> dict[str, object]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _refused(path: Path, response: httpx.Response, body: Mapping[str, object]) -> Sent:
    reason = f"{body.get('code', response.status_code)}: {body.get('detail', '')}"
    return Sent(
        path, "not sent" if response.status_code in _AGAIN or response.status_code == 401 else "rejected", reason
    )


def _of_stow(path: Path, response: httpx.Response) -> Sent:
    body = _json(response)
    if "code" in body:
        return _refused(path, response, body)
    for tag, outcome in (("00081199", "stored"), ("00081198", "rejected"), ("0008119A", "rejected")):
        for item in _items(body, tag):
            failure, warning = _number(item, "00081197"), _number(item, "00081196")
            reason = f"{failure:04X} {_REASONS.get(failure, '')}".strip() if failure else ""
            if warning:
                reason = f"{warning:04X} {_WARNINGS.get(warning, '')}".strip()
            url = _first(item, "00081190").split("/")
            study = url[url.index("studies") + 1] if "studies" in url else ""
            outcome = "not sent" if failure == 0xA700 else outcome
            return Sent(path, outcome, reason, study, _first(item, "00081155"))
    return _refused(path, response, body)


def _dropped(path: Path, state: Mapping[str, Any]) -> Sent | None:
    """Return what became of the one file of an upload; None while it is not known."""
    file = next(iter(state.get("files") or []), {"outcome": "waiting"})
    if file["outcome"] == "waiting":
        return None
    reason, study, sop = (file.get(name) or "" for name in ("reason", "study_uid", "sop_uid"))
    return Sent(path, file["outcome"], reason, study, sop)


def _items(body: Mapping[str, object], tag: str) -> Iterator[Mapping[str, object]]:
    element = body.get(tag)
    values = element.get("Value", []) if isinstance(element, dict) else []
    yield from (item for item in values if isinstance(item, dict))


def _first(item: Mapping[str, object], tag: str) -> str:
    element = item.get(tag)
    values = element.get("Value", []) if isinstance(element, dict) else []
    return str(values[0]) if values else ""


def _number(item: Mapping[str, object], tag: str) -> int:
    text = _first(item, tag)
    return int(text) if text.isdigit() else 0

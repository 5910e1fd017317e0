"""The FHIR client: R4 REST over httpx, with the retries that I4 asks for and no surprises.

What it promises: every call ends within its time-outs and a bounded number of tries; a token goes to the
configured host only (no redirect, no foreign ``next`` link); identifiers and names travel in bodies, never in
URLs (`POST _search`); a write whose outcome is unknown is repeated only where repeating it can't undo
somebody else's write.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlencode, urljoin, urlsplit

import httpx
from opentelemetry import propagate, trace

from fhir_adapter._bundle_answer import batch_entry, check_written
from fhir_adapter._retry import Retry, wait_asked_for
from fhir_adapter.errors import FhirPermanent, FhirRetryable, PreconditionFailed, outcome_issues, outcome_text
from fhir_adapter.token_source import EntraToken, NoToken, StaticToken, TokenSource

if TYPE_CHECKING:
    from imaging_core.settings import Settings

__all__ = ["FhirClient", "Params", "Resource", "client_from_settings", "etag"]

Resource = dict[str, Any]
"""A FHIR resource, or any other element of FHIR JSON."""
Params = Mapping[str, str | Sequence[str]] | Sequence[tuple[str, str]]
"""Search parameters; a sequence as value repeats the parameter (AND)."""

_JSON = "application/fhir+json"
_MAX_PAGES = 1000
_PARSED = "fhir_adapter.json"
_BUSY = frozenset({429, 503})
_TRANSIENT = frozenset({408, 409, 423, 425})
# httpx logs each URL at INFO, and the URL of a "next" page may repeat the search's values
logging.getLogger("httpx").setLevel(logging.WARNING)


class FhirClient:
    """A synchronous client of one FHIR R4 service; threads may share it.

    Parameters
    ----------
    base_url : str
        Service base URL.
    token_source : TokenSource, optional
        Gives the bearer token; None: none is sent.
    timeout : float
        Seconds for one answer; connecting and waiting for a pooled connection have 5 and 10 s of their own.
    max_connections : int
        Most calls at the same time; further ones wait.
    retry : Retry, optional
        How often and how long to try again.
    transport : httpx.BaseTransport, optional
        For tests that watch or disturb the wire.
    """

    def __init__(
        self,
        base_url: str,
        token_source: TokenSource | None = None,
        timeout: float = 30.0,
        *,
        max_connections: int = 16,
        retry: Retry | None = None,
        transport: httpx.BaseTransport | None = None,
        verify: bool | str = True,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise FhirPermanent("FHIR_BASE_URL is no http(s) URL")
        self.base_url = base_url.rstrip("/")
        self._origin = _origin(self.base_url)
        self._tokens = token_source or NoToken()
        self._retry = retry or Retry()
        self._capabilities: Resource | None = None
        self._http = httpx.Client(
            timeout=httpx.Timeout(timeout, connect=5.0, pool=10.0),
            limits=httpx.Limits(max_connections=max_connections, max_keepalive_connections=max_connections),
            follow_redirects=False,
            transport=transport,
            verify=verify,
        )

    def __enter__(self) -> FhirClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the pooled connections."""
        self._http.close()

    # reading

    def read(self, type_: str, id_: str) -> Resource | None:
        """Return a resource, or None where there is none (404) or none any more (410)."""
        return self._read(f"{type_}/{id_}")

    def vread(self, type_: str, id_: str, version: str) -> Resource | None:
        """Return one version of a resource, or None."""
        return self._read(f"{type_}/{id_}/_history/{version}")

    def history(self, type_: str, id_: str, most: int = 100) -> list[Resource]:
        """Return the versions of a resource that the service keeps, the newest first; none where it knows none.

        Parameters
        ----------
        most : int
            Most versions that are read.
        """
        found: list[Resource] = []
        following: str | None = f"{type_}/{id_}/_history"
        seen: set[str] = set()
        while following and following not in seen and len(found) < most:
            seen.add(following)
            response = self._call("GET", following, passing=(404, 410), name=f"{type_}/_history")
            if response.status_code in (404, 410):
                return found
            page = self._body(response)
            entries = [entry.get("resource") for entry in page.get("entry") or []]
            found += [item for item in entries if isinstance(item, dict) and item.get("resourceType") == type_]
            following = self._next_link(page)
        return found[:most]

    def refresh(self, resource: Resource) -> Resource | None:
        """Return the current version of a resource that was read before; the same object where it has not changed.

        A conditional read (``If-None-Match``): an unchanged resource costs no body.
        """
        headers = {"If-None-Match": tag} if (tag := etag(resource)) else {}
        path = f"{resource['resourceType']}/{resource['id']}"
        response = self._call("GET", path, headers=headers, passing=(304, 404, 410))
        if response.status_code == 304:
            return resource
        return None if response.status_code in (404, 410) else self._body(response)

    def read_many(self, references: Sequence[str]) -> list[Resource | None]:
        """Read several resources in one round trip (a batch of reads by id).

        Parameters
        ----------
        references : sequence of str
            ``Type/id`` each; entries of the answer keep their order.
        """
        return [entries[0] if entries else None for entries in self.get_many(references)]

    def get_many(self, urls: Sequence[str]) -> list[list[Resource]]:
        """Send several reads or searches in one round trip, and return what each of them found.

        A search that finds more than one page returns its first page only: ask for ``_count`` + 1 where it matters.
        """
        if not urls:
            return []
        bundle: Resource = {
            "resourceType": "Bundle",
            "type": "batch",
            "entry": [{"request": {"method": "GET", "url": url}} for url in urls],
        }
        found: list[list[Resource]] = [[] for _ in urls]
        waiting = list(range(len(urls)))
        for pause in self._retry.pauses():
            asked = {**bundle, "entry": [bundle["entry"][index] for index in waiting]}
            answer = self._body(self._call("POST", "", json_body=asked, name="batch"))
            entries = answer.get("entry") or []
            if len(entries) != len(waiting):
                raise FhirPermanent("the answer to a batch has another number of entries than the batch")
            busy: dict[int, FhirRetryable] = {}
            for index, entry in zip(waiting, entries, strict=True):
                try:
                    found[index] = batch_entry(entry)
                except FhirRetryable as error:
                    busy[index] = error
            if not busy:
                break
            # a service may throttle single entries of a batch: only those are asked for again
            worst = max(busy.values(), key=lambda item: item.retry_after)
            if pause is None or worst.retry_after > self._retry.longest_wait:
                raise worst
            self._retry.sleep(max(pause, worst.retry_after))
            waiting = list(busy)
        return found

    def search(self, type_: str, params: Params, *, max_pages: int = _MAX_PAGES) -> Iterator[Resource]:
        """Yield the resources that a search finds, included ones too, page after page.

        The parameters go as a form (``POST [type]/_search``), for they may hold a patient's name or number.

        Raises
        ------
        FhirPermanent
            Where a page's ``next`` link leads to another scheme, host, port or path than the service's base.
        """
        path = f"{type_}/_search" if type_ else "_search"
        page = self._body(self._call("POST", path, form=_pairs(params), name=f"{type_ or 'system'}/_search"))
        seen: set[str] = set()
        for _ in range(max_pages):
            for entry in page.get("entry") or []:
                resource = entry.get("resource")
                # a search's own warnings come as an OperationOutcome among the entries
                if isinstance(resource, dict) and (entry.get("search") or {}).get("mode") != "outcome":
                    yield resource
            following = self._next_link(page)
            if following is None or following in seen:
                return
            seen.add(following)
            page = self._body(self._call("GET", following, name=f"{type_}/_search (next page)"))

    def capabilities(self) -> Resource:
        """Return the service's CapabilityStatement (read once per client)."""
        if self._capabilities is None:
            self._capabilities = self._body(self._call("GET", "metadata"))
        return self._capabilities

    @property
    def searches_system(self) -> bool:
        """Whether the service offers a search over several types at once (``search-system``)."""
        rest = (self.capabilities().get("rest") or [{}])[0]
        return any(item.get("code") == "search-system" for item in rest.get("interaction") or [])

    # writing

    def update(self, resource: Resource, if_match: str | None = None) -> Resource:
        """Write a resource under its own id (``PUT``) and return it as stored.

        Parameters
        ----------
        resource : Resource
            With ``id``.
        if_match : str, optional
            Version id or ETag that was read; the write fails where the resource has another one by now.

        Raises
        ------
        PreconditionFailed
            412.
        FhirRetryable, FhirPermanent
        """
        headers = {"Prefer": "return=representation"}
        if if_match is not None:
            headers["If-Match"] = _weak(if_match)
        path = f"{resource['resourceType']}/{resource['id']}"
        # without If-Match, a repeated PUT might undo what somebody wrote after the first one went through unseen
        response = self._call("PUT", path, json_body=resource, headers=headers, resend=if_match is not None)
        return self._stored(response, resource)

    def post_create(self, resource: Resource) -> Resource:
        """Create a resource under an id of the server's choice; sent again only where it certainly did not arrive."""
        headers = {"Prefer": "return=representation"}
        type_ = str(resource["resourceType"])
        response = self._call("POST", type_, json_body=resource, headers=headers, resend=False)
        return self._stored(response, resource)

    def transaction(self, entries: Sequence[Resource], *, resend: bool = False) -> list[Resource]:
        """Send entries as one transaction: all of them are done, or none.

        Parameters
        ----------
        entries : sequence of Resource
            Bundle entries; see `fhir_adapter.bundle.put_entry`. At most 100 (I3).
        resend : bool
            Whether it may be sent again after an answer got lost. Only for entries that carry ``ifMatch``, all of them.

        Returns
        -------
        list of Resource
            The answer's entries, in the order of `entries`.

        Raises
        ------
        PreconditionFailed
            One of the entries met another version than it was made for.
        """
        if len(entries) > 100:
            raise FhirPermanent(f"a transaction of {len(entries)} entries; at most 100")
        bundle = {"resourceType": "Bundle", "type": "transaction", "entry": list(entries)}
        headers = {"Prefer": "return=representation"}
        answer = self._body(
            self._call("POST", "", json_body=bundle, headers=headers, resend=resend, name="transaction")
        )
        answered = answer.get("entry") or []
        if len(answered) != len(entries):
            raise FhirPermanent("the answer to a transaction has another number of entries than the transaction")
        for entry in answered:
            check_written(entry)
        return list(answered)

    # one call

    def _call(
        self,
        method: Literal["GET", "PUT", "POST"],
        path: str,
        *,
        json_body: Resource | None = None,
        form: list[tuple[str, str]] | None = None,
        headers: Mapping[str, str] | None = None,
        passing: tuple[int, ...] = (),
        resend: bool = True,
        name: str = "",
    ) -> httpx.Response:
        """Send a request until it is answered for good; see I4 for what is tried again.

        Parameters
        ----------
        path : str
            Below the base URL, or an absolute URL that was checked.
        passing : tuple of int
            Statuses above 2xx that the caller wants to see.
        resend : bool
            Whether to send again where the first request may have been carried out.
        name : str
            What spans and errors call the request; must be free of ids' values and parameters.
        """
        content, media_type = _encode(json_body, form)
        fixed = {
            "Accept": _JSON,
            "x-ms-client-request-id": str(uuid.uuid4()),
            **({"Content-Type": media_type} if media_type else {}),
            **(headers or {}),
        }
        url = path if "://" in path else f"{self.base_url}/{path}".rstrip("/")
        label = f"{method} {name or path.split('/')[0]}"
        tracer = trace.get_tracer("fhir_adapter")
        with tracer.start_as_current_span(f"FHIR {label}", kind=trace.SpanKind.CLIENT) as span:
            span.set_attribute("server.address", self._origin[1])
            propagate.inject(fixed)
            for pause in self._retry.pauses():
                failure, response = self._attempt(method, url, content, fixed, label, json_body, passing)
                if response is not None:
                    span.set_attribute("http.response.status_code", response.status_code)
                    return response
                assert failure is not None  # noqa: S101  # one of the two is there
                error, certain = failure
                wait = pause if pause is None else max(pause, getattr(error, "retry_after", 0.0))
                if wait is None or not isinstance(error, FhirRetryable) or not (resend or certain):
                    raise error
                if wait > self._retry.longest_wait:
                    raise error
                span.add_event("retry", {"status": error.status, "wait_s": wait})
                self._retry.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _attempt(
        self,
        method: str,
        url: str,
        content: bytes | None,
        headers: Mapping[str, str],
        label: str,
        sent: Resource | None,
        passing: tuple[int, ...],
    ) -> tuple[tuple[Exception, bool] | None, httpx.Response | None]:
        """Send once; return (error, whether the request was certainly not carried out) or an answer."""
        response = None
        for renewed in (False, True):
            bearer = {"Authorization": f"Bearer {token}"} if (token := self._tokens.token()) else {}
            try:
                response = self._http.request(method, url, content=content, headers={**headers, **bearer})
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
                return (FhirRetryable(f"{label}: no connection ({type(error).__name__})"), True), None
            except httpx.HTTPError as error:
                return (FhirRetryable(f"{label}: no answer ({type(error).__name__})"), False), None
            if response.status_code != 401 or renewed or not bearer:
                break
            self._tokens.expire()
        assert response is not None  # noqa: S101  # the loop ran
        status = response.status_code
        if status in passing:
            return None, response
        if response.is_success:
            if response.content and not _readable(response):
                # cut off, or a gateway's own page: whether the request was carried out is not known
                return (FhirRetryable(f"{label}: the answer ({status}) is no JSON", status), False), None
            return None, response
        issues = outcome_issues(response.content, sent)
        said = outcome_text(issues)
        detail = f"{label}: {status}" + (f" ({said})" if said else "")
        if status == 412:
            return (PreconditionFailed(detail), True), None
        if status in _BUSY or status in _TRANSIENT or status >= 500:
            after = wait_asked_for(response.headers, time.time())
            # a gateway's 503 may hide a request that went through; 429 and the service's own refusals don't
            return (FhirRetryable(detail, status, after, issues), status in (429, 408, 409, 423, 425)), None
        return (FhirPermanent(detail, status, issues), True), None

    def _read(self, path: str) -> Resource | None:
        response = self._call("GET", path, passing=(404, 410))
        return None if response.status_code in (404, 410) else self._body(response)

    def _body(self, response: httpx.Response) -> Resource:
        body = response.extensions.get(_PARSED)
        if not isinstance(body, dict):
            raise FhirPermanent("the answer is no JSON object", response.status_code)
        return body

    def _stored(self, response: httpx.Response, sent: Resource) -> Resource:
        # a server may answer a write without the resource, whatever "Prefer" says
        if response.content:
            return self._body(response)
        stored = dict(sent)
        if tag := response.headers.get("ETag"):
            stored["meta"] = {**sent.get("meta", {}), "versionId": tag.removeprefix("W/").strip('"')}
        return stored

    def _next_link(self, page: Resource) -> str | None:
        for link in page.get("link") or []:
            if link.get("relation") == "next" and link.get("url"):
                url = urljoin(f"{self.base_url}/", str(link["url"]))
                path = urlsplit(url).path
                own = urlsplit(self.base_url).path
                if _origin(url) != self._origin or not (path == own or path.startswith(f"{own}/") or path == f"{own}/"):
                    raise FhirPermanent("a search's next page is on another host; not followed")
                if any(part in ("..", ".") for part in path.split("/")):
                    raise FhirPermanent("a search's next page has a relative path; not followed")
                return url
        return None


def _readable(response: httpx.Response) -> bool:
    """Parse the answer once; `FhirClient` reads what is kept."""
    try:
        response.extensions[_PARSED] = response.json()
    except ValueError:
        return False
    return True


def etag(resource: Resource) -> str | None:
    """Return a resource's weak ETag, None where it was never stored."""
    version = (resource.get("meta") or {}).get("versionId")
    return _weak(str(version)) if version else None


def client_from_settings(settings: Settings) -> FhirClient:
    """Return a client of the imaging FHIR service.

    Raises
    ------
    Permanent
        ``bad-setting`` where the address, or the token that ``FHIR_AUTH`` calls for, is missing.
    """
    settings.require("fhir_base_url")
    tokens: TokenSource
    if settings.fhir_auth == "bearer":
        settings.require("fhir_token")
        tokens = StaticToken(settings.fhir_token.get_secret_value())
    elif settings.fhir_auth == "entra":
        tokens = EntraToken(settings.fhir_audience or settings.fhir_base_url)
    else:
        tokens = NoToken()
    return FhirClient(
        settings.fhir_base_url, tokens, settings.fhir_timeout_s, max_connections=settings.fhir_connections
    )


def _weak(version: str) -> str:
    return version if version.startswith(('W/"', '"')) else f'W/"{version}"'


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or default


def _pairs(params: Params) -> list[tuple[str, str]]:
    if not isinstance(params, Mapping):
        return [(key, value) for key, value in params]
    pairs: list[tuple[str, str]] = []
    for key, value in params.items():
        pairs.extend([(key, value)] if isinstance(value, str) else [(key, item) for item in value])
    return pairs


def _encode(body: Resource | None, form: list[tuple[str, str]] | None) -> tuple[bytes | None, str]:
    if body is not None:
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(), _JSON
    if form is not None:
        return urlencode(form).encode(), "application/x-www-form-urlencoded"
    return None, ""

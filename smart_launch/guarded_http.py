"""HTTP to an EHR, and to nowhere else.

A session knows the origins that one registration may be asked at. It connects to addresses that it has vetted itself,
follows no redirect, uses no proxy or credentials of the environment, keeps no cookies, waits for a bounded time and
reads a bounded number of bytes.
"""

from __future__ import annotations

import http.cookiejar
import ipaddress
import json
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util.connection import create_connection

__all__ = ["AddressRefused", "GuardedSession", "HttpFault", "is_loopback_name", "origin_of", "strict_json"]

KIB = 1024
_CONNECT_S = 3.05
_READ_S = 8.0
_TOTAL_S = 20.0
_CHUNK = 16 * KIB
_MAX_DEPTH = 40

#: Addresses of cloud metadata services outside the link-local range (Azure, Alibaba, AWS over IPv6).
_METADATA = {ipaddress.ip_address(text) for text in ("168.63.129.16", "100.100.100.200", "fd00:ec2::254")}


class HttpFault(requests.RequestException):
    """A request was refused before it was sent, or its answer can't be used."""


class AddressRefused(HttpFault):
    """The request would have gone somewhere that the registration does not name."""


class _InnerAddress(Exception):
    """A name leads to an address that is not contacted; not an OSError, which urllib3 would take for a broken line."""


class _Watch(threading.local):
    """The socket that this thread waits for: closed from outside when its request takes too long in all.

    Time-outs of a socket start anew with every byte, so that a server that drips could hold a thread for ever.
    """

    expired: threading.Event | None = None

    def __init__(self) -> None:
        self._holder: list[socket.socket] = []

    @contextmanager
    def limit(self, seconds: float) -> Iterator[threading.Event]:
        expired = self.expired = threading.Event()
        holder = self._holder = []

        def close() -> None:
            expired.set()
            for item in holder:
                try:
                    # the base class's method: on the file descriptor, past the TLS state that the other thread uses
                    socket.socket.shutdown(item, socket.SHUT_RDWR)
                except OSError:
                    continue  # it is closed already

        timer = threading.Timer(seconds, close)
        timer.daemon = True
        timer.start()
        try:
            yield expired
        finally:
            timer.cancel()
            self.expired = None

    def hold(self, item: socket.socket) -> None:
        if self.expired is None:
            return
        self._holder[:] = [item]
        if self.expired.is_set():
            raise TimeoutError("request takes too long")


_watch = _Watch()


def origin_of(url: str) -> str:
    """Return `scheme://host:port` of a URL, the port always named.

    Raises
    ------
    AddressRefused
        Not an absolute URL over TLS (http only to the own machine), or one with user information, or with characters
        that parsers read differently.
    """
    if not url.isascii() or any(ord(char) <= 0x20 or char in '\\"<>^`{|}' or ord(char) == 0x7F for char in url):
        raise AddressRefused("URL has characters that a URL can't have")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise AddressRefused("URL can't be read") from error
    if not host or "@" in parts.netloc or "%" in parts.netloc:
        raise AddressRefused("URL has no host, or user information")
    if parts.scheme == "http":
        if not is_loopback_name(host):
            raise AddressRefused("only https is used")
    elif parts.scheme != "https":
        raise AddressRefused("only https is used")
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}:{port or (443 if parts.scheme == 'https' else 80)}"


def is_loopback_name(host: str) -> bool:
    """Say whether a name stands for the own machine: a loopback address, `localhost` or `*.localhost` (RFC 6761)."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host that may be connected to.

    `*.localhost` is answered here, as RFC 6761 says, for the C library does not know it.
    """
    if host == "localhost" or host.endswith(".localhost"):
        return ["127.0.0.1", "::1"]
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for address in addresses:
        _vet(host, address)
    return addresses


def _vet(host: str, text: str) -> None:
    """Refuse an address that a registered name has no business to lead to.

    Private ranges are allowed: hospitals' EHRs live there, and the name was registered by an administrator.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if address.is_link_local or address.is_multicast or address.is_unspecified or address in _METADATA:
        raise _InnerAddress("host leads to an address that is never an EHR's")
    # `.test` is reserved like `.localhost` and exists in no public zone.
    if address.is_loopback and not (is_loopback_name(host) or host.endswith(".test")):
        raise _InnerAddress("host leads to this machine")


def _connect(connection: HTTPConnection) -> socket.socket:
    host = connection._dns_host  # urllib3 keeps the name to resolve here, apart from the one that TLS verifies
    try:
        addresses = _resolve(host, connection.port)
    except OSError as error:
        if isinstance(error, socket.gaierror):
            raise NameResolutionError(connection.host, connection, error) from error
        raise
    failure: OSError = OSError("no address")
    for address in addresses:
        try:
            connected = create_connection(
                (address, connection.port),
                connection.timeout,
                source_address=connection.source_address,
                socket_options=connection.socket_options,
            )
            _watch.hold(connected)
            return connected
        except TimeoutError as error:
            raise ConnectTimeoutError(connection, "connection timed out") from error
        except OSError as error:
            failure = error
    raise NewConnectionError(connection, f"connection failed: {failure.strerror}") from failure


class _VettedHTTPConnection(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _connect(self)

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]  # as urllib3's own
        if self.sock is not None:
            _watch.hold(self.sock)
        return super().getresponse()


class _VettedHTTPSConnection(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return _connect(self)

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]  # as urllib3's own
        if self.sock is not None:
            _watch.hold(self.sock)
        return super().getresponse()


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _VettedHTTPConnection


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _VettedHTTPSConnection


class _GuardedAdapter(HTTPAdapter):
    """Transport that checks where a request goes and how much comes back."""

    def __init__(self, origins: frozenset[str], max_bytes: int, total_seconds: float) -> None:
        self._origins = origins
        self._max_bytes = max_bytes
        self._total_seconds = total_seconds
        super().__init__(pool_connections=4, pool_maxsize=16, max_retries=0)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        if origin_of(request.url or "") not in self._origins:
            raise AddressRefused("host is not registered for this EHR", request=request)
        with _watch.limit(self._total_seconds) as expired:
            try:
                response = super().send(request, True, timeout or (_CONNECT_S, _READ_S), verify, cert, None)
            except _InnerAddress as error:
                raise AddressRefused(str(error), request=request) from error
            try:
                response._content = self._read(response)
            finally:
                response.close()
            if expired.is_set():  # a line that was cut looks like an answer's end where no length was named
                raise HttpFault("answer takes too long", response=response)
        response._content_consumed = True  # type: ignore[attr-defined]  # requests' own mark for "body is in memory"
        return response

    def _read(self, response: requests.Response) -> bytes:
        body = bytearray()
        try:
            for chunk in response.raw.stream(_CHUNK, decode_content=True):
                body += chunk
                if len(body) > self._max_bytes:
                    raise HttpFault("answer is too large", response=response)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            if isinstance(error, HttpFault):
                raise
            raise HttpFault(f"answer broke off: {type(error).__name__}", response=response) from error
        return bytes(body)


class GuardedSession(requests.Session):
    """A requests session that reaches the origins of one registration only.

    Parameters
    ----------
    origins : iterable of str
        `scheme://host:port` of everything that may be asked.
    ca_file : str
        Certificate authorities to trust instead of the machine's; empty: the machine's.
    max_bytes : int
        Longest answer that is read, after decompression.
    total_seconds : float
        Longest time for one request, from the connection to the last byte.
    """

    def __init__(
        self,
        origins: Iterable[str],
        ca_file: str = "",
        max_bytes: int = 256 * KIB,
        total_seconds: float = _TOTAL_S,
    ) -> None:
        super().__init__()
        self.trust_env = False
        self.verify = ca_file or True
        self.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        self.headers = requests.structures.CaseInsensitiveDict(
            {"User-Agent": "smart-launch", "Accept": "application/json", "Accept-Encoding": "identity"}
        )
        self.adapters.clear()
        adapter = _GuardedAdapter(frozenset(origins), max_bytes, total_seconds)
        self.mount("https://", adapter)
        self.mount("http://", adapter)

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Send a request; a redirect is returned as the answer that it is, never followed."""
        options["allow_redirects"] = False
        return super().send(request, **options)


def strict_json(body: bytes) -> dict[str, Any]:
    """Read a JSON object; refuse what parsers read differently (RFC 8259 4, RFC 8785).

    Raises
    ------
    ValueError
        Not a JSON object in UTF-8, a member twice, NaN or Infinity, or nested too deep.
    """
    try:
        document = json.loads(body.decode("utf-8-sig"), object_pairs_hook=_without_repeats, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("JSON is nested too deep") from error
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    _limit_depth(document)
    return document


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member occurs twice")
    return members


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _limit_depth(value: Any) -> None:
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [
            child
            for item in level
            if isinstance(item, (dict, list))
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    raise ValueError("JSON is nested too deep")

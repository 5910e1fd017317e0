"""TLS to an EHR: only to who can prove the name, only from version 1.2 on; else nothing is sent."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from smart_launch.guarded_http import GuardedSession
from tests.smart_launch.conftest import pem

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


@dataclass
class Authority:
    """A certificate authority of the test."""

    folder: Path
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Authority of the test")])
        self.file = self.folder / "ca.pem"
        builder = self._builder(self.name, self.key, -1, 10)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.file.write_bytes(self._signed(builder))

    def _builder(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, begin: int, end: int
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(days=begin))
            .not_valid_after(now + datetime.timedelta(days=end))
        )

    def _signed(self, builder: x509.CertificateBuilder) -> bytes:
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def leaf(self, host: str = "ehr.localhost", begin: int = -1, end: int = 5) -> Path:
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName(host), x509.IPAddress(ipaddress.ip_address("10.9.8.7"))]
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        builder = self._builder(name, key, begin, end).add_extension(x509.SubjectAlternativeName(names), critical=False)
        path = self.folder / "leaf.pem"
        path.write_bytes(self._signed(builder) + pem(key))
        return path


@dataclass
class Server:
    port: int
    received: list[bytes] = field(default_factory=list)
    handshakes: int = 0


@contextmanager
def serving(context: ssl.SSLContext) -> Iterator[Server]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(listener.getsockname()[1])

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(connection, server_side=True) as wrapped:
                    server.handshakes += 1
                    request = b""
                    while not request.endswith(b"code=c") and (part := wrapped.recv(4096)):
                        request += part
                    server.received.append(request)
                    wrapped.sendall(ANSWER)
            except (OSError, ssl.SSLError):
                connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


def context_of(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.mark.requirement("S3")
@pytest.mark.parametrize(
    ("kind", "host", "begin", "end"),
    [
        ("good", "ehr.localhost", -1, 5),
        ("another name", "other.localhost", -1, 5),
        ("expired", "ehr.localhost", -5, -1),
        ("not yet valid", "ehr.localhost", 1, 5),
    ],
)
def test_a_certificate_must_be_of_the_name_and_in_force(
    tmp_path: Path, kind: str, host: str, begin: int, end: int
) -> None:
    authority = Authority(tmp_path)
    with serving(context_of(authority.leaf(host, begin, end))) as server:
        url = f"https://ehr.localhost:{server.port}"
        http = GuardedSession({url}, str(authority.file))
        if kind == "good":
            assert http.post(f"{url}/token", data={"code": "c"}).status_code == 200
            return
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            http.post(f"{url}/token", data={"code": "c"})
    assert server.received == []


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")  # the old versions are what is tested
@pytest.mark.requirement("S3")
def test_an_old_version_of_tls_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context = context_of(authority.leaf())
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with serving(context) as server:
        url = f"https://ehr.localhost:{server.port}"
        with pytest.raises(OSError, match="SSL"):
            GuardedSession({url}, str(authority.file)).post(f"{url}/token", data={"code": "c"})
    assert server.received == []
    assert server.handshakes == 0

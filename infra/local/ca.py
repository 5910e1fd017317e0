"""The local certificate authority and the one server certificate of the stack."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from infra.local.configuration import Layout
from infra.local.credentials import write_private

__all__ = ["NAMES", "Certificates", "ensure_certificates"]

NAMES = ("app.localhost", "ehr.localhost", "localhost")
_ADDRESS = ipaddress.ip_address("127.0.0.1")
_CA_DAYS = 3650
# browsers refuse server certificates that are valid for longer than 398 days
_LEAF_DAYS = 397
_RENEW_BEFORE = timedelta(days=30)


@dataclass(frozen=True)
class Certificates:
    """Files of the CA's certificate and of the server's chain and key."""

    ca_file: Path
    certificate: Path
    key: Path


def ensure_certificates(layout: Layout) -> Certificates:
    """Return the certificates, made at first use; the server's is renewed 30 days before it ends.

    Notes
    -----
    The CA may sign for names below ``localhost`` and for 127.0.0.1 only (name constraints), so that trusting it in a
    browser opens nothing else; its key has mode 0600.
    """
    ca_key_file = layout.keys / "ca.key"
    found = Certificates(layout.ca_file, layout.keys / "server.pem", layout.keys / "server.key")
    if not (ca_key_file.exists() and found.ca_file.exists()):
        ca_key, ca = _make_ca()
        write_private(ca_key_file, _key_pem(ca_key))
        write_private(found.ca_file, ca.public_bytes(serialization.Encoding.PEM))
        found.ca_file.chmod(0o644)
        found.certificate.unlink(missing_ok=True)
    if not _still_good(found.certificate, found.key):
        loaded = serialization.load_pem_private_key(ca_key_file.read_bytes(), password=None)
        ca = x509.load_pem_x509_certificate(found.ca_file.read_bytes())
        if not isinstance(loaded, ec.EllipticCurvePrivateKey):
            raise TypeError(f"{ca_key_file} holds no elliptic-curve key")
        leaf_key, leaf = _make_leaf(loaded, ca)
        write_private(found.key, _key_pem(leaf_key))
        write_private(found.certificate, leaf.public_bytes(serialization.Encoding.PEM))
    return found


def _make_ca() -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Imaging local stack CA")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=_CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .add_extension(
            x509.NameConstraints(
                permitted_subtrees=[
                    x509.DNSName("localhost"),
                    x509.IPAddress(ipaddress.ip_network("127.0.0.1/32")),
                ],
                excluded_subtrees=None,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return key, certificate


def _make_leaf(
    ca_key: ec.EllipticCurvePrivateKey, ca: x509.Certificate
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=_LEAF_DAYS))
        .add_extension(
            x509.SubjectAlternativeName([*(x509.DNSName(name) for name in NAMES), x509.IPAddress(_ADDRESS)]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return key, certificate


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _still_good(certificate: Path, key: Path) -> bool:
    if not (certificate.exists() and key.exists()):
        return False
    loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
    return loaded.not_valid_after_utc - _RENEW_BEFORE > datetime.now(UTC)

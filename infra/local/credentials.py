"""Passwords, tokens and keys of the local stack, made once and kept in files that only their owner can read."""

from __future__ import annotations

import base64
import json
import os
import secrets
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from infra.local.configuration import Layout

__all__ = ["Credentials", "app_client_key", "load_credentials", "write_private"]


def _token() -> str:
    return secrets.token_urlsafe(32)


@dataclass(frozen=True, repr=False)
class Credentials:
    """Everything secret that parts share; a field that a file of an older version lacks is made anew."""

    postgres_superuser: str = field(default_factory=_token)
    imaging_owner: str = field(default_factory=_token)
    imaging_worker: str = field(default_factory=_token)
    imaging_page: str = field(default_factory=_token)
    imaging_worklist: str = field(default_factory=_token)
    storage_key: str = field(default_factory=lambda: base64.b64encode(secrets.token_bytes(64)).decode())
    fhir_token: str = field(default_factory=_token)
    ingest_token: str = field(default_factory=_token)
    ingest_admin_token: str = field(default_factory=_token)
    ai_token: str = field(default_factory=_token)
    ehr_control_token: str = field(default_factory=_token)
    app_keys: str = field(
        default_factory=lambda: f"k1:{base64.urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip('=')}"
    )


def load_credentials(layout: Layout) -> Credentials:
    """Read the credentials; what is missing is made and written."""
    known = json.loads(layout.credentials.read_text("utf-8")) if layout.credentials.exists() else {}
    names = {item.name for item in fields(Credentials)}
    credentials = Credentials(**{name: value for name, value in known.items() if name in names})
    if asdict(credentials) != known:
        write_private(layout.credentials, json.dumps(asdict(credentials), indent=1).encode())
    return credentials


def app_client_key(layout: Layout, name: str = "sandbox") -> Path:
    """Return the file of an ES384 key of the app's (private_key_jwt at the sandbox EHR), made at first use."""
    path = layout.keys / f"{name}.pem"
    if not path.exists():
        key = ec.generate_private_key(ec.SECP384R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_private(path, pem)
    return path


def write_private(path: Path, data: bytes) -> None:
    """Write a file of mode 0600, whole or not at all; what is there already is left alone.

    Several commands may do so at once, each with a draft of its own.
    """
    if path.exists() and path.read_bytes() == data:
        return
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)

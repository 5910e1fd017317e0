"""Blob Storage: images as received, results, sign-off copies. A thin, typed door to azure-storage-blob.

Names are built from validated UIDs or hashes only (D46). The containers are a contract: see `CONTAINERS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import requests
from azure.core import MatchConditions
from azure.core.exceptions import AzureError, ResourceExistsError, ResourceModifiedError, ResourceNotFoundError
from azure.core.pipeline.transport import RequestsTransport
from azure.storage.blob import (
    BlobSasPermissions,
    BlobServiceClient,
    ContentSettings,
    UserDelegationKey,
    generate_blob_sas,
)

from imaging_core.azure_login import azure_credential
from imaging_core.errors import Permanent, Retryable
from imaging_core.settings import Settings

__all__ = ["CONTAINERS", "BlobInfo", "BlobMissing", "BlobStore", "storage_transport"]

CONTAINERS = ("incoming", "images", "quarantine", "results", "signoffs", "journal", "models", "batch")
_CONNECTIONS = 48  # the SDK keeps 10 by itself, and opens the others anew for each request


def storage_transport(settings: Settings) -> RequestsTransport:
    """Return the SDK's transport with a kept connection for each thread that may call, and bounded waits.

    What the environment says of proxies and authorities is read here, once: read for each request, as the SDK does by
    itself, it costs as much as sending a small blob (a look for ``.netrc`` is part of it).
    """
    session = requests.Session()
    adapter = requests.adapters.HTTPAdapter(pool_connections=2, pool_maxsize=_CONNECTIONS, max_retries=0)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    found = session.merge_environment_settings(_account_url(settings), {}, None, None, None)
    session.trust_env = False
    session.proxies.update(found["proxies"] or {})
    return RequestsTransport(
        session=session,
        use_env_settings=False,
        connection_timeout=5,
        read_timeout=settings.storage_timeout_s,
        connection_verify=found["verify"],
    )


def _account_url(settings: Settings) -> str:
    fields = settings.storage_connection_string.get_secret_value().split(";")
    endpoint = next((field.partition("=")[2] for field in fields if field.startswith("BlobEndpoint=")), "")
    return endpoint or settings.storage_account_url or "https://blob.core.windows.net"


class BlobMissing(Permanent):
    """There is no such blob."""

    def __init__(self, name: str) -> None:
        super().__init__("blob-missing", name)


@dataclass(frozen=True)
class BlobInfo:
    """What is known of a blob without reading it: name, ETag, size in bytes, metadata, when it was last written."""

    name: str
    etag: str
    size: int
    metadata: Mapping[str, str]
    content_type: str = ""
    modified: datetime | None = None


@contextmanager
def _wrapped(name: str) -> Iterator[None]:
    try:
        yield
    except ResourceNotFoundError as error:
        raise BlobMissing(name) from error
    except AzureError as error:
        raise Retryable("storage-unavailable", type(error).__name__) from error


class BlobStore:
    """The storage account.

    Parameters
    ----------
    service : BlobServiceClient
        The SDK's client; it pools connections and retries by itself.
    public_url : str
        Endpoint as uploaders reach it; empty: the service's own.
    """

    def __init__(self, service: BlobServiceClient, public_url: str = "") -> None:
        self._service = service
        self._public_url = public_url.rstrip("/")
        self._delegation_key: UserDelegationKey | None = None
        self._delegation_until = datetime.min.replace(tzinfo=UTC)

    @classmethod
    def from_settings(cls, settings: Settings) -> BlobStore:
        """Open the account of STORAGE_CONNECTION_STRING, else STORAGE_ACCOUNT_URL by managed identity."""
        options: dict[str, Any] = {
            "retry_total": 2,
            "retry_connect": 2,
            # the SDK's first pause is 15 s: a sender is told 503 long before that
            "initial_backoff": 0.5,
            "increment_base": 2,
            "transport": storage_transport(settings),
            "max_single_put_size": 64 * 1024 * 1024,
            "max_single_get_size": 64 * 1024 * 1024,
        }
        connection = settings.storage_connection_string.get_secret_value()
        if connection:
            return cls(BlobServiceClient.from_connection_string(connection, **options), settings.public_blob_url)
        settings.require("storage_account_url")
        service = BlobServiceClient(settings.storage_account_url, credential=azure_credential(), **options)
        return cls(service, settings.public_blob_url)

    def ensure_containers(self) -> None:
        """Make the containers that are missing (local stack and tests; on Azure, Bicep makes them)."""
        for name in CONTAINERS:
            with _wrapped(name):
                try:
                    self._service.create_container(name)
                except ResourceExistsError:
                    continue

    def put_new(
        self,
        container: str,
        name: str,
        data: bytes,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str = "application/octet-stream",
    ) -> bool:
        """Store `data` unless the name is taken; return whether it was stored."""
        with _wrapped(name):
            try:
                self._service.get_blob_client(container, name).upload_blob(
                    data,
                    overwrite=False,
                    metadata=dict(metadata or {}),
                    content_settings=ContentSettings(content_type=content_type),
                )
            except ResourceExistsError:
                return False
        return True

    def put(
        self,
        container: str,
        name: str,
        data: bytes,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str = "application/octet-stream",
    ) -> None:
        """Store `data`, replacing what was there."""
        with _wrapped(name):
            self._service.get_blob_client(container, name).upload_blob(
                data,
                overwrite=True,
                metadata=dict(metadata or {}),
                content_settings=ContentSettings(content_type=content_type),
            )

    def get(self, container: str, name: str) -> bytes:
        """Return the blob's bytes.

        Raises
        ------
        BlobMissing
            There is none.
        """
        with _wrapped(name):
            return self._service.get_blob_client(container, name).download_blob().readall()

    def read(self, container: str, name: str, etag: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """Return bytes of one version of a blob.

        Parameters
        ----------
        etag : str
            The version.
        offset, length : int
            The range; None: to the end.

        Raises
        ------
        BlobMissing
            There is none, or it is another version by now.
        """
        with _wrapped(name):
            try:
                found = self._service.get_blob_client(container, name).download_blob(
                    offset, length, etag=f'"{etag}"', match_condition=MatchConditions.IfNotModified
                )
                return found.readall()
            except ResourceModifiedError as error:
                raise BlobMissing(name) from error

    def get_with_etag(self, container: str, name: str) -> tuple[bytes, str]:
        """Return the blob's bytes and the ETag that they belong to.

        Raises
        ------
        BlobMissing
            There is none.
        """
        with _wrapped(name):
            found = self._service.get_blob_client(container, name).download_blob()
            return found.readall(), found.properties.etag.strip('"')

    def replace(
        self,
        container: str,
        name: str,
        data: bytes,
        *,
        etag: str,
        metadata: Mapping[str, str] | None = None,
        content_type: str = "application/octet-stream",
    ) -> bool:
        """Store `data` if the blob still has `etag` (empty: if there is none yet); return whether it was stored."""
        if not etag:
            return self.put_new(container, name, data, metadata=metadata, content_type=content_type)
        with _wrapped(name):
            try:
                self._service.get_blob_client(container, name).upload_blob(
                    data,
                    overwrite=True,
                    etag=f'"{etag}"',
                    match_condition=MatchConditions.IfNotModified,
                    metadata=dict(metadata or {}),
                    content_settings=ContentSettings(content_type=content_type),
                )
            except ResourceModifiedError:
                return False
        return True

    def info(self, container: str, name: str) -> BlobInfo:
        """Return ETag, size and metadata.

        Raises
        ------
        BlobMissing
            There is none.
        """
        with _wrapped(name):
            found = self._service.get_blob_client(container, name).get_blob_properties()
        return BlobInfo(
            name,
            found.etag.strip('"'),
            found.size,
            found.metadata or {},
            found.content_settings.content_type or "",
            found.last_modified,
        )

    def exists(self, container: str, name: str) -> bool:
        """Return whether there is such a blob."""
        with _wrapped(name):
            return bool(self._service.get_blob_client(container, name).exists())

    def list(self, container: str, prefix: str = "") -> Iterator[BlobInfo]:
        """Yield the blobs whose names begin with `prefix`."""
        with _wrapped(container):
            for found in self._service.get_container_client(container).list_blobs(prefix, include=["metadata"]):
                yield BlobInfo(
                    found.name,
                    found.etag.strip('"'),
                    found.size,
                    found.metadata or {},
                    modified=found.last_modified,
                )

    def delete(self, container: str, name: str, *, etag: str = "") -> None:
        """Delete the blob, with `etag` that version of it only; one that is gone already is no error."""
        condition: dict[str, Any] = {}
        if etag:
            condition = {"etag": f'"{etag}"', "match_condition": MatchConditions.IfNotModified}
        with _wrapped(name):
            try:
                self._service.get_blob_client(container, name).delete_blob(**condition)
            except (ResourceNotFoundError, ResourceModifiedError):
                return

    def check(self) -> None:
        """Raise `Retryable` unless the account answers."""
        with _wrapped("account"):
            next(self._service.list_containers(results_per_page=1).by_page(), None)

    def upload_url(self, container: str, name: str, life: timedelta) -> str:
        """Return a URL that lets its holder write this one blob, and nothing else, for `life`.

        It can't be read, listed or deleted by it. Permission `write` beside `create`: the tools that hospitals have
        (azcopy, Storage Explorer, the SDKs) write what is large in blocks, which `create` alone does not cover.
        """
        now = datetime.now(UTC)
        account = self._service.account_name or ""
        key = getattr(self._service.credential, "account_key", None)
        delegation = None if key else self._user_delegation_key(now, life)
        with _wrapped(name):
            token = generate_blob_sas(
                account_name=account,
                container_name=container,
                blob_name=name,
                account_key=key,
                user_delegation_key=delegation,
                permission=BlobSasPermissions(create=True, write=True),
                start=now - timedelta(minutes=5),
                expiry=now + life,
            )
        base = self._public_url or self._service.primary_endpoint.rstrip("/")
        return f"{base}/{container}/{name}?{token}"

    def _user_delegation_key(self, now: datetime, life: timedelta) -> UserDelegationKey:
        if self._delegation_key is None or self._delegation_until < now + life:
            until = now + max(life * 2, timedelta(hours=2))
            with _wrapped("user delegation key"):
                self._delegation_key = self._service.get_user_delegation_key(now - timedelta(minutes=5), until)
            self._delegation_until = until
        return self._delegation_key

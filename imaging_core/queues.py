"""Queue Storage: hints that a study should be looked at.

A lost message is found by the sweep, a doubled one finds nothing to do.
"""

from __future__ import annotations

import json
import threading
import time
from typing import Any

from azure.core.exceptions import AzureError, ResourceExistsError
from azure.storage.queue import QueueClient, QueueServiceClient, TextBase64EncodePolicy

from imaging_core.azure_login import azure_credential
from imaging_core.blobs import storage_transport
from imaging_core.errors import Retryable
from imaging_core.settings import Settings
from imaging_core.telemetry import traceparent

__all__ = ["ANALYSES", "ARCHIVES", "QUEUES", "STUDIES", "Queues"]

STUDIES = "studies"
ANALYSES = "analyses"
ARCHIVES = "archives"
QUEUES = (STUDIES, ANALYSES, ARCHIVES, "studies-poison", "analyses-poison", "archives-poison")

_PAUSE_S = 1
_MARGIN_S = 0.05
_MOST_STUDIES = 1000


class Queues:
    """The account's queues.

    Parameters
    ----------
    service : QueueServiceClient
        The SDK's client.
    """

    def __init__(self, service: QueueServiceClient) -> None:
        self._service = service
        self._clients: dict[str, QueueClient] = {}
        self._lock = threading.Lock()
        self._due: dict[tuple[str, str], float] = {}

    @classmethod
    def from_settings(cls, settings: Settings) -> Queues:
        """Open the account of STORAGE_CONNECTION_STRING, else STORAGE_QUEUE_URL by managed identity."""
        options: dict[str, Any] = {
            "retry_total": 1,
            "retry_connect": 1,
            "initial_backoff": 0.5,
            "increment_base": 2,
            "transport": storage_transport(settings),
        }
        connection = settings.storage_connection_string.get_secret_value()
        if connection:
            return cls(QueueServiceClient.from_connection_string(connection, **options))
        settings.require("storage_account_url")
        url = settings.storage_queue_url or settings.storage_account_url.replace(".blob.", ".queue.")
        return cls(QueueServiceClient(url, credential=azure_credential(), **options))

    def ensure_queues(self) -> None:
        """Make the queues that are missing (local stack and tests; on Azure, Bicep makes them)."""
        for name in QUEUES:
            try:
                self._service.create_queue(name)
            except ResourceExistsError:
                continue
            except AzureError as error:
                raise Retryable("storage-unavailable", type(error).__name__) from error

    def send(self, queue: str, message: dict[str, Any], *, delay_s: int = 0) -> None:
        """Put `message` on the queue, with the current trace; visible after `delay_s` seconds.

        Raises
        ------
        Retryable
            The queue is away; the sweep will send the hint again.
        """
        text = json.dumps({**message, "traceparent": traceparent()})
        try:
            self._client(queue).send_message(text, visibility_timeout=delay_s or None)
        except AzureError as error:
            raise Retryable("storage-unavailable", type(error).__name__) from error

    def hint(self, queue: str, study_uid: str) -> None:
        """Send a hint that a study should be looked at, or rely on one that will be seen after this call.

        The first of a burst is seen at once; of those that follow, one is sent that becomes visible a second later, and
        it stands for all that come before then. So 1,000 instances of a study in 5 s make 6 messages, and each instance
        is committed before a message that is seen after it.

        Raises
        ------
        Retryable
            The queue is away; the sweep will send the hint again.
        """
        key, now = (queue, study_uid), time.monotonic()
        with self._lock:
            due = self._due.get(key, 0.0)
            if due > now + _MARGIN_S:
                return
            delay = _PAUSE_S if now - due < _PAUSE_S else 0
            if len(self._due) > _MOST_STUDIES:
                self._due = {other: when for other, when in self._due.items() if when > now - _PAUSE_S}
            self._due[key] = now + delay
        try:
            self.send(queue, {"study_uid": study_uid}, delay_s=delay)
        except Retryable:
            with self._lock:
                self._due.pop(key, None)
            raise

    def depth(self, queue: str) -> int:
        """Return the approximate number of messages."""
        try:
            return int(self._client(queue).get_queue_properties().approximate_message_count or 0)
        except AzureError as error:
            raise Retryable("storage-unavailable", type(error).__name__) from error

    def _client(self, queue: str) -> QueueClient:
        if queue not in self._clients:
            # The Functions host expects Base64 text by default (host.json, extensions.queues.messageEncoding).
            self._clients[queue] = self._service.get_queue_client(queue, message_encode_policy=TextBase64EncodePolicy())
        return self._clients[queue]

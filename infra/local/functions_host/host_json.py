"""host.json: what this host reads of it, with the defaults of the Functions host 4."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imaging_core.errors import Permanent

__all__ = ["BlobOptions", "HostOptions", "QueueOptions", "duration", "read_host_json"]

_SPAN = re.compile(r"(?:(\d+)\.)?(\d{1,2}):(\d{2}):(\d{2})(\.\d+)?")


@dataclass(frozen=True)
class QueueOptions:
    """``extensions.queues``; times in seconds."""

    max_polling_interval: float = 60.0
    visibility_timeout: float = 0.0
    batch_size: int = 16
    max_dequeue_count: int = 5
    new_batch_threshold: int = 8
    base64: bool = True


@dataclass(frozen=True)
class BlobOptions:
    """``extensions.blobs``."""

    max_degree_of_parallelism: int = 8
    poison_blob_threshold: int = 5


@dataclass(frozen=True)
class HostOptions:
    """The settings of the whole host."""

    route_prefix: str = "api"
    queues: QueueOptions = field(default_factory=QueueOptions)
    blobs: BlobOptions = field(default_factory=BlobOptions)


def duration(value: Any) -> float:
    """Return the seconds of a .NET time span ``[d.]hh:mm:ss[.fff]``; a number is milliseconds, as the host reads it."""
    if isinstance(value, int | float):
        return value / 1000
    match = _SPAN.fullmatch(str(value))
    if match is None:
        raise Permanent("bad-setting", f"host.json: not a time span: {value!r}")
    days, hours, minutes, seconds, fraction = match.groups()
    return int(days or 0) * 86400 + int(hours) * 3600 + int(minutes) * 60 + int(seconds) + float(fraction or 0)


def read_host_json(path: Path) -> HostOptions:
    """Read the file; an absent one means the defaults.

    Raises
    ------
    Permanent
        With code ``bad-setting``: not JSON, not version 2.0, or a value out of range.
    """
    if not path.exists():
        return HostOptions()
    try:
        document = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise Permanent("bad-setting", f"host.json: {error}") from error
    if document.get("version") != "2.0":
        raise Permanent("bad-setting", "host.json: version must be 2.0")
    extensions = document.get("extensions", {})
    return HostOptions(
        route_prefix=str(extensions.get("http", {}).get("routePrefix", "api")).strip("/"),
        queues=_queues(extensions.get("queues", {})),
        blobs=BlobOptions(
            max_degree_of_parallelism=int(extensions.get("blobs", {}).get("maxDegreeOfParallelism", 8)),
            poison_blob_threshold=int(extensions.get("blobs", {}).get("poisonBlobThreshold", 5)),
        ),
    )


def _queues(raw: dict[str, Any]) -> QueueOptions:
    batch_size = int(raw.get("batchSize", 16))
    if not 1 <= batch_size <= 32:
        raise Permanent("bad-setting", "host.json: queues.batchSize must be 1 to 32")
    return QueueOptions(
        max_polling_interval=max(duration(raw.get("maxPollingInterval", "00:01:00")), 0.1),
        visibility_timeout=duration(raw.get("visibilityTimeout", "00:00:00")),
        batch_size=batch_size,
        max_dequeue_count=int(raw.get("maxDequeueCount", 5)),
        new_batch_threshold=int(raw.get("newBatchThreshold", batch_size // 2)),
        base64=str(raw.get("messageEncoding", "base64")).lower() == "base64",
    )

"""Which model answers for which task: a small blob, ``models/active.json``, changed under its ETag.

The blob is the truth, not a projection of it: a running service reads it with the right it has anyway (Blob Storage),
and needs no way into the ledger. Every change carries who, when and why in ``history``, which is only ever appended to,
and two people who change at once do not overwrite each other: the second one is told, and looks again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from imaging_core.blobs import BlobMissing, BlobStore
from imaging_core.errors import Permanent, Retryable

__all__ = ["ACTIVE", "CONTAINER", "Activation", "Change", "Pinned", "TaskModels", "change", "parse_activation", "read"]

CONTAINER = "models"
ACTIVE = "active.json"
_FORMAT = 1
_REFERENCE = re.compile(r"[a-z0-9][a-z0-9-]{0,63}:[0-9A-Za-z][0-9A-Za-z.+-]{0,31}")
_TASK = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Pinned:
    """A model version, held to its files.

    Parameters
    ----------
    reference : str
        ``name:version``.
    manifest_sha256 : str
        Of its manifest when it was activated, so that files exchanged afterwards are refused; empty: a bundle of the
        package or of MODEL_DIR.
    """

    reference: str
    manifest_sha256: str = ""


@dataclass(frozen=True)
class TaskModels:
    """The models of one task.

    Parameters
    ----------
    active : Pinned or None
        Whose results are published; None: nobody's, the task is off.
    shadow : tuple of Pinned
        Whose results are kept beside, and never published.
    """

    active: Pinned | None
    shadow: tuple[Pinned, ...] = ()


@dataclass(frozen=True)
class Change:
    """One entry of the history."""

    at: str
    who: str
    task: str
    active: str
    was: str
    shadow: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Activation:
    """What is activated, and how it came so.

    Parameters
    ----------
    tasks : mapping of str to TaskModels
        A task that is not named follows the default: the newest version in the image that is not for research.
    """

    tasks: Mapping[str, TaskModels] = field(default_factory=dict)
    history: tuple[Change, ...] = ()

    def pinned(self) -> dict[str, Pinned]:
        """Return every model that is active or in shadow, by its reference."""
        found: dict[str, Pinned] = {}
        for models in self.tasks.values():
            for item in (*((models.active,) if models.active else ()), *models.shadow):
                found[item.reference] = item
        return found

    def content(self) -> bytes:
        """Return the blob's content."""
        tasks = {
            task: {
                "active": _written(models.active) if models.active else None,
                "shadow": [_written(item) for item in models.shadow],
            }
            for task, models in sorted(self.tasks.items())
        }
        history = [{**vars(item), "shadow": list(item.shadow)} for item in self.history]
        text = json.dumps({"format": _FORMAT, "tasks": tasks, "history": history}, ensure_ascii=False, indent=1)
        return (text + "\n").encode()


def _written(item: Pinned) -> dict[str, str]:
    return {"model": item.reference, "manifest_sha256": item.manifest_sha256}


def _pinned(value: Mapping[str, Any]) -> Pinned:
    reference, digest = str(value["model"]), str(value.get("manifest_sha256", ""))
    if not _REFERENCE.fullmatch(reference) or (digest and not _SHA256.fullmatch(digest)):
        raise ValueError("not a model reference with the SHA-256 of its manifest")
    return Pinned(reference, digest)


def parse_activation(data: bytes) -> Activation:
    """Parse the blob.

    Raises
    ------
    Permanent
        ``model-unusable``: it is not what `Activation.content` writes.
    """
    try:
        content = json.loads(data)
        if content["format"] != _FORMAT:
            raise ValueError(f"format {content['format']!r}, this version reads {_FORMAT}")
        tasks = {}
        for task, models in content["tasks"].items():
            if not _TASK.fullmatch(task):
                raise ValueError("not a task's name")
            active = models.get("active")
            tasks[task] = TaskModels(
                _pinned(active) if active else None, tuple(_pinned(item) for item in models.get("shadow", []))
            )
        history = tuple(Change(**{**item, "shadow": tuple(item["shadow"])}) for item in content.get("history", []))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Permanent("model-unusable", f"{CONTAINER}/{ACTIVE}: {type(error).__name__}: {error}") from error
    return Activation(tasks, history)


def read(blobs: BlobStore) -> tuple[Activation, str]:
    """Return the activation and its ETag; an empty one, and no ETag, where nothing was ever activated.

    Raises
    ------
    Retryable
        The image store is away.
    Permanent
        ``model-unusable``.
    """
    try:
        data, etag = blobs.get_with_etag(CONTAINER, ACTIVE)
    except BlobMissing:
        return Activation(), ""
    return parse_activation(data), etag


def change(
    blobs: BlobStore, task: str, models: TaskModels, *, who: str, at: str, reason: str, seen: str | None = None
) -> Activation:
    """Activate models for a task.

    Parameters
    ----------
    who, at, reason : str
        Kept in the history.
    seen : str or None
        ETag that the decision rests on; None: whatever is there now.

    Returns
    -------
    Activation
        As it now stands.

    Raises
    ------
    Retryable
        ``precondition-failed``: somebody else changed it in the meantime.
    Permanent
        ``bad-field``: not a task.
    """
    if not _TASK.fullmatch(task):
        raise Permanent("bad-field", "task: lower-case letters, digits and hyphens")
    current, etag = read(blobs)
    if seen is not None and seen != etag:
        raise Retryable("precondition-failed", "the activation has been changed by somebody else: look at it again")
    before = current.tasks.get(task)
    entry = Change(
        at=at,
        who=who,
        task=task,
        active=models.active.reference if models.active else "",
        was=before.active.reference if before and before.active else "",
        shadow=tuple(item.reference for item in models.shadow),
        reason=reason,
    )
    changed = replace(current, tasks={**current.tasks, task: models}, history=(*current.history, entry))
    if not blobs.replace(CONTAINER, ACTIVE, changed.content(), etag=etag, content_type="application/json"):
        raise Retryable("precondition-failed", "the activation has been changed by somebody else: look at it again")
    return changed

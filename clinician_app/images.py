"""Pixels for the viewer: fetched from Blob Storage, decoded in a limited child, kept for a moment in memory.

Nothing here decides who may see an image: the views do, before they call.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from clinician_app.pixel_frames import frame_bytes
from imaging_core.blobs import BlobStore
from imaging_core.dicom.child import DecodePool
from imaging_core.dicom.coerce import Changes
from imaging_core.dicom.served import as_served

__all__ = ["Frame", "ImageSource", "instance_blob"]

T = TypeVar("T")
_MEMORY = 96 * 1024 * 1024


def instance_blob(study_uid: str, series_uid: str, sop_uid: str) -> str:
    """Return the name of an instance in container ``images``; the UIDs are validated ones."""
    return f"{study_uid}/{series_uid}/{sop_uid}.dcm"


@dataclass(frozen=True)
class Frame:
    """Values of one frame and their description (see `clinician_app.pixel_frames`)."""

    description: str
    deflated: bytes


class ImageSource:
    """Rendered and raw frames.

    Parameters
    ----------
    blobs : BlobStore
        Where the instances are.
    decoder : DecodePool
        Where they are decoded.
    memory : int
        Bytes of results that are kept; the same image is asked for twice within a second by every page.
    """

    def __init__(self, blobs: BlobStore, decoder: DecodePool, memory: int = _MEMORY) -> None:
        self._blobs = blobs
        self._decoder = decoder
        self._kept: OrderedDict[tuple[str, ...], tuple[str, bytes]] = OrderedDict()
        self._size = 0
        self._memory = memory
        self._lock = threading.Lock()

    def rendered(self, blob: str, frame: int = 0, max_side: int = 0) -> bytes:
        """Return the frame as a PNG in the header's window, shrunk to `max_side` (0: full size).

        Raises
        ------
        BlobMissing, Rejected, Retryable
        """

        def make() -> tuple[str, bytes]:
            return "", self._decoder.render_png(self._blobs.get("images", blob), frame, None, max_side)

        return self._through((blob, "png", str(frame), str(max_side)), make)[1]

    def frame(self, blob: str, frame: int = 0) -> Frame:
        """Return the frame's values for windowing.

        Raises
        ------
        BlobMissing, Rejected, Retryable
        """

        def make() -> tuple[str, bytes]:
            return self._decoder.run(frame_bytes, self._blobs.get("images", blob), frame)

        return Frame(*self._through((blob, "values", str(frame)), make))

    def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Call a function of a decode child; see `DecodePool.run`."""
        return self._decoder.run(function, *arguments)

    def served(self, blob: str, linked: tuple[Changes, datetime] | None = None) -> bytes:
        """Return the stored file as it leaves the system (D44): no preamble, and the Patient it is linked to.

        Raises
        ------
        BlobMissing, Rejected, Retryable
        """
        data = self._blobs.get("images", blob)
        if linked is None:
            return as_served(data)
        changes, decided_at = linked
        return self._decoder.served(data, changes, "", "COERCE", decided_at)

    def _through(self, key: tuple[str, ...], make: Callable[[], tuple[str, bytes]]) -> tuple[str, bytes]:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = make()
        with self._lock:
            if key not in self._kept and len(made[1]) <= self._memory // 2:
                self._kept[key] = made
                self._size += len(made[1])
                while self._size > self._memory:
                    _, dropped = self._kept.popitem(last=False)
                    self._size -= len(dropped[1])
        return made

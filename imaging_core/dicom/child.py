"""Child processes with a memory limit and a deadline read untrusted bytes, and may die without hurting the service.

A deflated bomb takes gigabytes in the parser, an RLE one aborts the process: neither is the service's end, and the
sender gets a typed answer (D45). pebble keeps the children, kills the late and replaces the dead.
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import resource
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeout
from concurrent.futures.process import BrokenProcessPool
from datetime import datetime
from types import TracebackType
from typing import TypeVar

from pebble import ProcessExpired, ProcessPool

from imaging_core.dicom.archival import ArchiveSyntax, Rendition, archival_rendition
from imaging_core.dicom.coerce import Changes, Reason
from imaging_core.dicom.deidentify import Options, deidentify
from imaging_core.dicom.header import DicomHeader, HeaderLimits, complete, read_header, read_opening
from imaging_core.dicom.pixels import DecodedImage, Window, decode, render_png
from imaging_core.dicom.pseudonym import Pseudonyms
from imaging_core.dicom.served import as_served_coerced
from imaging_core.errors import Rejected, Retryable
from imaging_core.settings import Settings

__all__ = ["DecodePool"]

T = TypeVar("T")
# What a child is given of an instance whose header is asked for: in all but a few the pixels begin before that.
_OPENING = 64 * 1024
_PRELOAD = [
    "imaging_core.dicom.child",
    "imaging_core.dicom.header",
    "imaging_core.dicom.pixels",
    "pydicom.pixels",
    "PIL.PngImagePlugin",
]
# Decoders of native code keep to one thread in a child: the pool is the parallelism, and each thread's stack counts as
# memory.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def _begin(extra: int, nice: int) -> None:
    """Let this child grow by `extra` bytes of address space beyond its code (Linux; elsewhere not bounded)."""
    gc.freeze()  # what was imported before the fork stays shared: a collection writes to all that it looks at
    os.environ.update(_ONE_THREAD)
    warnings.simplefilter("ignore")  # pydicom's repeat values of the file, and nothing of a patient is logged (D43)
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    if nice:
        os.nice(nice)
    try:
        with open("/proc/self/statm") as file:
            own = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (own + extra, own + extra))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class DecodePool:
    """Children that read DICOM.

    Parameters
    ----------
    workers : int
        Children at once.
    memory_bytes : int
        What a child may take above its own code.
    seconds : float
        What one call may take.
    limits : HeaderLimits
        Bounds that `header` checks.
    nice : int
        By how much the children stand back for other processes (nice(2)).
    """

    def __init__(
        self,
        workers: int = 2,
        memory_bytes: int = 1536 * 1024 * 1024,
        seconds: float = 30.0,
        limits: HeaderLimits | None = None,
        nice: int = 0,
    ) -> None:
        self._workers = workers
        self._seconds = seconds
        self._limits = limits or HeaderLimits()
        self._memory = memory_bytes
        self._nice = nice
        self._lock = threading.Lock()
        self._closed = False
        self._pool = self._open()

    def _open(self) -> ProcessPool:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOAD)
        return ProcessPool(
            max_workers=self._workers, initializer=_begin, initargs=(self._memory, self._nice), context=context
        )

    @classmethod
    def from_settings(cls, settings: Settings, *, nice: int = 0) -> DecodePool:
        """Open a pool with the limits of the settings."""
        return cls(
            settings.decode_workers,
            settings.decode_memory_bytes,
            settings.decode_seconds,
            HeaderLimits(
                settings.max_elements, settings.max_nesting, settings.max_inflated_bytes, settings.max_samples
            ),
            nice,
        )

    def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Call a module-level function in a child.

        Raises
        ------
        Rejected
            What the function raised, or ``decode-timeout``, ``decode-memory``, ``decode-crashed``.
        Retryable
            The pool is closed.
        """
        for _ in range(2):
            pool = self._pool
            try:
                return self._call(pool, function, arguments)
            except BrokenProcessPool as error:
                if self._closed:
                    raise Retryable("service-unavailable", "the decode children are stopped") from error
                with self._lock:  # pebble gives a pool up for good; the service does not
                    if self._pool is pool:
                        self._pool = self._open()
        raise Retryable("service-unavailable", "the decode children can't be started")

    def _call(self, pool: ProcessPool, function: Callable[..., T], arguments: tuple[object, ...]) -> T:
        try:
            with self._lock:
                future = pool.schedule(function, args=arguments, timeout=self._seconds)
        except RuntimeError as error:  # the pool is closed, or pebble has given it up
            raise BrokenProcessPool("closed") from error
        try:
            result: T = future.result()
        except FutureTimeout as error:
            raise Rejected("decode-timeout", f"longer than DECODE_SECONDS = {self._seconds:g}") from error
        except MemoryError as error:
            raise Rejected("decode-memory", f"more than DECODE_MEMORY_BYTES = {self._memory}") from error
        except ProcessExpired as error:
            raise Rejected("decode-crashed", f"the decoder stopped with code {error.exitcode}") from error
        return result

    def header(self, data: bytes) -> DicomHeader:
        """Read the header: see `imaging_core.dicom.header.read_header`.

        The child parses the file's beginning; its pixels are hashed here, without a way to the child and back.
        """
        opening = self.run(read_opening, data[:_OPENING], len(data), self._limits)
        if opening is None:
            return self.run(read_header, data, self._limits)
        return complete(opening, data, self._limits)

    def decode(self, data: bytes, frame: int = 0) -> DecodedImage:
        """Decode one frame: see `imaging_core.dicom.pixels.decode`."""
        return self.run(decode, data, frame)

    def render_png(self, data: bytes, frame: int = 0, window: Window | None = None, max_side: int = 0) -> bytes:
        """Render one frame: see `imaging_core.dicom.pixels.render_png`."""
        return self.run(render_png, data, frame, window, max_side)

    def archival_rendition(self, data: bytes, syntax: ArchiveSyntax) -> Rendition:
        """Compress without loss: see `imaging_core.dicom.archival.archival_rendition`."""
        return self.run(archival_rendition, data, syntax)

    def served(self, data: bytes, changes: Changes, source: str, reason: Reason, at: datetime) -> bytes:
        """Write other attributes for serving: see `imaging_core.dicom.served.as_served_coerced`."""
        return self.run(as_served_coerced, data, changes, source, reason, at)

    def deidentify(self, data: bytes, pseudonyms: Pseudonyms, options: Options | None = None) -> bytes:
        """Write a copy that names nobody: see `imaging_core.dicom.deidentify.deidentify`."""
        return self.run(deidentify, data, pseudonyms, options)

    def warm_up(self) -> None:
        """Start the children now rather than at the first request."""
        self.run(os.getpid)

    def close(self) -> None:
        """Stop the children."""
        self._closed = True
        self._pool.stop()  # type: ignore[no-untyped-call]  # pebble leaves it untyped
        self._pool.join(timeout=5)

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

"""How gunicorn serves the models: one process with threads, for the networks run outside the interpreter lock."""

from __future__ import annotations

import ctypes
import math
import signal
from types import FrameType
from typing import Any

from imaging_core.settings import load_settings

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # malloc.h
_settings = load_settings()

bind = "127.0.0.1:8501"
# more processes would hold the networks as often, and the queue's bounds would be counted apart
workers = 1
worker_class = "gthread"
# a thread for all that may run or wait, and some for health, metrics and refusals
threads = _settings.ai_concurrency + _settings.ai_queue + 4
# a request gives up at AI_REQUEST_SECONDS between two steps; publishing is carried to its end
timeout = math.ceil(_settings.ai_request_seconds) + 40
graceful_timeout = math.ceil(_settings.ai_request_seconds)
keepalive = 15
# the models load in the worker, in the background: /readyz says when
preload_app = False
accesslog = None
errorlog = "-"
loglevel = "warning"
# a worker's heartbeat file must not lie on a disk that may be read-only
worker_tmp_dir = "/dev/shm"  # noqa: S108 shared memory, made for this


def _give_memory_back() -> None:
    """Let large buffers go back to the system when they are freed (glibc): each thread would keep its own for ever."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 20)
        mallopt(_M_ARENA_MAX, 2)


def post_fork(_: Any, __: Any) -> None:
    """Prepare the worker before anything is loaded."""
    _give_memory_back()


def post_worker_init(worker: Any) -> None:
    """On SIGTERM send away what waits in the queue, before gunicorn waits for what runs."""
    end = signal.getsignal(signal.SIGTERM)
    parts = worker.app.callable.extensions["imaging_parts"]

    def stop(number: int, frame: FrameType | None) -> None:
        # not in the handler: the lock that it needs may be held by the very thread that was interrupted
        import threading

        threading.Thread(target=parts.stop_admitting, daemon=True).start()
        if callable(end):
            end(number, frame)

    signal.signal(signal.SIGTERM, stop)


def worker_exit(_: Any, worker: Any) -> None:
    """Save what is counted and end the children once everything has been answered."""
    app = getattr(worker.app, "callable", None)
    if app is not None:
        app.extensions["imaging_parts"].close()

"""How gunicorn serves the models: one process with threads, for the networks run outside the interpreter lock."""

from __future__ import annotations

bind = "127.0.0.1:8501"
workers = 1
worker_class = "gthread"
threads = 8
# one analysis may wait for a slow FHIR service
timeout = 150
graceful_timeout = 30
keepalive = 15
# the models load in the worker, in the background: /readyz says when
preload_app = False
accesslog = None
errorlog = "-"
loglevel = "warning"
# a worker's heartbeat file must not lie on a disk that may be read-only
worker_tmp_dir = "/dev/shm"  # noqa: S108 shared memory, made for this

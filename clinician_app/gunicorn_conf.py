"""gunicorn's configuration; address and certificate come from its command line.

Threads wait for FHIR, blobs and decode children; two processes use two cores. The app is not preloaded: database pool
and decode children belong to the process that uses them. gunicorn's own access log stays off, for its line holds paths;
the app logs each request by its route (`clinician_app.request_log`).
"""

from __future__ import annotations

worker_class = "gthread"
workers = 2
threads = 8
preload_app = False
timeout = 60
graceful_timeout = 20
keepalive = 15
max_requests = 20_000
max_requests_jitter = 2_000
accesslog = None
errorlog = "-"
loglevel = "warning"
limit_request_line = 8190
limit_request_fields = 60
forwarded_allow_ips = "127.0.0.1"

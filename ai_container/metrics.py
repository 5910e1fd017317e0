"""Prometheus metrics of the service; labels hold no patient and no study."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

__all__ = [
    "ANALYSED_IMAGES",
    "BATCH_SIZE",
    "BYTES_IN_WORK",
    "DRIFT",
    "DRIFT_IMAGES",
    "FINDINGS",
    "GATE_REFUSALS",
    "MODEL_INFO",
    "MODEL_LOAD_FAILURES",
    "MODEL_READY",
    "MODEL_SECONDS",
    "OUT_OF_DISTRIBUTION",
    "POSE_CORRECTIONS",
    "PROBABILITY",
    "QUEUE_REFUSED",
    "REQUESTS",
    "RUNNING",
    "SHADOW_RUNS",
    "STEP_SECONDS",
    "WAITING",
    "WAIT_SECONDS",
]

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)

REQUESTS = Counter("ai_requests_total", "Requests by path and status", ["path", "status"])
ANALYSED_IMAGES = Counter("ai_images_total", "Images by outcome: analysed, or the reason why not", ["outcome"])
FINDINGS = Counter("ai_findings_total", "Study findings by model, finding and state", ["model", "finding", "state"])
PROBABILITY = Histogram(
    "ai_probability", "Calibrated probability of a study", ["model", "finding"], buckets=[i / 20 for i in range(1, 21)]
)
STEP_SECONDS = Histogram("ai_step_seconds", "Time by step of a request", ["step"], buckets=_SECONDS)
MODEL_SECONDS = Histogram(
    "ai_model_seconds", "Time of one image in a model, by stage: gate, network", ["model", "stage"], buckets=_SECONDS
)
GATE_REFUSALS = Counter("ai_gate_refusals_total", "Images that a model's gate refused, by reason", ["model", "reason"])
# Both are counters, so that the rate over any window is rate(refused) / rate(all).
OUT_OF_DISTRIBUTION = Counter(
    "ai_out_of_distribution_total", "Images that the pixel gate judged, by model and verdict", ["model", "verdict"]
)
POSE_CORRECTIONS = Counter("ai_pose_corrections_total", "Images turned upright or inverted back", ["model", "pose"])
BATCH_SIZE = Histogram("ai_batch_size", "Images that ran through a network together", buckets=(1, 2, 4, 8, 16, 32))
WAITING = Gauge("ai_queue_waiting", "Requests that wait for a place")
RUNNING = Gauge("ai_queue_running", "Requests that run")
QUEUE_REFUSED = Counter("ai_queue_refused_total", "Requests sent away because the queue was full")
WAIT_SECONDS = Histogram("ai_queue_wait_seconds", "Time that a request waited for a place", buckets=_SECONDS)
BYTES_IN_WORK = Gauge("ai_bytes_in_work", "Bytes of instances that are held")
MODEL_READY = Gauge("ai_model_ready", "1 once every model is loaded and has run once")
MODEL_INFO = Gauge("ai_model_info", "Loaded models by role: active, shadow, loaded", ["model", "task", "role"])
MODEL_LOAD_FAILURES = Counter("ai_model_load_failures_total", "Models that could not be loaded, by code", ["code"])
SHADOW_RUNS = Counter("ai_shadow_runs_total", "Studies seen by a shadow model, by outcome", ["model", "outcome"])
DRIFT = Gauge("ai_drift_psi", "Population stability index against the training reference", ["model", "what"])
DRIFT_IMAGES = Gauge("ai_drift_images", "Images in the window that drift is computed on", ["model"])

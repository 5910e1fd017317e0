"""Prometheus metrics of the service; labels hold no patient and no study."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

__all__ = ["ANALYSED_IMAGES", "FINDINGS", "MODEL_READY", "PROBABILITY", "REQUESTS", "STEP_SECONDS"]

REQUESTS = Counter("ai_requests_total", "Requests by path and status", ["path", "status"])
ANALYSED_IMAGES = Counter("ai_images_total", "Images by outcome: analysed, or the gate's reason", ["outcome"])
FINDINGS = Counter("ai_findings_total", "Study findings by model, finding and state", ["model", "finding", "state"])
PROBABILITY = Histogram(
    "ai_probability", "Calibrated probability of a study", ["model", "finding"], buckets=[i / 20 for i in range(1, 21)]
)
STEP_SECONDS = Histogram(
    "ai_step_seconds",
    "Time by step of a request",
    ["step"],
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
)
MODEL_READY = Gauge("ai_model_ready", "1 once every model is loaded and has run once")

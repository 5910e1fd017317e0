"""One trace from the upload to the report: JSON logs by structlog, spans and metrics by OpenTelemetry.

A log line carries the trace id, the step and a study's *hashed* UID; never a name, number, birth date, accession or
pixel. `configure` is called once at each entry point; everything else uses the OpenTelemetry API, which does nothing
until then.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import structlog
from opentelemetry import propagate, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from imaging_core.settings import Settings

__all__ = ["configure", "continue_trace", "get_logger", "hashed_uid", "step", "trace_id", "traceparent"]

_OURS = (
    "imaging",
    "imaging_core",
    "fhir_adapter",
    "smart_launch",
    "ai_container",
    "ingestion_functions",
    "clinician_app",
    "batch",
    "infra",
)
# Their warnings repeat values of the file.
_TELL_TALES = ("pydicom", "highdicom", "pynetdicom")


def hashed_uid(uid: str) -> str:
    """Return what a log may say of a study: 16 hexadecimal digits of the UID's SHA-256."""
    return hashlib.sha256(uid.encode()).hexdigest()[:16]


def _add_trace(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = format(context.trace_id, "032x")
        event["span_id"] = format(context.span_id, "016x")
    return event


def configure(service: str, settings: Settings) -> None:
    """Set up logs and traces of one process.

    Parameters
    ----------
    service : str
        Name of the part: ``ingestion``, ``ai``, ``app`` ...
    settings : Settings
        ``log_level`` and ``otel_exporter_otlp_endpoint`` are read. Libraries that log URLs are held at WARNING, for
        a URL may hold what a log must not.
    """

    def add_service(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("service", service)  # not by context variables: the worker's threads do not inherit them
        return event

    shared: list[structlog.typing.Processor] = [
        add_service,
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_trace,
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # libraries tell what they work on, patients' data included: of them only what went wrong (D43)
    root.setLevel(logging.WARNING)
    for name in _OURS:
        logging.getLogger(name).setLevel(settings.log_level)
    for name in _TELL_TALES:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if isinstance(trace.get_tracer_provider(), TracerProvider):
        return  # the Functions host has set one for this process
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    if settings.otel_exporter_otlp_endpoint:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter(endpoint=f"{settings.otel_exporter_otlp_endpoint.rstrip('/')}/v1/traces")
        provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def get_logger(name: str = "imaging") -> structlog.stdlib.BoundLogger:
    """Return a logger whose lines are JSON objects."""
    return structlog.stdlib.get_logger(name)


def traceparent() -> str:
    """Return the current W3C ``traceparent``, to travel in messages and headers; empty outside a trace."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier.get("traceparent", "")


def trace_id() -> str:
    """Return the current trace id, 32 hexadecimal digits; empty outside a trace.

    It is the reference number that a person is told.
    """
    context = trace.get_current_span().get_span_context()
    return format(context.trace_id, "032x") if context.is_valid else ""


@contextmanager
def continue_trace(parent: str | None, name: str, **attributes: str | int) -> Iterator[trace.Span]:
    """Open span `name` under the W3C ``traceparent`` that came with a request or message (a new trace without one)."""
    context = propagate.extract({"traceparent": parent}) if parent else None
    with trace.get_tracer("imaging").start_as_current_span(name, context=context, attributes=attributes) as span:
        yield span


@contextmanager
def step(name: str, **attributes: str | int) -> Iterator[trace.Span]:
    """Open span `name` below the current one."""
    with trace.get_tracer("imaging").start_as_current_span(name, attributes=attributes) as span:
        yield span

"""OpenTelemetry traces: one span of the gateway for each request, below it one of each executor.

Off unless CLIPTUNE_TRACES is the address of a collector (OTLP over gRPC). Jina can trace too, but
records every reflection call while a Flow starts, and is switched on by arguments of each process;
so a trace's context travels as a parameter, like the request's id.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from multiprocessing.util import Finalize

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from cliptune.settings import Settings

HEADER = "traceparent"
"""The HTTP header and the gRPC metadata (W3C Trace Context)."""
PARAMETER = "_traceparent"
EXPORT_TIMEOUT = 5
"""Seconds that a collector has to take spans; those it does not take are lost."""

_format = TraceContextTextMapPropagator()
_tracer: trace.Tracer = trace.NoOpTracer()


def setup(service: str, settings: Settings) -> None:
    """Send this process's spans to the collector that the settings name, if they name one.

    To be called in the process itself: the thread that sends does not survive a fork.
    """
    global _tracer
    if settings.traces is None:
        return
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource({SERVICE_NAME: f"cliptune-{service}"}))
    exporter = OTLPSpanExporter(endpoint=settings.traces, timeout=EXPORT_TIMEOUT)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    # Jina's processes end without atexit.
    Finalize(None, provider.shutdown, exitpriority=10)
    _tracer = provider.get_tracer("cliptune")


@contextmanager
def span(name: str, parent: str | None, **attributes: AttributeValue) -> Iterator[Span]:
    """A span for the block, below the one whose `traceparent` is `parent`.

    What the block raises is named in it.
    """
    context = _format.extract({HEADER: parent}) if parent else None
    with _tracer.start_as_current_span(
        name, context, SpanKind.SERVER, attributes=attributes, record_exception=False
    ) as current:
        yield current


def stage(name: str, seconds: float) -> None:
    """A span of the last `seconds`, below this thread's."""
    end = time.time_ns()
    _tracer.start_span(name, start_time=end - int(seconds * 1e9)).end(end)


def note_status(current: Span, status: str) -> None:
    """Note an HTTP status or the name of a gRPC one; other than success is a failure."""
    current.set_attribute("status", status)
    if status != "OK" and status[:1] not in ("2", "3"):
        current.set_status(Status(StatusCode.ERROR, status))


def send_along(parameters: MutableMapping[str, object]) -> None:
    """Add the current span to `parameters`, if spans are sent anywhere."""
    carrier: dict[str, str] = {}
    _format.inject(carrier)
    if HEADER in carrier:
        parameters[PARAMETER] = carrier[HEADER]


def parent_of(given: Mapping[str, object]) -> str | None:
    """The `traceparent` in a request's parameters."""
    parent = given.get(PARAMETER)
    return parent if isinstance(parent, str) else None

"""Prometheus metrics of a Flow; `docs/monitoring.md` lists them.

A Flow on one machine is several processes. `flow_process` gives them a folder to share
(prometheus_client's multiprocess mode), and the gateway's `/metrics` has the figures of all.
Where each process runs by itself, as on Kubernetes, each offers its own: see `serve_metrics`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    start_http_server,
)
from prometheus_client.multiprocess import MultiProcessCollector

from cliptune.settings import METRICS_FOLDER, Settings

if TYPE_CHECKING:  # importing it imports torch, which must not happen before Jina's fork
    from cliptune.inference.instrumentation import Figure, Observe

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

REQUESTS = Counter(
    "cliptune_requests",
    "Requests answered, by protocol, endpoint and status.",
    ["protocol", "endpoint", "status"],
)
REQUEST_SECONDS = Histogram(
    "cliptune_request_seconds",
    "From a request's arrival at the gateway to its answer.",
    ["protocol", "endpoint"],
    buckets=_SECONDS,
)
IN_PROGRESS = Gauge(
    "cliptune_requests_in_progress",
    "Requests that are being answered.",
    ["protocol"],
    multiprocess_mode="livesum",
)
EXECUTOR_SECONDS = Histogram(
    "cliptune_executor_seconds",
    "What one executor takes for its part of a request.",
    ["executor", "endpoint"],
    buckets=_SECONDS,
)
EXECUTOR_ERRORS = Counter(
    "cliptune_executor_errors",
    "Requests that an executor refused or failed at.",
    ["executor", "endpoint"],
)
STAGE_SECONDS = Histogram(
    "cliptune_stage_seconds",
    "What a request spends in a stage: preprocess, queue, inference; or in the index.",
    ["executor", "stage"],
    buckets=_SECONDS,
)
BATCH_ROWS = Histogram(
    "cliptune_batch_rows",
    "Texts or pictures that went through a tower together.",
    ["executor"],
    buckets=_ROWS,
)
ENGINE_BUSY = Counter(
    "cliptune_engine_busy_seconds", "Seconds that a tower's engine was at work.", ["executor"]
)
WAITING_ROWS = Gauge(
    "cliptune_waiting_rows",
    "Texts or pictures that wait for a tower's engine.",
    ["executor"],
    multiprocess_mode="livesum",
)
CACHE_LOOKUPS = Counter(
    "cliptune_query_cache_lookups", "Texts looked up in the cache of embeddings.", ["result"]
)
TRUNCATED = Counter(
    "cliptune_truncated_texts", "Texts that were longer than the model's context and were cut."
)
RECORDED = Counter(
    "cliptune_recorded_searches",
    "Searches and feedback to be recorded, by what became of them: written, dropped, failed.",
    ["result"],
)
INDEX_ROWS = Gauge("cliptune_index_rows", "Documents in the index.", multiprocess_mode="mostrecent")


def tower_observer(executor: str) -> Observe:
    """What a tower of `executor` is given to tell its figures to."""
    stages = {
        "preprocess_seconds": STAGE_SECONDS.labels(executor, "preprocess"),
        "queue_seconds": STAGE_SECONDS.labels(executor, "queue"),
        "inference_seconds": STAGE_SECONDS.labels(executor, "inference"),
        "batch_rows": BATCH_ROWS.labels(executor),
    }
    counters = {
        "batch_seconds": ENGINE_BUSY.labels(executor),
        "cache_hits": CACHE_LOOKUPS.labels("hit"),
        "cache_misses": CACHE_LOOKUPS.labels("miss"),
        "truncated_texts": TRUNCATED,
    }
    waiting = WAITING_ROWS.labels(executor)

    def observe(figure: Figure, value: float) -> None:
        if figure in stages:
            stages[figure].observe(value)
        elif figure in counters:
            counters[figure].inc(value)
        elif figure == "waiting_rows":
            waiting.set(value)

    return observe


def exposition() -> tuple[bytes, str]:
    """The figures of this process, or of all that share the folder, and their media type."""
    return generate_latest(_registry()), CONTENT_TYPE_LATEST


def is_shared() -> bool:
    """Whether the gateway of this machine offers this process's figures too."""
    return bool(os.environ.get(METRICS_FOLDER))


def serve_metrics(host: str, settings: Settings) -> None:
    """Offer this process's figures on a port of their own, if the settings name one.

    Raises:
        OSError: the port is taken.
    """
    if settings.metrics_port is not None:
        start_http_server(settings.metrics_port, host, registry=_registry())


def _registry() -> CollectorRegistry:
    if not is_shared():
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry

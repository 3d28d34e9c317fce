"""What a tower tells of its work, to whoever serves it. The library itself keeps no figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

Figure = Literal[
    "preprocess_seconds",
    "queue_seconds",
    "inference_seconds",
    "batch_rows",
    "batch_seconds",
    "waiting_rows",
    "cache_hits",
    "cache_misses",
    "truncated_texts",
]
"""Seconds that one request spent being prepared, waiting for the engine and in it; rows and
seconds of one batch of the engine; rows that wait now; numbers of texts."""

Observe = Callable[[Figure, float], None]
"""Called with each figure as it comes up, by many threads; must be quick and must not raise.

A request's own figures come from the thread that asks for its embeddings.
"""


def unobserved(figure: Figure, value: float) -> None:
    """Keep nothing."""


@contextmanager
def timed(observe: Observe, figure: Figure) -> Iterator[None]:
    """Tell how long the block took, unless it fails."""
    start = time.perf_counter()
    yield
    observe(figure, time.perf_counter() - start)

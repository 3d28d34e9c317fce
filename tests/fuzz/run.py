"""All kinds of requests at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

from tests.fuzz import over_grpc, over_http
from tests.fuzz.outcomes import EnoughError, Outcomes


def fuzz(
    grpc_address: str, http_address: str, count: int, seed: int, outcomes: Outcomes | None = None
) -> Outcomes:
    """About `count` requests: three tenths by our OpenAPI, two mutated ones, half over gRPC."""
    outcomes = outcomes or Outcomes()
    parts: list[Callable[[], None]] = [
        partial(over_http.by_schema, http_address, outcomes, count * 3 // 10, seed),
        partial(over_http.mutated, http_address, outcomes, count // 10, seed),
        partial(over_http.mutated, http_address, outcomes, count // 10, seed + 1000),
        partial(over_grpc.fuzz, grpc_address, outcomes, count // 4, seed),
        partial(over_grpc.fuzz, grpc_address, outcomes, count // 4, seed + 1000),
    ]
    with ThreadPoolExecutor(len(parts)) as pool:
        for begun in [pool.submit(part) for part in parts]:
            with suppress(EnoughError):
                begun.result()
    return outcomes

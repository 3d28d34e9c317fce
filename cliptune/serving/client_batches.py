"""How a client sends many batches: several at once, again where that is safe, with callbacks."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from docarray import DocList
from numpy.typing import NDArray

from cliptune.documents import ClipDoc
from cliptune.errors import BadInput, CliptuneError, Overloaded, Unavailable

R = TypeVar("R")
T = TypeVar("T")
Callback = Callable[[DocList[ClipDoc]], Any]
OnError = Callable[[CliptuneError, DocList[ClipDoc]], Any]
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
"""Seconds before a call is repeated: doubled each time, and spread by chance."""


@dataclass(frozen=True)
class Sending:
    """How the batches of one call are sent."""

    batch_size: int = 64
    """Documents of a request, at most."""
    prefetch: int = 4
    """Requests on their way at once."""
    show_progress: bool = False
    """Whether to draw a progress bar."""
    parameters: dict[str, Any] | None = None
    """Parameters of the endpoint."""
    on_done: Callback | None = None
    """Called with each batch's documents that came back; they aren't kept then."""
    on_error: OnError | None = None
    """Called with each failed batch's error and documents; the others go on then."""
    on_always: Callback | None = None
    """Called with each batch's documents, whatever became of them."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 1 <= self.prefetch <= 100:
            raise BadInput(f"prefetch is {self.prefetch}: expected 1 to 100")


def run_batches(
    batches: Iterator[tuple[list[ClipDoc], list[Any]]],
    send: Callable[[list[Any]], R],
    options: Sending,
) -> Iterator[tuple[list[ClipDoc], R | None]]:
    """Send the batches; yields each one's documents and its answer, in their order.

    A failed batch raises, or with `on_error` has the answer None. At most `prefetch` batches are
    read ahead, so a generator of any length is fine.
    """
    waiting: deque[tuple[list[ClipDoc], Future[R]]] = deque()
    with ThreadPoolExecutor(options.prefetch, thread_name_prefix="cliptune-client") as pool:
        try:
            for given, sent in batches:
                waiting.append((given, pool.submit(send, sent)))
                if len(waiting) >= options.prefetch:
                    yield _taken(*waiting.popleft(), options)
            while waiting:
                yield _taken(*waiting.popleft(), options)
        finally:
            for _, future in waiting:
                future.cancel()


def _taken(
    given: list[ClipDoc], future: Future[Any], options: Sending
) -> tuple[list[ClipDoc], Any]:
    try:
        return given, future.result()
    except CliptuneError as error:
        if options.on_error is None:
            raise
        options.on_error(error, DocList[ClipDoc](given))
        return given, None
    finally:
        if options.on_always is not None:
            options.on_always(DocList[ClipDoc](given))


def repeated(call: Callable[[], R], retries: int, timeout: float) -> R:
    """`call`, up to `retries` times more if the server can't be reached or has too much to do.

    A call that took `timeout` seconds already isn't repeated. The pauses between are exponential
    with full jitter.
    """
    for attempt in range(retries + 1):
        began = time.monotonic()
        try:
            return call()
        except (Unavailable, Overloaded) as error:
            if attempt == retries or time.monotonic() - began >= timeout:
                raise
            longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt)
            least = min(LONGEST_PAUSE, getattr(error, "retry_after", 0.0) or 0.0)
            time.sleep(least + random.uniform(longest / 2, longest))
    raise AssertionError  # the loop returns or raises


def rows_of(docs: list[ClipDoc]) -> NDArray[np.float32]:
    """The embeddings [N, D]; NaN where there is none."""
    dim = next((len(doc.embedding) for doc in docs if doc.embedding is not None), 0)
    missing = np.full(dim, np.nan, np.float32)
    rows = [missing if doc.embedding is None else np.asarray(doc.embedding) for doc in docs]
    return np.stack(rows).astype(np.float32, copy=False) if rows else np.empty((0, 0), np.float32)


def from_async(data: AsyncIterable[T], loop: asyncio.AbstractEventLoop) -> Iterator[T]:
    """The items of an asynchronous iterable, for a thread other than its loop's."""
    iterator = aiter(data)

    async def following() -> tuple[T | None, bool]:
        try:
            return await anext(iterator), True
        except StopAsyncIteration:
            return None, False

    while True:
        item, there = asyncio.run_coroutine_threadsafe(following(), loop).result()
        if not there:
            return
        yield item  # type: ignore[misc]


def progress(docs: Iterator[T], total: int | None, endpoint: str, show: bool) -> Iterator[T]:
    """The items, with a progress bar if `show`."""
    if not show:
        return docs
    from rich.progress import track

    return iter(track(docs, endpoint.strip("/"), total=total))

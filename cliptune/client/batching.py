"""How a client sends many batches: several at once, again where that is safe, with callbacks."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from docarray import DocList
from numpy.typing import NDArray

from cliptune.client.inputs import Item
from cliptune.documents import ClipDoc
from cliptune.errors import BadFilter, BadInput, CliptuneError, Overloaded, Unavailable
from cliptune.protocol.limits import name

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
    """Called with what failed: an error and its documents; the others go on then.

    For an item that is at fault, that is the one document and `error.position`, its place among
    what was given. Where the server can't be reached, or refuses for another reason, it is a whole
    batch.
    """
    on_always: Callback | None = None
    """Called with each batch's documents, whatever became of them."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 1 <= self.prefetch <= 100:
            raise BadInput(f"prefetch is {self.prefetch}: expected 1 to 100")


@dataclass
class Answered:
    """What came of one batch."""

    items: list[Item]
    found: dict[int, Any]
    """The answers, by the items' positions."""
    failed: list[tuple[CliptuneError, list[Item]]]
    """The errors, and whose they are."""


def run_batches(
    batches: Iterator[list[Item]], send: Callable[[list[Any]], Sequence[Any]], options: Sending
) -> Iterator[Answered]:
    """Send the batches; yields what came of each, in their order.

    A failure raises, or with `on_error` is told of there: a bad item doesn't cost the others of its
    batch. At most `prefetch` batches are read ahead, so a generator of any length is fine.

    Args:
        batches: see `client_items.batches`.
        send: sends documents; gives as many answers, in their order.
        options: of the call.
    """
    waiting: deque[tuple[list[Item], Future[Answered]]] = deque()
    answer = partial(_answered, send=send, keep_errors=options.on_error is not None)
    with ThreadPoolExecutor(options.prefetch, thread_name_prefix="cliptune-client") as pool:
        try:
            for batch in batches:
                waiting.append((batch, pool.submit(answer, batch)))
                if len(waiting) >= options.prefetch:
                    yield _taken(*waiting.popleft(), options)
            while waiting:
                yield _taken(*waiting.popleft(), options)
        finally:
            for _, future in waiting:
                future.cancel()


def _taken(items: list[Item], future: Future[Answered], options: Sending) -> Answered:
    try:
        answered = future.result()
        for error, failed in answered.failed:
            assert options.on_error is not None  # noqa: S101
            options.on_error(error, DocList[ClipDoc]([item.doc for item in failed]))
        return answered
    finally:
        if options.on_always is not None:
            options.on_always(DocList[ClipDoc]([item.doc for item in items]))


def _answered(
    items: list[Item], send: Callable[[list[Any]], Sequence[Any]], keep_errors: bool
) -> Answered:
    done = Answered(items, {}, [(item.error, [item]) for item in items if item.error])
    _send(done, [item for item in items if not item.error], send, keep_errors)
    done.failed.sort(key=lambda failure: failure[1][0].position)
    return done


def _send(
    done: Answered, items: list[Item], send: Callable[[list[Any]], Sequence[Any]], keep_errors: bool
) -> None:
    """Send `items`; with `keep_errors`, where some are refused, the others without them."""
    if not items:
        return
    try:
        found = send([item.sent for item in items])
        done.found |= {item.position: one for item, one in zip(items, found, strict=True)}
    except CliptuneError as error:
        at = _at_fault(error, items)
        if at is not None:
            # The server knows its place in the request; the user knows that among the items.
            own, item = name(at, items[at].sent), items[at]
            error.args = (str(error).replace(own, name(item.position, item.doc), 1),)
            error.position = item.position
        if not keep_errors:
            raise
        if at is not None:
            done.failed.append((error, [items[at]]))
            _send(done, items[:at] + items[at + 1 :], send, keep_errors)
        elif isinstance(error, BadInput) and not isinstance(error, BadFilter):
            middle = len(items) // 2
            _send(done, items[:middle], send, keep_errors)
            _send(done, items[middle:], send, keep_errors)
        else:
            done.failed.append((error, items))


def _at_fault(error: CliptuneError, items: list[Item]) -> int | None:
    """Which of `items` an error of their request is about; None: of all of them, or unknown."""
    if not isinstance(error, BadInput) or isinstance(error, BadFilter):
        return None
    for at, item in enumerate(items):
        if str(error).startswith(name(at, item.sent)):
            return at
    return 0 if len(items) == 1 else None


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

"""What clients stream: worked on several at once, answered in order, and ended with the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from starlette.websockets import WebSocketDisconnect

from cliptune.errors import Unavailable
from cliptune.gateway.access.admission import Admission

T = TypeVar("T")
R = TypeVar("R")


async def map_ordered(
    items: AsyncIterator[T], work: Callable[[T], Awaitable[R]], window: int
) -> AsyncIterator[R]:
    """`work` of each item, in order; at most `window` are under way or wait to be taken.

    The next item is not asked for while the window is full, so that whoever sends them has to
    wait. What `items` or `work` raises is raised in its place.
    """
    results: asyncio.Queue[asyncio.Task[R] | None] = asyncio.Queue()
    slots = asyncio.Semaphore(window)
    tasks: set[asyncio.Task[R]] = set()

    async def read() -> None:
        try:
            await slots.acquire()
            async for item in items:
                task: asyncio.Task[R] = asyncio.ensure_future(_done(work, item))
                tasks.add(task)
                results.put_nowait(task)
                await slots.acquire()
        finally:
            results.put_nowait(None)

    reader = asyncio.create_task(read())
    try:
        while (task := await results.get()) is not None:
            result = await task
            tasks.discard(task)
            slots.release()
            yield result
        await reader
    finally:
        reader.cancel()
        for task in tasks:
            task.cancel()


async def _done(work: Callable[[T], Awaitable[R]], item: T) -> R:
    return await work(item)


async def until_ending(admission: Admission, work: Awaitable[T]) -> T:
    """What `work` gives, unless the gateway is told to end before.

    Raises:
        Unavailable: it was told to end.
    """
    task = asyncio.ensure_future(work)
    ending = asyncio.ensure_future(admission.ending.wait())
    try:
        await asyncio.wait((task, ending), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Unavailable("this service is ending")
    finally:
        ending.cancel()
        task.cancel()


async def until_ended(admission: Admission, items: AsyncIterable[T]) -> AsyncIterator[T]:
    """What a client streams, until it ends or the gateway is told to end."""
    iterator = aiter(items)
    with suppress(StopAsyncIteration, Unavailable):
        while True:
            yield await until_ending(admission, anext(iterator))


@contextmanager
def open_socket(admission: Admission) -> Iterator[Callable[[], None]]:
    """Count a WebSocket as open: the gateway waits for it when it ends.

    The block is given what to call when the client has gone: then it ends at once, and with it
    what is under way.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101
    has_gone = False

    def stop() -> None:
        nonlocal has_gone
        has_gone = True
        task.cancel()

    admission.sockets.add(task)
    try:
        yield stop
    except asyncio.CancelledError:
        if not has_gone:
            raise
        task.uncancel()
        raise WebSocketDisconnect from None
    finally:
        admission.sockets.discard(task)

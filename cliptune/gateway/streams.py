"""Work on several items of a stream at once, and give the results in their order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def in_order(
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


async def _done(work: Callable[[Any], Awaitable[R]], item: Any) -> R:
    return await work(item)

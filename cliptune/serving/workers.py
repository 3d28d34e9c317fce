"""What every executor's process needs: threads with a bounded queue, and an end in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from functools import wraps
from typing import Any

from cliptune.errors import Overloaded
from cliptune.limits import limit
from cliptune.serving import settings
from cliptune.serving.request_ids import RequestThreads

CONCURRENT = 64
"""Requests that one executor works on at once; most wait in an engine's queue."""
MAX_WAITING = limit("CLIPTUNE_MAX_WAITING", 256)
"""Requests that wait for one of them."""


class BoundedThreads(RequestThreads):
    """Threads whose queue is bounded: what is beyond is refused at once."""

    def __init__(self, threads: int, waiting: int, name: str) -> None:
        """Take how many threads there are, and how many calls may wait for one."""
        super().__init__(threads, thread_name_prefix=name)
        self.waiting = waiting

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """As any executor's.

        Raises:
            Overloaded: the queue is full.
        """
        if self._work_queue.qsize() >= self.waiting:
            raise Overloaded(f"{self.waiting} requests are waiting for this executor, the limit")
        return super().submit(fn, *args, **kwargs)


def prepare_worker() -> None:
    """To be called once in an executor's own process, when the executor is made.

    Jina runs an executor's functions in the event loop's threads, of which there are few, with a
    queue that grows without end; and told to end, it drops the requests that are being served.
    """
    from jina.serve.runtimes.servers.grpc import GRPCServer

    threads = BoundedThreads(CONCURRENT, MAX_WAITING, "cliptune-request")
    asyncio.get_running_loop().set_default_executor(threads)
    shutdown = GRPCServer.shutdown

    @wraps(shutdown)
    async def finish_first(self: GRPCServer) -> None:
        await self.health_servicer.enter_graceful_shutdown()
        await self.server.stop(grace=settings.drain_seconds())
        await shutdown(self)

    GRPCServer.shutdown = finish_first

"""What every executor's process needs: threads with a bounded queue, and an end in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from docarray import DocList

from cliptune.errors import Overloaded
from cliptune.observability.request_ids import RequestThreads
from cliptune.protocol import jina_compat
from cliptune.protocol.payload_size import LARGE
from cliptune.settings import Settings

CONCURRENT = 64
"""Requests that one executor works on at once; most wait in an engine's queue."""


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
        return super().submit(_with_message, fn, *args, **kwargs)


def _with_message(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What `fn` returns; documents with the message that Jina would make of them on its loop."""
    found = fn(*args, **kwargs)
    if isinstance(found, DocList):
        message = found.to_protobuf()
        found.to_protobuf = lambda: message  # type: ignore[method-assign]
    return found


def prepare_worker(settings: Settings) -> None:
    """To be called once in an executor's own process, when the executor is made.

    Jina runs an executor's functions in the event loop's threads, of which there are few, with a
    queue that grows without end; and told to end, it drops the requests that are being served.
    """
    threads = BoundedThreads(CONCURRENT, settings.max_waiting, "cliptune-request")
    asyncio.get_running_loop().set_default_executor(threads)
    jina_compat.read_beside_the_loop(LARGE)
    jina_compat.answer_before_ending(settings.drain)

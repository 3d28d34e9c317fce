"""Batches across requests: what many threads ask of one engine goes through it together."""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cliptune.errors import BadInput, Overloaded, Unavailable
from cliptune.inference.cancellation import ABANDONED, Abandoned, is_abandoned
from cliptune.inference.instrumentation import Observe, unobserved
from cliptune.inference.towers import Forward, TextTower, VisionTower

MAX_PENDING = 8192
"""Rows that wait for an engine at most."""


def share_batches(
    tower: TextTower | VisionTower, *, max_wait: float = 0.002, threads: int = 1
) -> BatchingForward:
    """Let all that many threads encode with `tower` share its batches; see `BatchingForward`."""
    shared = BatchingForward(
        tower.run,
        batch_size=tower.batch_size,
        max_wait=max_wait,
        threads=threads,
        observe=tower.observe,
    )
    tower.run = shared
    return shared


@dataclass
class _Request:
    rows: NDArray[np.generic]
    answer: Future[NDArray[np.float32]] = field(default_factory=Future)
    abandoned: threading.Event | None = field(default_factory=ABANDONED.get)
    asked_at: float = field(default_factory=time.perf_counter)
    taken_at: float = 0.0


class BatchingForward:
    """An engine that many threads call at once; its own threads run it, on their rows together.

    While a batch is in the engine, the rows that come meanwhile queue up, and the next batch is
    as many of them as it may hold. So batches fill up under load, and a lone request never
    waits. After a batch of several requests, or with others left in the queue, the next one
    waits up to `max_wait` seconds to be full: others are likely to be on their way.

    With a second thread the next batch is prepared and handed to a GPU while the one before is
    still in it; that one only begins with a full batch, so that batches stay full.

    A request's rows stay together. Rows of all requests have one width.
    """

    def __init__(
        self,
        forward: Forward,
        *,
        batch_size: int = 32,
        max_wait: float = 0.002,
        threads: int = 1,
        observe: Observe = unobserved,
        max_pending: int = MAX_PENDING,
    ) -> None:
        """Start the threads.

        Args:
            forward: the engine, called by its own threads only.
            batch_size: rows of a batch. A request of more is a batch of its own.
            max_wait: seconds, see above.
            threads: batches that are in the engine at once; more than 1 is for GPUs.
            observe: told of how long requests wait, and of each batch.
            max_pending: rows that wait at most; a request beyond is refused at once, unless
                nothing waits.

        Raises:
            BadInput: one of them is below what makes sense.
        """
        limits = {"batch_size": batch_size, "max_pending": max_pending, "threads": threads}
        for name, value in limits.items():
            if value < 1:
                raise BadInput(f"{name} is {value}: use a number from 1")
        if max_wait < 0:
            raise BadInput(f"max_wait is {max_wait}: use a number of seconds from 0")
        self.forward = forward
        self.max_pending = max_pending
        self.batch_size = batch_size
        self.max_wait = max_wait
        self.observe = observe
        self._queue: deque[_Request] = deque()
        self._pending = 0
        self._running = 0
        self._overlapping = False
        self._closed = False
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._work, name="cliptune-engine", daemon=True)
            for _ in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def __call__(self, rows: NDArray[np.generic]) -> NDArray[np.float32]:
        """What the engine makes of `rows` [n, …]: float32 [n, D]; waits for it.

        Raises:
            Overloaded: more than `max_pending` rows would wait.
            Abandoned: whoever asked had gone before the engine got to it.
            Unavailable: it was closed. What the engine raises is raised in all requests of its
                batch.
        """
        request = _Request(rows)
        with self._changed:
            if self._closed:
                raise Unavailable("this service is ending")
            if self._pending and self._pending + len(rows) > self.max_pending:
                raise Overloaded(f"{self._pending} inputs wait for this engine, the limit")
            self._queue.append(request)
            self._pending += len(rows)
            self._changed.notify_all()
            self.observe("waiting_rows", self._pending)
        embeddings = request.answer.result()
        self.observe("queue_seconds", request.taken_at - request.asked_at)
        self.observe("inference_seconds", time.perf_counter() - request.taken_at)
        return embeddings

    @property
    def pending(self) -> int:
        """Rows that wait to go into the engine."""
        return self._pending

    def close(self) -> None:
        """Answer what is waiting, then end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _drop_abandoned(self) -> None:
        abandoned = [request for request in self._queue if is_abandoned(request.abandoned)]
        if not abandoned:
            return
        self._queue = deque(one for one in self._queue if not is_abandoned(one.abandoned))
        self._pending = sum(len(request.rows) for request in self._queue)
        for request in abandoned:
            request.answer.set_exception(Abandoned("whoever asked has gone"))

    def _work(self) -> None:
        while batch := self._next_batch():
            self._answer(batch)
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _answer(self, batch: list[_Request]) -> None:
        began = time.perf_counter()
        try:
            joined = np.concatenate([request.rows for request in batch])
            embeddings = self.forward(joined)
        except BaseException as error:
            for request in batch:
                request.answer.set_exception(error)
            return
        took = time.perf_counter() - began
        start = 0
        for request in batch:
            end = start + len(request.rows)
            request.answer.set_result(embeddings[start:end])
            start = end
        self.observe("batch_rows", start)
        self.observe("batch_seconds", took)

    def _full(self) -> bool:
        return self._pending >= self.batch_size or self._closed

    def _next_batch(self) -> list[_Request]:
        """Wait for requests, and take as many as a batch holds; none when closed."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: (self._queue and not self._running) or self._full())
                if self._overlapping:
                    self._changed.wait_for(self._full, timeout=self.max_wait)
                self._drop_abandoned()
                if self._queue or self._closed:
                    break
            batch: list[_Request] = []
            size = 0
            while self._queue and (not batch or size + len(self._queue[0].rows) <= self.batch_size):
                batch.append(self._queue.popleft())
                batch[-1].taken_at = time.perf_counter()
                size += len(batch[-1].rows)
            self._pending -= size
            self._running += bool(batch)
            self.observe("waiting_rows", self._pending)
            self._overlapping = len(batch) > 1 or bool(self._queue)
            return batch

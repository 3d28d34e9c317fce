"""Decoding the pictures of many requests side by side, so that none holds up the others.

Each request has a few of its pictures with the threads at a time, and adds the next one behind
those of others. Large pictures have a thread of their own: one at a time is in memory decoded, and
small ones never wait behind it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from cliptune.data.pictures.images import Picture
from cliptune.inference.cancellation import ABANDONED, Abandoned, is_abandoned

T = TypeVar("T")
LARGE = 12_000_000
"""Pixels as they are decoded: about 150 MB with the copies that upright RGB takes."""


class Decoders:
    """Threads that decode pictures; they start with the first one."""

    def __init__(self, threads: int) -> None:
        """Take how many pictures are decoded at once, besides a large one."""
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="cliptune-decode")
        self._large = ThreadPoolExecutor(1, thread_name_prefix="cliptune-decode-large")

    def decode(
        self, work: Callable[[int, Picture], T], items: Sequence[Picture], pixels: Sequence[int]
    ) -> list[Future[T]]:
        """`work(place, item)` of each item, in turn with other calls; returns the results to be.

        Args:
            work: what is done.
            items: pictures.
            pixels: of each picture, as it is decoded.
        """
        tasks: list[_Task[T]] = [_Task(work, i, item) for i, item in enumerate(items)]
        small = [task for task, size in zip(tasks, pixels, strict=True) if size <= LARGE]
        large = [task for task, size in zip(tasks, pixels, strict=True) if size > LARGE]
        _Turns(self._pool, small, self.threads).start()
        _Turns(self._large, large, 1).start()
        return [task.result for task in tasks]


class _Task(Generic[T]):
    def __init__(self, work: Callable[[int, Picture], T], place: int, item: Picture) -> None:
        self.work, self.place, self.item = work, place, item
        self.result: Future[T] = Future()

    def run(self) -> None:
        if self.result.set_running_or_notify_cancel():
            try:
                self.result.set_result(self.work(self.place, self.item))
            except BaseException as error:
                self.result.set_exception(error)

    def fail(self, error: BaseException) -> None:
        if self.result.set_running_or_notify_cancel():
            self.result.set_exception(error)


class _Turns(Generic[T]):
    """The tasks of one call in one pool, `at_once` of them at a time."""

    def __init__(self, pool: ThreadPoolExecutor, tasks: Sequence[_Task[T]], at_once: int) -> None:
        self.pool, self.tasks, self.at_once = pool, iter(tasks), at_once
        self.abandoned = ABANDONED.get()
        self.guard = threading.Lock()

    def start(self) -> None:
        for _ in range(self.at_once):
            self._next()

    def _next(self) -> None:
        with self.guard:
            task = next(self.tasks, None)
        if task is None:
            return
        try:
            self.pool.submit(self._run, task)
        except RuntimeError as error:  # this process ends: nobody may wait for what is left
            for left in (task, *self.tasks):
                left.fail(error)

    def _run(self, task: _Task[T]) -> None:
        if is_abandoned(self.abandoned):
            task.fail(Abandoned("whoever asked has gone"))
        else:
            task.run()
        self._next()

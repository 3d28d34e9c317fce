"""`ObservedExecutor`: what all executors do, so that they can be watched and end in order."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from docarray import DocList

from cliptune.errors import (
    BadArtifact,
    BadData,
    ModelMismatch,
    NotReady,
    Overloaded,
    RunFailed,
    Unavailable,
)
from cliptune.inference.cancellation import ABANDONED
from cliptune.observability import logs, metrics, request_ids, startup, tracing
from cliptune.observability.request_ids import RequestThreads
from cliptune.protocol import jina_compat, redaction
from cliptune.protocol.jina_compat import Executor
from cliptune.protocol.limits import LARGE
from cliptune.settings import Settings

if TYPE_CHECKING:  # importing it imports torch, which must not happen before Jina's fork
    from cliptune.inference.instrumentation import Figure, Observe

P = ParamSpec("P")
R = TypeVar("R")
log = logging.getLogger("cliptune")
_OWN_STATE = (BadArtifact, BadData, ModelMismatch, NotReady, RunFailed, Unavailable)
"""Errors of what the server has. Others repeat what a client sent: to change that where it is like
a path of ours would tell which paths are."""
_SPANS: dict[str, str] = {
    "preprocess_seconds": "preprocess",
    "queue_seconds": "queue",
    "inference_seconds": "inference",
}

CONCURRENT = 64
"""Requests that one executor works on at once; most wait in an engine's queue."""


class ObservedExecutor(Executor):
    """An executor whose calls are timed and counted, and logged with the request's id.

    If it can't be made, it says why: see `observability.startup`.
    """

    def __init_subclass__(cls, **kwargs: object) -> None:
        """Have the executor's `__init__` report its failure."""
        super().__init_subclass__(**kwargs)
        cls.__init__ = startup.reports_failure(cls.__init__)  # type: ignore[method-assign]

    def __init__(self, settings: Settings | None = None, **kwargs: Any) -> None:
        """Take Jina's own arguments, and the settings; None: the environment's."""
        super().__init__(**kwargs)
        self.settings = settings or Settings.read()
        self.short_name = str(getattr(self.runtime_args, "name", "")).split("/")[0] or "executor"
        logs.setup(self.short_name, self.settings)
        tracing.setup(self.short_name, self.settings)
        if not metrics.is_shared():
            # Jina doesn't tell an executor where it listens.
            metrics.serve_metrics(self.settings.host or "127.0.0.1", self.settings)
        prepare_worker(self.settings)

    async def __acall__(self, req_endpoint: str, **kwargs: Any) -> object:
        """One request's documents, as Jina hands them over."""
        parameters = kwargs.get("parameters") or {}
        redaction.OPERATOR.set(bool(parameters.get(redaction.OPERATOR_PARAMETER)))
        redaction.BASE.set(str(parameters.get(redaction.BASE_PARAMETER) or ""))
        gone = threading.Event()
        ABANDONED.set(gone)
        # Not reset: what Jina logs of an error afterwards is about this request too.
        request_ids.current.set(str(parameters.get(request_ids.PARAMETER, "")))
        start = time.perf_counter()
        failed = ""
        with tracing.span(f"{self.short_name} {req_endpoint}", tracing.parent_of(parameters)):
            try:
                return await super().__acall__(req_endpoint, **kwargs)
            except asyncio.CancelledError:  # whoever asked has gone
                gone.set()
                failed = "Abandoned"
                metrics.EXECUTOR_ERRORS.labels(self.short_name, req_endpoint).inc()
                raise
            except Exception as error:
                failed = type(error).__name__
                self._hide_paths(error)
                metrics.EXECUTOR_ERRORS.labels(self.short_name, req_endpoint).inc()
                raise
            finally:
                seconds = time.perf_counter() - start
                metrics.EXECUTOR_SECONDS.labels(self.short_name, req_endpoint).observe(seconds)
                logs.log_call(
                    f"{self.short_name} {req_endpoint} {failed or 'ok'}",
                    endpoint=req_endpoint,
                    documents=len(kwargs.get("docs") or ()),
                    seconds=round(seconds, 6),
                    error=failed or None,
                )

    def tower_observer(self) -> Observe:
        """For a tower's `observe`: metrics, and spans where requests are traced."""
        count = metrics.tower_observer(self.short_name)

        def observe(figure: Figure, value: float) -> None:
            count(figure, value)
            if figure in _SPANS:
                tracing.stage(_SPANS[figure], value)

        return observe

    def own_paths(self) -> list[str]:
        """What errors for clients must not tell."""
        return self.settings.own_paths

    def _hide_paths(self, error: Exception) -> None:
        """Leave this machine's paths to the log."""
        message = str(error)
        if (
            isinstance(error, _OWN_STATE)
            and (shown := redaction.without_paths(message, self.own_paths())) != message
        ):
            log.warning("%s: %s", type(error).__name__, message)
            error.args = (shown,)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block as a stage of the request."""
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        metrics.STAGE_SECONDS.labels(self.short_name, name).observe(seconds)
        tracing.stage(name, seconds)


class BoundedThreads(RequestThreads):
    """Threads whose queue is bounded: what is beyond is refused at once."""

    def __init__(self, threads: int, waiting: int, name: str) -> None:
        """Take how many threads there are, and how many calls may wait for one."""
        super().__init__(threads, thread_name_prefix=name)
        self.waiting = waiting

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """As any executor's.

        Raises:
            Overloaded: the queue is full.
        """
        if self._work_queue.qsize() >= self.waiting:
            raise Overloaded(f"{self.waiting} requests are waiting for this executor, the limit")
        return super().submit(partial(_with_message, fn), *args, **kwargs)


def _with_message(fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """What `fn` returns; documents with the message that Jina would make of them on its loop."""
    result = fn(*args, **kwargs)
    if isinstance(result, DocList):
        message = result.to_protobuf()
        result.to_protobuf = lambda: message  # type: ignore[method-assign]
    return result


def prepare_worker(settings: Settings) -> None:
    """To be called once in an executor's own process, when the executor is made.

    Jina runs an executor's functions in the event loop's threads, of which there are few, with a
    queue that grows without end; and told to end, it drops the requests that are being served.
    """
    threads = BoundedThreads(CONCURRENT, settings.max_waiting, "cliptune-request")
    asyncio.get_running_loop().set_default_executor(threads)
    jina_compat.read_documents_first(LARGE)
    jina_compat.answer_before_ending(settings.drain)

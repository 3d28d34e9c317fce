"""Trainer: starts and watches fine-tuning runs, each in a process of its own."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeVar

from docarray import DocList

from cliptune.documents import ClipDoc
from cliptune.executors import training
from cliptune.executors.base import BoundedThreads, ObservedExecutor
from cliptune.executors.training import RUN
from cliptune.protocol import endpoints
from cliptune.protocol.documents import FileChunk, LogItem, TrainRequest, TrainResult
from cliptune.protocol.jina_compat import requests

T = TypeVar("T")


class Trainer(ObservedExecutor):
    """The SDK for clients elsewhere; `cliptune.client.remote.RemoteSession` is their side.

    It imports no torch and trains nothing itself: runs go on when it ends.
    """

    def __init__(self, followers: int = 64, **kwargs: Any) -> None:
        """Make ready.

        Args:
            followers: logs and artifacts that can be streamed at once.
            kwargs: Jina's own.
        """
        super().__init__(**kwargs)
        # A stream takes a thread for each item in turn, so that a few more streams can share them.
        self.threads = BoundedThreads(followers, followers, "cliptune-stream")

    @requests(on=endpoints.FIT.path)
    def fit(self, docs: DocList[TrainRequest], **kwargs: object) -> DocList[TrainResult]:
        """Start a run; arguments as `cliptune.fit`, with data sets given by name."""
        return training.answer(
            training.fit(training.read_arguments(docs), self.settings.hub_models)
        )

    @requests(on=endpoints.RUN_STATUS.path)
    def status(self, docs: DocList[TrainRequest], **kwargs: object) -> DocList[TrainResult]:
        """A run's status, progress, history and configuration."""
        run = training.find_run(training.read_arguments(docs, RUN))
        return training.answer(training.describe(run))

    @requests(on=endpoints.LOGS.path)
    async def logs(self, doc: TrainRequest, **kwargs: object) -> LogItem:  # type: ignore[misc]
        """A run's log; with `follow` each line as it comes."""
        async for item in self._stream(training.log_items(doc.arguments)):
            yield item

    @requests(on=endpoints.METRICS.path)
    def metrics(self, docs: DocList[TrainRequest], **kwargs: object) -> DocList[TrainResult]:
        """The metrics of a finished run before and after.

        With `examples`, sample results; with `evaluations`, how much each evaluation searched.
        """
        arguments = training.read_arguments(docs, {*RUN, "examples", "evaluations"})
        run = training.find_run(arguments)
        if arguments.get("evaluations"):
            return training.answer(run.evaluations())
        return training.answer(
            run.example_results() if arguments.get("examples") else run.metrics()
        )

    @requests(on=endpoints.RUNS.path)
    def runs(self, docs: DocList[TrainRequest], **kwargs: object) -> DocList[TrainResult]:
        """List runs; get, resume or delete one; delete all."""
        allowed = {*RUN, "action", "page", "size"}
        return training.answer(training.manage(training.read_arguments(docs, allowed)))

    @requests(on=endpoints.EXPERIMENTS.path)
    def experiments(self, docs: DocList[TrainRequest], **kwargs: object) -> DocList[TrainResult]:
        """List experiments; create, get or delete one; delete all."""
        arguments = training.read_arguments(docs, {"action", "name"})
        return training.answer(training.manage_experiments(arguments))

    @requests(on=endpoints.EVALUATE.path)
    def evaluate(self, docs: DocList[TrainRequest], **kwargs: object) -> DocList[TrainResult]:
        """The metrics of a model or of a run's artifact over data sets of this server."""
        allowed = {"model", "query_data", "index_data", "limit"}
        arguments = training.read_arguments(docs, allowed)
        return training.answer(training.evaluate(arguments, self.settings.hub_models))

    @requests(on=endpoints.ARTIFACT.path)
    async def artifact(self, doc: TrainRequest, **kwargs: object) -> FileChunk:  # type: ignore[misc]
        """A finished run's artifact, a zip in parts."""
        async for chunk in self._stream(training.artifact_chunks(doc.arguments)):
            yield chunk

    @requests(on=endpoints.CANCEL.path)
    def cancel(self, docs: DocList[TrainRequest], **kwargs: object) -> DocList[TrainResult]:
        """Stop a run after a checkpoint; it can be resumed."""
        run = training.find_run(training.read_arguments(docs, RUN))
        return training.answer(run.cancel())

    @requests(on=endpoints.DATA.path)
    def data(
        self, docs: DocList[ClipDoc], parameters: dict[str, object], **kwargs: object
    ) -> DocList[TrainResult]:
        """Keep a part of a data set; without documents, say whether there is one."""
        return training.answer(
            training.store_part(docs, parameters, self.settings.home / "uploads")
        )

    def close(self) -> None:
        """Let streams end."""
        self.threads.shutdown(wait=False, cancel_futures=True)

    async def _stream(self, items: Iterator[T]) -> AsyncIterator[T]:
        # A run's log makes its reader wait: elsewhere, so that other calls go on.
        loop = asyncio.get_running_loop()
        while item := await loop.run_in_executor(self.threads, _next, items):
            yield item[0]


def _next(items: Iterator[T]) -> tuple[T] | None:
    """The next item; None: there is no more."""
    for item in items:
        return (item,)
    return None

"""Trainer: starts and watches fine-tuning runs, each in a process of its own."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

from docarray import DocList

from cliptune.documents import ClipDoc
from cliptune.executors import training
from cliptune.executors.base import ObservedExecutor
from cliptune.executors.threads import BoundedThreads
from cliptune.executors.training import RUN
from cliptune.protocol.documents import Answer, Ask, Chunk, LogItem
from cliptune.protocol.jina_compat import requests

END = object()


class Trainer(ObservedExecutor):
    """The SDK for clients elsewhere; `cliptune.client.remote.RemoteSession` is their side.

    It imports no torch and trains nothing itself: runs go on when it ends.
    """

    def __init__(self, followers: int = 64, **kwargs) -> None:
        """Make ready.

        Args:
            followers: logs and artifacts that can be streamed at once.
            kwargs: Jina's own.
        """
        super().__init__(**kwargs)
        # A stream takes a thread for each item in turn, so that a few more streams can share them.
        self.threads = BoundedThreads(followers, followers, "cliptune-stream")

    @requests(on="/fit")
    def fit(self, docs: DocList[Ask], **kwargs) -> DocList[Answer]:
        """Start a run; arguments as `cliptune.fit`, with data sets given by name."""
        return training.answer(training.fit(training.read_arguments(docs)))

    @requests(on="/status")
    def status(self, docs: DocList[Ask], **kwargs) -> DocList[Answer]:
        """A run's status, progress, history and configuration."""
        run = training.find_run(training.read_arguments(docs, RUN))
        return training.answer(training.describe(run))

    @requests(on="/logs")
    async def logs(self, doc: Ask, **kwargs) -> LogItem:  # type: ignore[misc]
        """A run's log; with `follow` each line as it comes."""
        async for item in self._stream(training.log_items(doc.arguments)):
            yield item

    @requests(on="/metrics")
    def metrics(self, docs: DocList[Ask], **kwargs) -> DocList[Answer]:
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

    @requests(on="/runs")
    def runs(self, docs: DocList[Ask], **kwargs) -> DocList[Answer]:
        """List runs; get, resume or delete one; delete all."""
        allowed = {*RUN, "action", "page", "size"}
        return training.answer(training.manage(training.read_arguments(docs, allowed)))

    @requests(on="/experiments")
    def experiments(self, docs: DocList[Ask], **kwargs) -> DocList[Answer]:
        """List experiments; create, get or delete one; delete all."""
        arguments = training.read_arguments(docs, {"action", "name"})
        return training.answer(training.manage_experiments(arguments))

    @requests(on="/evaluate")
    def evaluate(self, docs: DocList[Ask], **kwargs) -> DocList[Answer]:
        """The metrics of a model or of a run's artifact over data sets of this server."""
        allowed = {"model", "query_data", "index_data", "limit"}
        return training.answer(training.evaluate(training.read_arguments(docs, allowed)))

    @requests(on="/artifact")
    async def artifact(self, doc: Ask, **kwargs) -> Chunk:  # type: ignore[misc]
        """A finished run's artifact, a zip in parts."""
        async for chunk in self._stream(training.artifact_chunks(doc.arguments)):
            yield chunk

    @requests(on="/cancel")
    def cancel(self, docs: DocList[Ask], **kwargs) -> DocList[Answer]:
        """Stop a run after a checkpoint; it can be resumed."""
        run = training.find_run(training.read_arguments(docs, RUN))
        return training.answer(run.cancel())

    @requests(on="/data")
    def data(
        self, docs: DocList[ClipDoc], parameters: dict | None = None, **kwargs
    ) -> DocList[Answer]:
        """Keep a part of a data set; without documents, say whether there is one."""
        return training.answer(training.store_part(docs, parameters or {}))

    def close(self) -> None:
        """Let streams end."""
        self.threads.shutdown(wait=False, cancel_futures=True)

    async def _stream(self, items: Iterator[Any]) -> AsyncIterator[Any]:
        # A run's log makes its reader wait: elsewhere, so that other calls go on.
        loop = asyncio.get_running_loop()
        while (item := await loop.run_in_executor(self.threads, next, items, END)) is not END:
            yield item

"""What a training run tells while it goes on, and how it is asked to stop."""

from __future__ import annotations

import logging
from typing import Protocol, TypedDict

from cliptune.evaluation.retrieval import ExampleQuery
from cliptune.models.artifact import RunMetrics


class Cancelled(Exception):
    """The logger says that the run is to stop; raised after a checkpoint was written."""


class RunExamples(TypedDict):
    """Sample queries with their results, by evaluation."""

    before: dict[str, list[ExampleQuery]]
    after: dict[str, list[ExampleQuery]]


class RunLogger(Protocol):
    """Takes what a run has to say; `cliptune.runs` writes it into the run's folder."""

    def log(self, level: str, message: str) -> None:
        """One line of the log; `level` is DEBUG, INFO, WARNING or ERROR."""

    def progress(self, description: str, done: int, total: int, **values: float) -> None:
        """`done` of `total` steps of `description`, with the present values (loss, val_loss)."""

    def metrics(self, metrics: RunMetrics) -> None:
        """The figures so far."""

    def examples(self, examples: RunExamples) -> None:
        """Sample results of callbacks that gather them."""

    def cancelled(self) -> bool:
        """Whether the run has been asked to stop."""


class StandardRunLogger:
    """Writes to the standard `logging`; for training in a script without a run folder."""

    def __init__(self) -> None:
        """Write to the logger `cliptune`."""
        self._log = logging.getLogger("cliptune")

    def log(self, level: str, message: str) -> None:
        """Log `message`."""
        self._log.log(getattr(logging, level), message)

    def progress(self, description: str, done: int, total: int, **values: float) -> None:
        """Log the end of each phase."""
        if done == total:
            shown = " • ".join(f"{name}: {value:.4g}" for name, value in values.items())
            self._log.info("%s %d/%d • %s", description, done, total, shown)

    def metrics(self, metrics: RunMetrics) -> None:
        """Nothing: they are in the outcome too."""

    def examples(self, examples: RunExamples) -> None:
        """Nothing: they are in the outcome too."""

    def cancelled(self) -> bool:
        """Never."""
        return False


class SilentRunLogger(StandardRunLogger):
    """Says nothing, but passes on the wish to stop: for all but the first of several processes."""

    def __init__(self, logger: RunLogger) -> None:
        """Ask `logger` whether to stop."""
        self._logger = logger

    def log(self, level: str, message: str) -> None:
        """Nothing."""

    def progress(self, description: str, done: int, total: int, **values: float) -> None:
        """Nothing."""

    def cancelled(self) -> bool:
        """What the other logger says."""
        return self._logger.cancelled()

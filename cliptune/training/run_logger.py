"""What a training run tells while it goes on, and how it is asked to stop."""

from __future__ import annotations

import logging
from typing import Any, Protocol


class Reporter(Protocol):
    """Takes what a run has to say; `cliptune.runs` writes it into the run's folder."""

    def log(self, level: str, message: str) -> None:
        """One line of the log; `level` is DEBUG, INFO, WARNING or ERROR."""
        ...

    def progress(self, description: str, done: int, total: int, **values: float) -> None:
        """`done` of `total` steps of `description`, with the present values (loss, val_loss)."""
        ...

    def metrics(self, metrics: dict[str, Any]) -> None:
        """The metrics so far: {'before', 'after', 'epochs': […], 'evaluations': {…: counts}}.

        With them comes `warning`, what is wrong with the run as it stands; empty if nothing is.
        """
        ...

    def examples(self, examples: dict[str, Any]) -> None:
        """Sample results {'before': ..., 'after': ...} of callbacks that gather them."""
        ...

    def cancelled(self) -> bool:
        """Whether the run has been asked to stop."""
        ...


class LogReporter:
    """Writes to the standard `logging`; for training in a script without a run folder."""

    def __init__(self) -> None:
        """Report to the logger `cliptune`."""
        self._log = logging.getLogger("cliptune")

    def log(self, level: str, message: str) -> None:
        """Log `message`."""
        self._log.log(getattr(logging, level), message)

    def progress(self, description: str, done: int, total: int, **values: float) -> None:
        """Log the end of each phase."""
        if done == total:
            shown = " • ".join(f"{name}: {value:.4g}" for name, value in values.items())
            self._log.info("%s %d/%d • %s", description, done, total, shown)

    def metrics(self, metrics: dict[str, Any]) -> None:
        """Nothing: they are in the outcome too."""

    def examples(self, examples: dict[str, Any]) -> None:
        """Nothing: they are in the outcome too."""

    def cancelled(self) -> bool:
        """Never."""
        return False


class SilentReporter(LogReporter):
    """Says nothing, but passes on the wish to stop: for all but the first of several processes."""

    def __init__(self, reporter: Reporter) -> None:
        """Ask `reporter` whether to stop."""
        self._reporter = reporter

    def log(self, level: str, message: str) -> None:
        """Nothing."""

    def progress(self, description: str, done: int, total: int, **values: float) -> None:
        """Nothing."""

    def cancelled(self) -> bool:
        """What the other reporter says."""
        return self._reporter.cancelled()

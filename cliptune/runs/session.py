"""What runs, experiments and the calls for them offer, on this machine and at a train Flow alike.

`cliptune.runs` and `cliptune.client.remote` implement it; the functions of `cliptune` call the
session in use. The docstrings here are those of both.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, Self

from cliptune.errors import NotReady
from cliptune.runs.logs import Progress
from cliptune.runs.record import RunConfig, Status
from cliptune.runs.summary import RunSummary

if TYPE_CHECKING:
    from cliptune.models.artifact import Epoch
    from cliptune.training.run_logger import RunExamples


class AnyRun(Protocol):
    """A fine-tuning run, wherever it is; every call tells what is there now."""

    name: str
    """The run's name, unique in its experiment."""
    experiment_name: str
    """The group it belongs to."""
    poll: ClassVar[float] = 0.1
    """Seconds between two looks of `wait`."""

    @property
    def config(self) -> RunConfig:
        """All that the run was started with: options, callbacks, data."""

    @property
    def description(self) -> str | None:
        """What was said about it when it was started."""

    @property
    def artifact_id(self) -> str:
        """What `get_model` and `fit(model_artifact=…)` find the tuned model by."""
        return f"{self.experiment_name}/{self.name}"

    def status(self) -> dict[str, str]:
        """`{'status': …, 'details': …}`.

        `details` says too what went wrong without an error, such as a collapsed model.

        CREATED: its process is starting. STARTED: it is under way. FINISHED: all is there.
        FAILED: `details` says why; `resume()` goes on with it. CANCELLED: by `cancel()`, or
        the machine was shut down in order; `resume()` goes on with it.
        """

    def logs(self) -> str:
        """The log so far; of a failed run too, since it says what went wrong.

        Raises:
            NotReady: the run is CREATED, and has not begun its log.
        """

    def stream_logs(self, interval: float = 5) -> Iterator[str]:
        """Each line of the log once, in order and from the start, until the run ends.

        Looks for new lines every `interval` seconds. A run that has not begun is waited for;
        of one that failed, the last lines say why.
        """
        return (str(item) for item in self.follow(interval, bars=False))

    def follow(self, interval: float = 1, *, bars: bool = True) -> Iterator[str | Progress]:
        """As `stream_logs`, with the live progress (`Progress`) between the lines.

        At a train Flow: when the connection breaks, or the server is started anew, it goes on where
        it was.

        Raises:
            Unavailable: the server can't be reached, or not again within two minutes.
        """

    def progress(self) -> Progress | None:
        """The step under way: description, done, total, values; None before the first."""

    def metrics(self) -> dict[str, dict[str, float]]:
        """`{'before': {name: value}, 'after': {…}}` of the evaluation callbacks.

        Raises:
            NotReady: the run has not finished.
            RunFailed: it failed.
        """

    def evaluations(self) -> dict[str, dict[str, int]]:
        """What the figures of each evaluation must be read with, at any time.

        `{'clip-text-to-clip-vision': {'n_queries': …, 'n_index': …, 'n_without_answers': …}}`:
        queries without a right answer in the index count as not found, before and after.
        """

    def history(self) -> list[Epoch]:
        """What each finished epoch came to: epoch, loss, val_loss, metrics, …; at any time."""

    def summary(self) -> RunSummary:
        """When it ran, how long, of what, and its best metric; at any time."""

    def display_metrics(self) -> None:
        """Print a table of `metrics()` with the gains.

        Raises:
            NotReady: as `metrics`, and where the run had no `EvaluationCallback`.
            RunFailed: as `metrics`.
        """
        from rich.console import Console

        from cliptune.evaluation.tables import before_after_table, counted_lines

        metrics = self.metrics()
        if not metrics["after"]:
            raise NotReady(f"run {self.name!r} has no metrics: give it an EvaluationCallback")
        Console().print(before_after_table(metrics["before"], metrics["after"], title=self.name))
        for line in counted_lines(self.evaluations()):
            Console().print(line, highlight=False)

    def example_results(self) -> RunExamples:
        """Sample queries with their results: `{'before': {evaluation: [query, …]}, 'after': …}`.

        Raises:
            NotReady: the run has not finished, or no `EvaluationCallback` gathered examples.
            RunFailed: it failed.
        """

    def display_examples(self, k: int = 5) -> Path | None:
        """Print tables of the best `k` results of each sample query, before and after.

        Raises:
            NotReady, RunFailed: as `example_results`.
        """
        from rich.console import Console

        from cliptune.runs.display import example_tables

        for table in example_tables(self.example_results(), k):
            Console().print(table)
        return None

    def save_artifact(self, directory: str | Path = "artifacts") -> Path:
        """Write the tuned model as `directory/<run name>.zip`; returns that path.

        Raises:
            NotReady: the run has not finished.
            RunFailed: it failed.
            BadArtifact: from a train Flow, it did not arrive whole.
        """

    def wait(self, timeout: float | None = None) -> dict[str, str]:
        """Wait until the run ends, whichever way; returns `status()`.

        Raises:
            NotReady: it has not ended after `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not Status((status := self.status())["status"]).ended:
            if deadline is not None and time.monotonic() > deadline:
                raise NotReady(f"run {self.name!r} has not ended after {timeout:g} s")
            time.sleep(self.poll)
        return status

    def cancel(self) -> dict[str, str]:
        """Stop the run after a checkpoint; returns `status()` once it has stopped.

        A run that does not stop within a minute is killed: what it did since its last checkpoint
        is lost. A run that has ended stays as it is.

        Raises:
            NotReady: it runs on another machine than the one that is asked.
        """

    def resume(self) -> Self:
        """Go on with a run that failed or was cancelled, from its last checkpoint.

        Raises:
            NotReady: it has not ended, or it has finished.
        """


class RunCalls(Protocol):
    """The calls for runs, as the functions of `cliptune` describe them."""

    def get_run(self, name: str, experiment_name: str | None = None) -> AnyRun:
        """As `cliptune.get_run`."""

    def list_runs(
        self, experiment_name: str | None = None, page: int = 1, size: int = 50
    ) -> Sequence[AnyRun]:
        """As `cliptune.list_runs`."""

    def delete_run(self, name: str, experiment_name: str | None = None) -> None:
        """As `cliptune.delete_run`."""

    def delete_runs(self, experiment_name: str | None = None) -> None:
        """As `cliptune.delete_runs`."""


@dataclass(frozen=True)
class Experiment:
    """A group of runs."""

    name: str
    created: str
    """ISO 8601, UTC."""
    session: RunCalls = field(repr=False, compare=False)
    """Where it is."""

    def list_runs(self, page: int = 1, size: int = 50) -> Sequence[AnyRun]:
        """Its runs, newest first."""
        return self.session.list_runs(self.name, page, size)

    def get_run(self, name: str) -> AnyRun:
        """Its run `name`."""
        return self.session.get_run(name, self.name)

    def delete_run(self, name: str) -> None:
        """Delete its run `name`."""
        self.session.delete_run(name, self.name)

    def delete_runs(self) -> None:
        """Delete all its runs."""
        self.session.delete_runs(self.name)


class Session(RunCalls, Protocol):
    """Where runs are: their calls, and those for experiments."""

    def fit(self, model: str, train_data: object, **options: object) -> AnyRun:
        """Start a run; arguments as `cliptune.fit`."""

    def create_experiment(self, name: str = "default") -> Experiment:
        """As `cliptune.create_experiment`."""

    def get_experiment(self, name: str = "default") -> Experiment:
        """As `cliptune.get_experiment`."""

    def list_experiments(self) -> Sequence[Experiment]:
        """As `cliptune.list_experiments`."""

    def delete_experiment(self, name: str) -> None:
        """As `cliptune.delete_experiment`."""

    def delete_experiments(self) -> None:
        """As `cliptune.delete_experiments`."""

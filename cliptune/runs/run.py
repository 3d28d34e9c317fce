"""`Run`: a handle on a fine-tuning run, from the process that started it or any other."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cliptune.errors import BadData, NotFound, NotReady, RunFailed
from cliptune.files import zip_folder
from cliptune.runs import process
from cliptune.runs.logs import (
    EXAMPLES_FILE,
    METRICS_FILE,
    Progress,
    follow,
    read_log,
    read_progress,
)
from cliptune.runs.record import Record, Status, read_record
from cliptune.runs.summary import RunSummary


class Run:
    """A fine-tuning run in a folder; every call reads what is there now.

    It stays valid while the run goes on, in other processes and on other days:
    `cliptune.get_run(name)` makes an equal one.
    """

    def __init__(self, folder: Path) -> None:
        """Take the run in `folder`.

        Raises:
            NotFound: there is none.
        """
        self.folder = folder
        read_record(folder)

    def __repr__(self) -> str:
        """`Run('brave-otter-3f2a', FINISHED)`."""
        try:
            return f"Run({self.name!r}, {self.record().status})"
        except NotFound:
            return f"Run({self.name!r}, deleted)"

    def __eq__(self, other: object) -> bool:
        """Whether `other` is a handle on the same run."""
        return isinstance(other, Run) and self.folder == other.folder

    def __hash__(self) -> int:
        """By folder, as `__eq__`."""
        return hash(self.folder)

    @property
    def name(self) -> str:
        """The run's name, unique in its experiment."""
        return self.folder.name

    @property
    def experiment_name(self) -> str:
        """The group it belongs to."""
        return self.folder.parent.name

    @property
    def artifact_id(self) -> str:
        """What `get_model` and `fit(model_artifact=…)` find the tuned model by."""
        return f"{self.experiment_name}/{self.name}"

    @property
    def config(self) -> dict[str, Any]:
        """All that the run was started with: options, callbacks, data."""
        return read_record(self.folder).config

    @property
    def description(self) -> str | None:
        """What was said about it when it was started."""
        return read_record(self.folder).description

    def record(self) -> Record:
        """The whole record, after looking whether the run's process lives."""
        return process.settle(self.folder)

    def status(self) -> dict[str, str]:
        """`{'status': …, 'details': …}`.

        `details` says too what went wrong without an error, such as a collapsed model.

        CREATED: its process is starting. STARTED: it is under way. FINISHED: all is there.
        FAILED: `details` says why; `resume()` goes on with it. CANCELLED: by `cancel()`, or
        the machine was shut down in order; `resume()` goes on with it.
        """
        record = self.record()
        details = record.details
        if record.status is Status.STARTED and (bar := read_progress(self.folder)):
            details = bar.summary()
            if warning := (self._json(METRICS_FILE) or {}).get("warning"):
                details += f" • WARNING: {warning}"
        return {"status": str(record.status), "details": details}

    def logs(self) -> str:
        """The log so far; of a failed run too, since it says what went wrong.

        Raises:
            NotReady: the run is CREATED, and has not begun its log.
        """
        record = self.record()
        if record.status is Status.CREATED and record.starts <= 1:
            raise NotReady(f"run {self.name!r} is CREATED and has no log yet: wait a moment")
        return read_log(self.folder)

    def stream_logs(self, interval: float = 5) -> Iterator[str]:
        """Each line of the log once, in order and from the start, until the run ends.

        Looks for new lines every `interval` seconds. A run that has not begun is waited for;
        of one that failed, the last lines say why.
        """
        return (str(item) for item in self.follow(interval, bars=False))

    def follow(self, interval: float = 1, *, bars: bool = True) -> Iterator[str | Progress]:
        """As `stream_logs`, with the live progress (`Progress`) between the lines."""
        return follow(self.folder, lambda: self.record().status.ended, interval, bars=bars)

    def progress(self) -> Progress | None:
        """The step under way: description, done, total, values; None before the first."""
        return read_progress(self.folder)

    def metrics(self) -> dict[str, dict[str, float]]:
        """`{'before': {name: value}, 'after': {…}}` of the evaluation callbacks.

        Raises:
            NotReady: the run has not finished.
            RunFailed: it failed.
        """
        self._needs_finished("metrics")
        metrics = self._json(METRICS_FILE) or {}
        return {"before": metrics.get("before", {}), "after": metrics.get("after", {})}

    def evaluations(self) -> dict[str, dict[str, int]]:
        """What the figures of each evaluation must be read with, at any time.

        `{'clip-text-to-clip-vision': {'n_queries': …, 'n_index': …, 'n_without_answers': …}}`:
        queries without a right answer in the index count as not found, before and after.
        """
        self.record()
        return (self._json(METRICS_FILE) or {}).get("evaluations", {})

    def history(self) -> list[dict[str, Any]]:
        """What each finished epoch came to: epoch, loss, val_loss, metrics, …; at any time."""
        self.record()
        return (self._json(METRICS_FILE) or {}).get("epochs", [])

    def after(self) -> dict[str, float]:
        """The metrics of the model in the artifact, so far as there are any; at any time."""
        return (self._json(METRICS_FILE) or {}).get("after", {})

    def summary(self) -> RunSummary:
        """When it ran, how long, of what, and its best metric; at any time."""
        return RunSummary.of(self)

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

    def example_results(self) -> dict[str, Any]:
        """Sample queries with their results: `{'before': {evaluation: [query, …]}, 'after': …}`.

        Raises:
            NotReady: the run has not finished, or no `EvaluationCallback` gathered examples.
            RunFailed: it failed.
        """
        self._needs_finished("example results")
        examples = self._json(EXAMPLES_FILE)
        if examples is None:
            raise NotReady(
                f"run {self.name!r} has no example results: give it an "
                "EvaluationCallback(gather_examples=True)"
            )
        return examples

    def display_examples(self, k: int = 5, path: str | Path | None = None) -> Path | None:
        """Show the best `k` results of each sample query, before and after.

        Prints tables, and draws the pictures that were found into `path`, by default
        `examples.png` in the run's folder.

        Returns:
            The picture file; None where no evaluation searches pictures.

        Raises:
            NotReady, RunFailed: as `example_results`.
            BadData, BadImage, NotFound: the documents that were searched, or their pictures, are
                not there any more.
        """
        from rich.console import Console

        from cliptune.runs.display import draw_examples, example_tables

        examples = self.example_results()
        console = Console()
        for table in example_tables(examples, k):
            console.print(table)
        target = Path(path) if path is not None else self.folder / "examples.png"
        drawn = draw_examples(examples, self.config, self.folder, k, target)
        if drawn is not None:
            console.print(f"pictures: [bold]{drawn}[/]")
        return drawn

    def save_artifact(self, directory: str | Path = "artifacts") -> Path:
        """Write the tuned model as `directory/<run name>.zip`; returns that path.

        Raises:
            NotReady: the run has not finished.
            RunFailed: it failed.
        """
        return zip_folder(self.artifact_folder, Path(directory) / f"{self.name}.zip")

    @property
    def artifact_folder(self) -> Path:
        """The tuned model where it lies, as a folder that all of cliptune takes.

        Raises:
            NotReady: the run has not finished.
            RunFailed: it failed.
        """
        self._needs_finished("artifact")
        return self.folder / "artifact"

    def wait(self, timeout: float | None = None) -> dict[str, str]:
        """Wait until the run ends, whichever way; returns `status()`.

        Raises:
            NotReady: it has not ended after `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.record().status.ended:
            if deadline is not None and time.monotonic() > deadline:
                raise NotReady(f"run {self.name!r} has not ended after {timeout:g} s")
            time.sleep(0.1)
        return self.status()

    def cancel(self, grace: float = 60.0) -> dict[str, str]:
        """Stop the run after a checkpoint; returns `status()` once it has stopped.

        A run that does not stop within `grace` seconds is killed: what it did since its last
        checkpoint is lost. A run that has ended stays as it is.

        Raises:
            NotReady: it runs on another machine.
        """
        process.cancel(self.folder, grace)
        return self.status()

    def start(self) -> None:
        """Start the process of a run that was just created; `fit` does so.

        Raises:
            NotReady: it has been started.
        """
        process.start(self.folder)

    def resume(self) -> Run:
        """Go on with a run that failed or was cancelled, from its last checkpoint.

        Raises:
            NotReady: it has not ended, or it has finished.
        """
        process.start(self.folder)
        return self

    def _needs_finished(self, what: str) -> None:
        record = self.record()
        if record.status is Status.FINISHED:
            return
        if record.status is Status.FAILED:
            raise RunFailed(f"run {self.name!r} FAILED, so there is no {what}: {record.details}")
        raise NotReady(f"run {self.name!r} is {record.status}: {what} come when it is FINISHED")

    def _json(self, file: str) -> Any:
        path = self.folder / file
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise BadData(f"{path} is damaged: {error}") from error

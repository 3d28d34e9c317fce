"""`Run`: a handle on a fine-tuning run, from the process that started it or any other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

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
from cliptune.runs.record import Record, RunConfig, Status, read_record
from cliptune.runs.session import AnyRun
from cliptune.runs.summary import RunSummary

if TYPE_CHECKING:
    from cliptune.models.artifact import Epoch, RunMetrics
    from cliptune.training.run_logger import RunExamples


class Run(AnyRun):
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
        self.name, self.experiment_name = folder.name, folder.parent.name
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
    @override
    def config(self) -> RunConfig:
        return read_record(self.folder).config

    @property
    @override
    def description(self) -> str | None:
        return read_record(self.folder).description

    def record(self) -> Record:
        """The whole record, after looking whether the run's process lives."""
        return process.settle(self.folder)

    @override
    def status(self) -> dict[str, str]:
        record = self.record()
        details = record.details
        if record.status is Status.STARTED and (bar := read_progress(self.folder)):
            details = bar.summary()
            if warning := self._figures().get("warning"):
                details += f" • WARNING: {warning}"
        return {"status": str(record.status), "details": details}

    @override
    def logs(self) -> str:
        record = self.record()
        if record.status is Status.CREATED and record.starts <= 1:
            raise NotReady(f"run {self.name!r} is CREATED and has no log yet: wait a moment")
        return read_log(self.folder)

    @override
    def follow(self, interval: float = 1, *, bars: bool = True) -> Iterator[str | Progress]:
        return follow(self.folder, lambda: self.record().status.ended, interval, bars=bars)

    @override
    def progress(self) -> Progress | None:
        return read_progress(self.folder)

    @override
    def metrics(self) -> dict[str, dict[str, float]]:
        self._needs_finished("metrics")
        figures = self._figures()
        return {"before": figures.get("before", {}), "after": figures.get("after", {})}

    @override
    def evaluations(self) -> dict[str, dict[str, int]]:
        self.record()
        return self._figures().get("evaluations", {})

    @override
    def history(self) -> list[Epoch]:
        self.record()
        return self._figures().get("epochs", [])

    @override
    def summary(self) -> RunSummary:
        figures = self._figures()
        details = self.status()["details"]
        return RunSummary.of(
            self.record(), details, figures.get("epochs", []), figures.get("after", {})
        )

    @override
    def example_results(self) -> RunExamples:
        self._needs_finished("example results")
        examples: RunExamples | None = self._read(EXAMPLES_FILE)
        if examples is None:
            raise NotReady(
                f"run {self.name!r} has no example results: give it an "
                "EvaluationCallback(gather_examples=True)"
            )
        return examples

    @override
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

        from cliptune.runs.display import draw_examples

        super().display_examples(k)
        target = Path(path) if path is not None else self.folder / "examples.png"
        drawn = draw_examples(self.example_results(), self.config, self.folder, k, target)
        if drawn is not None:
            Console().print(f"pictures: [bold]{drawn}[/]")
        return drawn

    @override
    def save_artifact(self, directory: str | Path = "artifacts") -> Path:
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

    @override
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

    @override
    def resume(self) -> Run:
        process.start(self.folder)
        return self

    def _needs_finished(self, what: str) -> None:
        record = self.record()
        if record.status is Status.FINISHED:
            return
        if record.status is Status.FAILED:
            raise RunFailed(f"run {self.name!r} FAILED, so there is no {what}: {record.details}")
        raise NotReady(f"run {self.name!r} is {record.status}: {what} come when it is FINISHED")

    def _figures(self) -> RunMetrics:
        metrics: RunMetrics | None = self._read(METRICS_FILE)
        return metrics or {}

    def _read(self, file: str) -> Any:
        path = self.folder / file
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise BadData(f"{path} is damaged: {error}") from error

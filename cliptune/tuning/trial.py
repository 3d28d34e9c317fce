"""One trial: a training like any other, that is measured, and given up where it lags behind."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import optuna
from pydantic import PrivateAttr

from cliptune.evaluation.retrieval import Evaluation
from cliptune.evaluation.search_task import SearchTask
from cliptune.inference.engines import both_towers
from cliptune.models.artifact import RunMetrics
from cliptune.models.loading import ClipModel
from cliptune.training.callbacks import Callback
from cliptune.training.callbacks.base import MEASURES
from cliptune.training.run_logger import Cancelled, RunExamples, RunLogger
from cliptune.training.state import Training

PREFIX = "clip-text-to-clip-vision_"


class TrialPruned(Cancelled):
    """A trial is not worth its time any more, or the time is over; the message says which."""


@dataclass
class TimeBudget:
    """How long a trial has taken, pauses of the run not counted: the study keeps its seconds."""

    limit: float
    """Seconds that it may take."""
    before: float
    """Seconds until the run was interrupted."""
    began: float = field(default_factory=time.monotonic)

    def elapsed(self) -> float:
        """Seconds so far."""
        return self.before + time.monotonic() - self.began

    def is_over(self) -> bool:
        """Whether no time is left."""
        return self.elapsed() >= self.limit


RUNGS = (25, 50)
"""Percent of its epochs at which a trial is compared with the others."""


class PruningCallback(Callback):
    """Measures each epoch on the validation part, and ends a trial that is not worth its time.

    Trials of few and of many epochs are compared at the same parts of their schedules. There is no
    figure in the middle of an epoch: it is taken from the line between those of its ends, or else
    a trial of few epochs, which is measured later, would always be ahead.
    """

    order: ClassVar[int] = MEASURES
    name: Literal["PruningCallback"] = "PruningCallback"
    metric: str
    """What is measured, of `METRICS`."""
    limit: int
    """k."""
    before: float
    """What the model before training has."""

    _task: SearchTask = PrivateAttr()
    _trial: optuna.Trial = PrivateAttr()
    _clock: TimeBudget = PrivateAttr()
    _told: frozenset[int] = PrivateAttr()

    def start(
        self, task: SearchTask, trial: optuna.Trial, clock: TimeBudget, told: Iterable[int]
    ) -> PruningCallback:
        """Judge `trial` by `task`; what the study was `told` before an interruption stays."""
        self._task, self._trial, self._clock, self._told = task, trial, clock, frozenset(told)
        return self

    def metric_names(self) -> list[str]:
        """The one that is chosen by."""
        return [PREFIX + self.metric]

    def on_step_end(self, training: Training) -> None:
        """Look at the clock.

        Raises:
            GivenUp: the time is over.
        """
        if self._clock.is_over():
            raise TrialPruned("the time is over")

    def on_epoch_end(self, training: Training) -> None:
        """Measure, and ask the pruner at each rung that has been passed.

        Raises:
            GivenUp: it lags behind.
        """
        name = PREFIX + self.metric
        value = measure(training.model, self._task, self.limit).metrics[self.metric]
        training.epoch_metrics[name] = value
        self._trial.set_user_attr("seconds", self._clock.elapsed())
        history, epochs = training.position.history, training.options.epochs
        done = len(history)
        earlier = history[-2]["metrics"][name] if done > 1 else self.before
        for rung, between in rungs_passed(done, epochs, earlier, value):
            if rung not in self._told:
                self._trial.report(between, rung)
            if done < epochs and self._trial.should_prune():
                raise TrialPruned(f"it lags behind after {done} of {epochs} epochs")


def rungs_passed(done: int, epochs: int, earlier: float, value: float) -> list[tuple[int, float]]:
    """The rungs that the epoch before `done` has passed, each with the figure there.

    Args:
        done: finished epochs, from 1.
        epochs: of the whole schedule.
        earlier: the figure when this epoch began.
        value: the figure at its end.
    """
    begun, ended = 100 * (done - 1) / epochs, 100 * done / epochs
    return [
        (rung, earlier + (rung - begun) / (ended - begun) * (value - earlier))
        for rung in RUNGS
        if begun < rung <= ended
    ]


def measure(model: ClipModel, task: SearchTask, limit: int) -> Evaluation:
    """What `model` finds of `task`."""
    model.clip.eval()
    return task.measure(*task.embed(*both_towers(model)), limit=limit)


@dataclass
class TrialLogger:
    """A `RunLogger` that says of which trial a line is, and leaves the figures to the search."""

    logger: RunLogger
    title: str

    def log(self, level: str, message: str) -> None:
        """Details are for debugging; what is wrong stays."""
        self.logger.log("DEBUG" if level == "INFO" else level, f"{self.title}: {message}")

    def progress(self, description: str, done: int, total: int, **values: float) -> None:
        """The run's progress, with the trial's name."""
        self.logger.progress(f"{self.title}: {description}", done, total, **values)

    def metrics(self, metrics: RunMetrics) -> None:
        """None: the search tells them."""

    def examples(self, examples: RunExamples) -> None:
        """None: no callback of a trial gathers them."""

    def cancelled(self) -> bool:
        """Whether the run has been asked to stop."""
        return self.logger.cancelled()


def checkpoint_of(folder: Path) -> Path | None:
    """Where a training in `folder` can go on from."""
    from cliptune.training.state import list_checkpoints

    return next(reversed(list_checkpoints(folder / "checkpoints")), None)


class StopAfter(Callback):
    """Ends a training within its schedule: at a trial's best epoch."""

    name: Literal["StopAfter"] = "StopAfter"
    epochs: int

    def on_epoch_end(self, training: Training) -> None:
        """Stop when they are over."""
        if len(training.position.history) == self.epochs < training.options.epochs:
            training.stop("the trial's best epoch was this one")

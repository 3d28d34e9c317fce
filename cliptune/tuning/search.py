"""The trials of a study, one after the other, until the time is over.

The study is an SQLite file, so that a process that is killed loses nothing but the epoch under way:
the trial goes on from its last checkpoint when the run is resumed.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from docarray import DocList
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.pruners import SuccessiveHalvingPruner
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState

from cliptune.documents import ClipDoc
from cliptune.errors import BadData, BadInput
from cliptune.evaluation.search_task import SearchTask
from cliptune.models.artifact import Epoch
from cliptune.training.callbacks import BestModelCheckpoint, EarlyStopping
from cliptune.training.loop import train
from cliptune.training.optimization.freezing import TowerName
from cliptune.training.options import TrainingOptions
from cliptune.training.run_logger import RunLogger
from cliptune.training.step import TrainingFailed
from cliptune.tuning.options import TuneOptions
from cliptune.tuning.space import Axis, options_of
from cliptune.tuning.trial import (
    PREFIX,
    RUNGS,
    PruningCallback,
    TimeBudget,
    TrialLogger,
    TrialPruned,
    checkpoint_of,
)

_NAME = "cliptune"
_RANDOM_TRIALS = 5
"""How many come before the sampler models what they found."""
_RUNG_FACTOR = 2
"""The better half goes on at each of `RUNGS`, which are apart by this factor."""
_PATIENCE = 3
"""Epochs without a better figure that end a trial; its best one counts."""
_FEWEST_FOR_IMPORTANCE = 5


@dataclass(frozen=True)
class TrialResult:
    """A trial that has ended."""

    number: int
    state: str
    """`complete`, `pruned` (it lagged behind, or the time was over) or `failed`."""
    value: float | None
    """The best epoch's metric on the validation part; None: not one epoch was measured."""
    values: Mapping[str, float | int | str]
    """On the axes."""
    seconds: float
    epoch: int | None
    """The best epoch, from 1, of a complete trial."""
    reason: str = ""
    """Why it was given up."""


class Search:
    """A study in a folder."""

    def __init__(
        self,
        base: TrainingOptions,
        asked: TuneOptions,
        axes: Sequence[Axis],
        blocks: Mapping[TowerName, int],
        folder: Path,
        logger: RunLogger,
    ) -> None:
        """Make the study, or go on with the one in `folder`.

        Args:
            base: what all trials share.
            asked: how to search.
            axes: what is varied.
            blocks: of the model's towers.
            folder: of the study and its trials.
            logger: told what goes on.

        Raises:
            BadData: the study can't be read.
        """
        self.base, self.asked, self.axes, self.blocks = base, asked, axes, blocks
        self.folder, self.logger = folder, logger
        folder.mkdir(exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            self.study = optuna.create_study(
                storage=f"sqlite:///{folder / 'study.db'}",
                study_name=_NAME,
                direction="maximize",
                load_if_exists=True,
                pruner=SuccessiveHalvingPruner(
                    min_resource=RUNGS[0], reduction_factor=_RUNG_FACTOR
                ),
            )
        except Exception as error:
            raise BadData(f"{folder / 'study.db'} can't be read: {error}") from error

    def run(
        self,
        docs: DocList[ClipDoc],
        task: SearchTask,
        before: float,
        pixel_cache: Path | None,
    ) -> None:
        """Make trials that train on `docs` and are measured by `task`, until the time is over.

        `before` is what the model has that they start from.

        Raises:
            Cancelled: the run is to stop; it goes on with the trial under way when it is resumed.
            CliptuneError: the first trial, at the defaults, failed.
        """
        if not self.study.get_trials(deepcopy=False):
            self.study.enqueue_trial({axis.name: axis.default for axis in self.axes})
        while (trial := self._next()) is not None:
            self._make(trial, docs, task, before, pixel_cache)

    def results(self) -> list[TrialResult]:
        """The trials that have ended, in their order."""
        return [
            _result(trial)
            for trial in self.study.get_trials(deepcopy=False)
            if trial.state.is_finished()
        ]

    def best(self) -> list[TrialResult]:
        """The complete trials whose model is kept, best first; of equals the earlier."""
        complete = [one for one in self.results() if one.state == "complete"]
        ranked = sorted(complete, key=lambda one: (-(one.value or 0.0), one.number))
        return ranked[: self.asked.keep]

    def options(self, result: TrialResult) -> TrainingOptions:
        """What a trial trained with."""
        return options_of(self.base, result.values, self.blocks)

    def artifact(self, number: int) -> Path:
        """The model of a trial that is kept."""
        return self._trial_folder(number) / "artifact"

    def history(self, number: int) -> list[Epoch]:
        """What the epochs of a complete trial came to."""
        history: list[Epoch] = self.study.trials[number].user_attrs.get("history", [])
        return history

    def importance(self) -> dict[str, float]:
        """How much of the differences between trials each axis explains, most first; sums to 1.

        PED-ANOVA (Watanabe et al., IJCAI 2023), of complete trials; empty where they are too few.
        """
        complete = [one for one in self.results() if one.state == "complete"]
        if len(complete) < _FEWEST_FOR_IMPORTANCE or len(self.axes) < 2:
            return {}
        return get_param_importances(self.study, evaluator=PedAnovaImportanceEvaluator())

    def _trial_folder(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:04d}"

    def _elapsed(self) -> float:
        return sum(_seconds(trial) for trial in self.study.get_trials(deepcopy=False))

    def _next(self) -> optuna.Trial | None:
        """The trial that was interrupted, or a new one; None: the time is over."""
        trials = self.study.get_trials(deepcopy=False)
        interrupted = [one for one in trials if one.state == TrialState.RUNNING]
        ended = sum(one.state.is_finished() for one in trials)
        most = self.asked.max_trials if self.axes else 1
        enough = most is not None and ended >= most
        is_over = enough or self._elapsed() >= 60 * self.asked.minutes
        if is_over and not interrupted and self.best():
            return None
        # Seeded anew for each trial: a search that was interrupted goes on as it would have.
        self.study.sampler = TPESampler(
            seed=self.base.seed + ended, multivariate=True, n_startup_trials=_RANDOM_TRIALS
        )
        if interrupted:
            trial = optuna.Trial(self.study, interrupted[0]._trial_id)
        else:
            trial = self.study.ask()
        for axis in self.axes:
            axis.suggest(trial)
        return trial

    def _make(
        self,
        trial: optuna.Trial,
        docs: DocList[ClipDoc],
        task: SearchTask,
        before: float,
        pixel_cache: Path | None,
    ) -> None:
        asked, folder = self.asked, self._trial_folder(trial.number)
        title = f"Trial {trial.number + 1}"
        frozen = self.study.trials[trial.number]
        spent = _seconds(frozen)
        others = self._elapsed() - spent
        has_model = any(one.state == "complete" for one in self.results())
        clock = TimeBudget(60 * asked.minutes - others if has_model else math.inf, spent)
        options = options_of(self.base, frozen.params, self.blocks)
        judging = PruningCallback(metric=asked.metric, limit=asked.limit, before=before)
        callbacks = [
            judging.start(task, trial, clock, frozen.intermediate_values),
            BestModelCheckpoint(monitor=asked.metric),
            EarlyStopping(monitor=asked.metric, patience=_PATIENCE),
        ]
        folder.mkdir(parents=True, exist_ok=True)
        logger = TrialLogger(self.logger, title)
        try:
            outcome = train(
                options, docs, None, callbacks, folder, logger, checkpoint_of(folder),
                pixel_cache=pixel_cache,
            )  # fmt: skip
        except TrialPruned as error:
            self._end(trial, clock, TrialState.PRUNED, reason=str(error))
        except (TrainingFailed, BadInput) as error:
            if trial.number == 0:
                raise  # the defaults themselves don't work
            # As a pruned one it teaches the sampler to keep away from there.
            self._end(trial, clock, TrialState.PRUNED, reason=str(error), failed=True)
        else:
            name = PREFIX + asked.metric
            values = [entry["metrics"][name] for entry in outcome.history]
            best = max(values)
            epoch = values.index(best) + 1
            attributes = {"epoch": epoch, "history": outcome.history}
            self._end(trial, clock, TrialState.COMPLETE, best, **attributes)

    def _end(
        self,
        trial: optuna.Trial,
        clock: TimeBudget,
        state: TrialState,
        value: float | None = None,
        **attributes: object,
    ) -> None:
        """Close a trial, keep no more of it than is needed, and say what it came to."""
        for name, attribute in {"seconds": clock.elapsed(), **attributes}.items():
            trial.set_user_attr(name, attribute)
        self.study.tell(trial, value, state)
        kept = {0, *(result.number for result in self.best())}
        for folder in (self.folder / "trials").iterdir():
            if int(folder.name) not in kept:
                shutil.rmtree(folder, ignore_errors=True)
            for part in ("checkpoints", "best-model"):
                shutil.rmtree(folder / part, ignore_errors=True)
        self._say(_result(self.study.trials[trial.number]))

    def _say(self, result: TrialResult) -> None:
        best = self.best()[0]
        outcome = "failed" if result.state == "failed" else "given up"
        if result.state == "complete":
            outcome = f"{self.asked.metric} {result.value:.4f} in epoch {result.epoch}"
        why = f" ({result.reason})" if result.reason else ""
        tried = ", ".join(f"{name} {short(value)}" for name, value in result.values.items())
        leader = (
            ""
            if best.number == result.number
            else (f"; best is trial {best.number + 1} with {best.value:.4f}")
        )
        spent = f"{self._elapsed() / 60:.1f} of {self.asked.minutes:g} minutes"
        self.logger.log(
            "INFO", f"trial {result.number + 1}: {outcome}{why}, by {tried}{leader}; {spent}"
        )


def _seconds(trial: FrozenTrial) -> float:
    return float(trial.user_attrs.get("seconds", 0.0))


def short(value: float | int | str) -> str:
    """A value on an axis, for people."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _result(trial: FrozenTrial) -> TrialResult:
    state = "complete" if trial.state == TrialState.COMPLETE else "pruned"
    if trial.state == TrialState.FAIL or trial.user_attrs.get("failed"):
        state = "failed"
    measured = trial.intermediate_values.values()
    return TrialResult(
        trial.number,
        state,
        trial.value if state == "complete" else max(measured, default=None),
        trial.params,
        _seconds(trial),
        trial.user_attrs.get("epoch"),
        trial.user_attrs.get("reason", ""),
    )

"""Telling TensorBoard, Weights & Biases and MLflow a run's options and figures."""

from __future__ import annotations

import json
import os
import sys
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, PrivateAttr, field_validator

from cliptune.errors import Unavailable
from cliptune.training.callbacks.base import RECORDS, Callback
from cliptune.training.callbacks.monitor import losses
from cliptune.training.run_logger import Cancelled
from cliptune.training.state import Training

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker


_LAUNCHER_VARIABLES = (
    "LOCAL_RANK",
    "WORLD_SIZE",
    "PMI_SIZE",
    "OMPI_COMM_WORLD_SIZE",
    "MV2_COMM_WORLD_SIZE",
)
"""What accelerate reads to find out whether it is one of several processes."""


class Tracker(Callback):
    """Base of the callbacks that tell a tracker the run's options and figures.

    Told are, with the number of steps since the run began:

    - `train/loss` and `train/learning_rate` of every `log_every`-th step,
    - `epoch/loss`, `epoch/val_loss` and `epoch/<metric>` of each epoch, and the metrics before
      training as those of step 0,
    - `after/<metric>`, those of the final model.

    A resumed run goes on as the same run of the tracker; what a killed process had told of steps
    after its last checkpoint is told again. No result depends on a tracker: one that fails is
    switched off, with a WARNING in the log. It needs `pip install 'cliptune[trackers]'`.
    """

    essential: ClassVar[bool] = False
    order: ClassVar[int] = RECORDS
    packages: ClassVar[tuple[str, ...]]
    """What has to be installed, beside accelerate."""

    log_every: int = Field(10, ge=1)
    """Steps from one training loss to the next."""

    _tracker: GeneralTracker | None = PrivateAttr(None)

    def check(self, has_val_loss: bool, callbacks: Sequence[Callback]) -> None:
        """Refuse to begin without the tracker's package.

        Raises:
            Unavailable: it is not installed.
            BadInput: there is a second callback of the class.
        """
        super().check(has_val_loss, callbacks)
        missing = [name for name in ("accelerate", *self.packages) if find_spec(name) is None]
        if missing:
            raise Unavailable(
                f"{type(self).__name__} needs {', '.join(missing)}: "
                "pip install 'cliptune[trackers]'"
            )

    @abstractmethod
    def open(self, training: Training, state: dict[str, str]) -> GeneralTracker:
        """The tracker of this run, started.

        `state` is empty for a new run; what is put there is found again in a resumed one.
        """

    def close(self, tracker: GeneralTracker, error: BaseException | None) -> None:
        """End the tracker's run, which ended with `error`, or finished."""
        tracker.finish()

    def on_train_begin(self, training: Training) -> None:
        """Begin the tracker's run, or go on with it."""
        state = self.state(training)
        is_new = not state
        with _alone():
            from accelerate.state import PartialState

            PartialState(cpu=True)
        self._tracker = self.open(training, state)
        if is_new:
            self._tracker.store_init_configuration(_configuration(training))
            self._tell("epoch", training.position.before, 0)

    def on_step_end(self, training: Training) -> None:
        """Tell the step's loss, if it is its turn."""
        if training.global_step % self.log_every == 0:
            figures = {"loss": training.last_loss, "learning_rate": training.learning_rate}
            self._tell("train", figures, training.global_step)

    def on_epoch_end(self, training: Training) -> None:
        """Tell the epoch's losses and metrics."""
        figures = {**losses(training.position.history[-1]), **training.epoch_metrics}
        self._tell("epoch", figures, training.global_step)

    def on_finish(self, training: Training) -> None:
        """Tell the final model's metrics."""
        self._tell("after", training.after, training.global_step)

    def on_close(self, training: Training) -> None:
        """End the tracker's run, if it was begun."""
        if self._tracker is not None:
            tracker, self._tracker = self._tracker, None
            self.close(tracker, sys.exception())

    def _tell(self, group: str, figures: Mapping[str, float], step: int) -> None:
        if self._tracker is not None and figures:
            named = {f"{group}/{name}": float(value) for name, value in figures.items()}
            self._tracker.log(named, step=step)


def _configuration(training: Training) -> dict[str, bool | int | float | str]:
    """The options in force, flat, each a bool, a number or a string."""
    options, position = training.options, training.position
    values = options.model_dump(mode="json") | {
        "optimizer": options.chosen_optimizer,
        "learning_rate": position.peak_learning_rate,
        "batch_size": position.batch_size,
        "micro_batch_size": position.micro_batch_size,
    }
    return {
        name: value if isinstance(value, bool | int | float | str) else json.dumps(value)
        for name, value in _flat(values)
    }


def _flat(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


@contextmanager
def _alone() -> Iterator[None]:
    """Hide the launcher's variables.

    accelerate's trackers ask its `PartialState` whether this is the main process. Callbacks run
    in the first process alone, so the answer is yes; but when it is first made under `torchrun`,
    it would join a process group that the others never join, and wait for ever.
    """
    hidden = {name: os.environ.pop(name) for name in _LAUNCHER_VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


class TensorBoardLogger(Tracker):
    """Write the run's figures as TensorBoard event files: `tensorboard --logdir FOLDER`."""

    name: Literal["TensorBoardLogger"] = "TensorBoardLogger"
    packages: ClassVar[tuple[str, ...]] = ("tensorboard",)

    logging_dir: Path | None = None
    """The files go into a folder of the run's name in it; None: `tensorboard` in the run's."""

    @field_validator("logging_dir")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else value.absolute()

    def open(self, training: Training, state: dict[str, str]) -> GeneralTracker:
        """Add an event file to the run's."""
        from accelerate.tracking import TensorBoardTracker

        folder = self.logging_dir or training.run_dir / "tensorboard"
        # Readers forget what an earlier process wrote of the steps from here on.
        first_step = training.global_step + 1 if state else 0
        tracker = TensorBoardTracker(training.run_dir.name, folder, purge_step=first_step)
        tracker.start()
        state["folder"] = str(folder)
        return tracker


class WandBLogger(Tracker):
    """Tell the run's options and figures to Weights & Biases, or keep them for it in a folder.

    Offline, they lie in `wandb` in the run's folder until `wandb sync` uploads them (with
    `--append` for the part of a resumed run). Neither code, git state, console output nor facts
    about the machine are recorded.
    """

    name: Literal["WandBLogger"] = "WandBLogger"
    packages: ClassVar[tuple[str, ...]] = ("wandb",)

    project: str = "cliptune"
    entity: str | None = None
    """The user or the team; None: the account's default."""
    offline: bool | None = None
    """None: as `WANDB_MODE` says, else online where an API key is configured, else offline."""

    def open(self, training: Training, state: dict[str, str]) -> GeneralTracker:
        """Begin a run of the run folder's name, or go on with the one of before."""
        os.environ["WANDB_ERROR_REPORTING"] = "false"
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb
        from accelerate.tracking import WandBTracker

        mode = self._mode()
        tracker = WandBTracker(
            self.project,
            entity=self.entity,
            name=training.run_dir.name,
            dir=training.run_dir,
            mode=mode,
            id=state.get("id"),
            resume="allow" if state and mode == "online" else None,
            settings=wandb.Settings(
                console="off",
                disable_code=True,
                disable_git=True,
                x_disable_machine_info=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
            ),
        )
        tracker.start()
        state["id"] = tracker.run.id
        training.logger.log("INFO", f"Weights & Biases ({mode}): {tracker.run.dir}")
        return tracker

    def close(self, tracker: GeneralTracker, error: BaseException | None) -> None:
        """End the W&B run; one that did not finish is shown as failed."""
        tracker.tracker.finish(exit_code=0 if error is None else 1)

    def _mode(self) -> str:
        if self.offline is not None:
            return "offline" if self.offline else "online"
        if mode := os.environ.get("WANDB_MODE"):
            return mode
        import wandb

        return "online" if wandb.login(prompt=False, verify=False) else "offline"


class MLflowLogger(Tracker):
    """Tell the run's options and figures to MLflow: a server, or a folder.

    A folder is looked at with `MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri FOLDER`.
    """

    name: Literal["MLflowLogger"] = "MLflowLogger"
    packages: ClassVar[tuple[str, ...]] = ("mlflow",)

    tracking_uri: str | None = None
    """`http://…` of a server, or a folder; None: `mlflow` in the run's own folder."""
    experiment: str = "cliptune"
    """The MLflow experiment that the run joins; it is made if it is not there."""

    def open(self, training: Training, state: dict[str, str]) -> GeneralTracker:
        """Begin an MLflow run, or set the one of before running again."""
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        # MLflow would rather have a database, and refuses plain folders without this.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        import mlflow
        from accelerate.tracking import MLflowTracker

        mlflow.set_tracking_uri(self.tracking_uri or (training.run_dir / "mlflow").as_uri())
        tracker = MLflowTracker(
            self.experiment, run_id=state.get("run_id"), run_name=training.run_dir.name
        )
        tracker.start()
        state["run_id"] = tracker.tracker.info.run_id
        return tracker

    def close(self, tracker: GeneralTracker, error: BaseException | None) -> None:
        """End the MLflow run as FINISHED, FAILED, or KILLED where it was cancelled."""
        import mlflow

        stopped = isinstance(error, Cancelled | KeyboardInterrupt)
        mlflow.end_run("FINISHED" if error is None else "KILLED" if stopped else "FAILED")

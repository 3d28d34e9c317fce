"""What the trackers have in common: which figures they are told, and when.

The trackers themselves are accelerate's (`accelerate.tracking`), imported when a run begins.
"""

from __future__ import annotations

import json
import os
import sys
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, PrivateAttr

from cliptune.errors import Unavailable
from cliptune.training.callbacks.base import RECORDS, Callback
from cliptune.training.callbacks.monitor import LOSSES

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

    from cliptune.training.state import Training

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
    def open(self, training: Training, state: dict[str, Any]) -> GeneralTracker:
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
        entry = training.position.history[-1]
        losses = {name: entry[name] for name in LOSSES if name in entry}
        self._tell("epoch", {**losses, **training.epoch_metrics}, training.global_step)

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


def _configuration(training: Training) -> dict[str, Any]:
    """The options in force, flat, each a bool, a number or a string."""
    options, position = training.options, training.position
    values = options.model_dump(mode="json") | {
        "learning_rate": options.peak_learning_rate,
        "batch_size": position.batch_size,
        "micro_batch_size": position.micro_batch_size,
    }
    return {
        name: value if isinstance(value, bool | int | float | str) else json.dumps(value)
        for name, value in _flat(values)
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
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

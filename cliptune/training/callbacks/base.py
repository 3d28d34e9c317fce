"""What a callback is, and how the loop calls the callbacks of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from cliptune.data.validation import ANYTHING, Needs
from cliptune.errors import BadInput, CliptuneError
from cliptune.training.options import explain
from cliptune.training.run_logger import Cancelled
from cliptune.training.state import Training

MEASURES, DECIDES, RECORDS = 0, 1, 2
"""The values of `Callback.order`."""


class CallbackFailed(CliptuneError):
    """A callback that the run's result depends on ended with an error that is no user's doing."""


class Callback(BaseModel):
    """Base of all callbacks: override the hooks that you need.

    A callback is a pydantic model, so that it travels to the run's own process as JSON. Where
    several processes train one model, the callbacks run in the first alone.

    **Resuming.** A resumed run must end like the uninterrupted one: what a callback has to
    remember goes into `state(training)`, which each checkpoint holds.

    **Failing.** An error of an `essential` callback ends the run. Any other callback is switched
    off for the rest of the run, and a WARNING in the log says so.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    essential: ClassVar[bool] = True
    """Whether the run's result depends on it."""
    order: ClassVar[int] = MEASURES
    """In each hook, callbacks that measure come before those that decide by what was measured,
    and these before those that record it; within each group they keep the order of the list."""

    name: str = ""
    """Tells the callbacks apart in JSON; each class fixes its own."""

    def __init__(self, **values: object) -> None:
        """Take the fields by name.

        Raises:
            BadInput: one is unknown or has a bad value; the message repeats it.
        """
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise BadInput(f"{type(self).__name__}: {explain(error)}") from error

    def check(self, has_val_loss: bool, callbacks: Sequence[Callback]) -> None:
        """Refuse what can't work, before anything is started.

        Args:
            has_val_loss: whether the run has evaluation data, so that epochs have a `val_loss`.
            callbacks: all callbacks of the run.

        Raises:
            CliptuneError: what the class says; here, that there is a second one of the class.
        """
        if any(type(other) is type(self) and other is not self for other in callbacks):
            raise BadInput(f"{type(self).__name__} is given twice")

    def needs(self, name: str) -> Needs:
        """What documents of its data in the field `name` must have."""
        return ANYTHING

    def metric_names(self) -> list[str]:
        """The names of what it adds to `training.epoch_metrics`."""
        return []

    def state(self, training: Training) -> dict[str, Any]:
        """What it remembers, to be changed in place: JSON, kept by each checkpoint."""
        state: dict[str, Any] = training.position.callbacks.setdefault(self.name, {})
        return state

    def on_train_begin(self, training: Training) -> None:
        """Before the first step; also before the first step of a resumed run."""

    def on_step_end(self, training: Training) -> None:
        """After each step; `training.last_loss` and `training.learning_rate` are the step's."""

    def on_epoch_end(self, training: Training) -> None:
        """After an epoch's steps; may add to `training.epoch_metrics` or call `stop()`.

        The epoch's losses are in `training.position.history[-1]`.
        """

    def on_train_end(self, training: Training) -> None:
        """After the last step; may change the weights under training, adapters included."""

    def on_merge(self, training: Training) -> None:
        """When adapters have been merged into the weights; may change the model."""

    def on_finish(self, training: Training) -> None:
        """When the model is final: what is measured now describes the artifact."""

    def on_close(self, training: Training) -> None:
        """Let go of what it holds; called last, however the run ended, once begun or not.

        `sys.exception()` is the error that ended the run, None where it finished.
        """


class Callbacks:
    """The callbacks of one run, in the order in which their hooks are called."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        """Take them in the order of the list (see `Callback.order`)."""
        self._callbacks = sorted(callbacks, key=lambda callback: callback.order)
        self._failed: set[int] = set()

    def check(self, has_val_loss: bool) -> None:
        """Have each callback refuse what can't work (see `Callback.check`).

        Raises:
            CliptuneError: one refuses; the message begins with its name.
        """
        for callback in self._callbacks:
            callback.check(has_val_loss, self._callbacks)

    def call(self, hook: str, training: Training) -> None:
        """Call `hook` (such as `on_epoch_end`) of all callbacks that have not failed.

        An error in `on_close` is but a warning, as the run's result stands by then; that hook is
        called on callbacks that have failed too.

        Raises:
            CliptuneError: an essential callback failed. An error of this class passes with the
                callback's name before its message, any other as `CallbackFailed`.
            Cancelled: a callback passed on the wish to stop.
        """
        closing = hook == "on_close"
        for callback in self._callbacks:
            if id(callback) in self._failed and not closing:
                continue
            name = type(callback).__name__
            try:
                getattr(callback, hook)(training)
            except Exception as error:
                words = " ".join(
                    f"{name} failed in {hook}: {type(error).__name__}: {error}".split()
                )
                if closing:
                    training.logger.log("WARNING", words)
                elif isinstance(error, Cancelled):
                    raise
                elif not callback.essential:
                    self._failed.add(id(callback))
                    training.logger.log("WARNING", f"{words} (it is off for the rest of the run)")
                elif isinstance(error, CliptuneError):
                    error.args = (f"{name}: {error}",)
                    raise
                else:
                    raise CallbackFailed(words) from error

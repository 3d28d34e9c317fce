"""Stopping when a figure no longer improves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from cliptune.training.callbacks.monitor import Monitor

if TYPE_CHECKING:
    from cliptune.training.state import Training


class EarlyStopping(Monitor):
    """End the training when the monitored figure has not improved for some epochs.

    As Keras' callback of that name does: each epoch that does not improve on the best so far
    counts, and an improvement sets the count to 0, if it also beats `baseline`. The weights stay
    those of the last epoch; `BestModelCheckpoint` puts the best ones back. A NaN is no
    improvement.
    """

    name: Literal["EarlyStopping"] = "EarlyStopping"
    patience: int = Field(2, ge=0)
    """That many epochs without an improvement end the training; 0 is as 1."""
    min_delta: float = Field(0.0, ge=0)
    """A smaller change than this, or one just as large, is no improvement."""
    baseline: float | None = None
    """A figure to beat: until an epoch does, improvements do not set the count to 0."""

    def on_train_begin(self, training: Training) -> None:
        """Stop again, where the run had been stopped before it was interrupted."""
        if reason := self.state(training).get("reason"):
            training.stop(reason)

    def on_epoch_end(self, training: Training) -> None:
        """Count, and stop when the patience is over."""
        state = self.state(training)
        value, best = self.value(training), state.get("best")
        state["wait"] = state.get("wait", 0) + 1
        if self.improves(value, best, self.min_delta):
            state["best"] = value
            if self.improves(value, self.baseline, self.min_delta):
                state["wait"] = 0
        elif state["wait"] >= self.patience:
            shown = "is not a number" if best is None else f"has not improved on {best:.5g}"
            state["reason"] = f"{self.monitor} {shown} (patience {self.patience})"
            training.stop(state["reason"])

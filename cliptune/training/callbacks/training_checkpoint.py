"""How many checkpoints stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from cliptune.training.callbacks.base import Callback

if TYPE_CHECKING:
    from cliptune.training.state import Training


class TrainingCheckpoint(Callback):
    """Keep the last checkpoints: weights, optimizer, schedule and position, to resume from.

    Every run writes one after each epoch and keeps the last; this keeps more of them.
    """

    name: Literal["TrainingCheckpoint"] = "TrainingCheckpoint"
    last_k_epochs: int = Field(1, ge=1)
    """How many stay in the run's `checkpoints` folder."""

    def on_train_begin(self, training: Training) -> None:
        """Tell the loop."""
        training.keep_checkpoints = self.last_k_epochs

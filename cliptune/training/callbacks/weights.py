"""What becomes of a run's weights: how many checkpoints stay, WiSE-FT at the end."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from cliptune.models.loading import load_model
from cliptune.models.wise_ft import check_alpha, interpolate
from cliptune.training.callbacks.base import Callback
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


class WiSEFTCallback(Callback):
    """After training, mix the weights with the pre-trained model's (see `models.wise_ft`)."""

    name: Literal["WiSEFTCallback"] = "WiSEFTCallback"
    alpha: float = 0.5
    """0 is the pre-trained model, 1 the fine-tuned one."""

    @field_validator("alpha")
    @classmethod
    def _in_range(cls, value: float) -> float:
        return check_alpha(value)

    def on_merge(self, training: Training) -> None:
        """Mix, in place."""
        tuned = training.model.clip.state_dict()
        # What had to be assumed of it was told when training began.
        before = load_model(training.options.model, tell=lambda words: None).clip.state_dict()
        training.model.clip.load_state_dict(interpolate(before, tuned, self.alpha))
        training.logger.log("INFO", f"WiSE-FT: weights mixed with alpha {self.alpha}")

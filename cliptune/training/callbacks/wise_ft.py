"""WiSE-FT after training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import field_validator

from cliptune.models.loading import load_model
from cliptune.models.wise_ft import check_alpha, interpolate
from cliptune.training.callbacks.base import Callback

if TYPE_CHECKING:
    from cliptune.training.state import Training


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
        training.reporter.log("INFO", f"WiSE-FT: weights mixed with alpha {self.alpha}")

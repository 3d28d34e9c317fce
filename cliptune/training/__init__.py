"""Fine-tuning both towers: options, losses, schedules, callbacks, the loop."""

from cliptune.training import callbacks
from cliptune.training.loop import Cancelled, Outcome, train
from cliptune.training.options import TrainingOptions

__all__ = ["Cancelled", "Outcome", "TrainingOptions", "callbacks", "train"]

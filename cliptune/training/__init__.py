"""Fine-tuning both towers: options, losses, schedules, callbacks, the loop."""

from cliptune.training import callbacks
from cliptune.training.loop import Outcome, train
from cliptune.training.options import TrainingOptions
from cliptune.training.run_logger import Cancelled

__all__ = ["Cancelled", "Outcome", "TrainingOptions", "callbacks", "train"]

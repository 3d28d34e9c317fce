"""Fine-tuning both towers: options, losses, schedules, callbacks, the loop."""

from cliptune.training import callbacks as callbacks
from cliptune.training.loop import Outcome as Outcome
from cliptune.training.loop import train as train
from cliptune.training.options import TrainingOptions as TrainingOptions
from cliptune.training.run_logger import Cancelled as Cancelled

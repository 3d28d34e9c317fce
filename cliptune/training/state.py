"""A training under way: what the loop and the callbacks share."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cliptune.models.loading import ClipModel
from cliptune.training.checkpoint import Position
from cliptune.training.distributed import World
from cliptune.training.options import TrainingOptions
from cliptune.training.run_logger import Reporter


@dataclass
class Training:
    """A run under way; callbacks read and change it."""

    options: TrainingOptions
    model: ClipModel
    device: torch.device
    run_dir: Path
    reporter: Reporter
    world: World = field(default_factory=World)
    position: Position = field(default_factory=Position)
    epoch_metrics: dict[str, float] = field(default_factory=dict)
    """The metrics of the epoch that is ending."""
    after: dict[str, float] = field(default_factory=dict)
    examples_after: dict[str, Any] = field(default_factory=dict)
    keep_checkpoints: int = 1
    learning_rate: float = 0.0
    """The rate of the step under way: the largest, where layers have their own."""
    global_step: int = 0
    """Steps since the run began."""
    last_loss: float = math.nan
    stopping: bool = False
    warning: str = ""
    """What is wrong with the run as it stands, though it goes on; empty if nothing is."""

    def stop(self, reason: str) -> None:
        """End training after this epoch."""
        self.reporter.log("INFO", f"stopping after epoch {len(self.position.history)}: {reason}")
        self.stopping = True

    def warn(self, message: str) -> None:
        """Say in the log and in the run's status what is wrong; an empty message takes it back."""
        if message and message != self.warning:
            self.reporter.log("WARNING", message)
        self.warning = message

    def report_metrics(self) -> None:
        """Tell the reporter all metrics so far."""
        report = {
            "before": self.position.before,
            "epochs": self.position.history,
            "evaluations": self.position.evaluations,
            "warning": self.warning,
        }
        self.reporter.metrics({**report, "after": self.after} if self.after else report)

"""Figures for TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import field_validator

from cliptune.training.callbacks.tracker import Tracker

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

    from cliptune.training.state import Training


class TensorBoardLogger(Tracker):
    """Write the run's figures as TensorBoard event files: `tensorboard --logdir FOLDER`."""

    name: Literal["TensorBoardLogger"] = "TensorBoardLogger"
    packages: ClassVar[tuple[str, ...]] = ("tensorboard",)

    logging_dir: Path | None = None
    """The files go into a folder of the run's name in it; None: `tensorboard` in the run's."""

    @field_validator("logging_dir")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else value.absolute()

    def open(self, training: Training, state: dict[str, Any]) -> GeneralTracker:
        """Add an event file to the run's."""
        from accelerate.tracking import TensorBoardTracker

        folder = self.logging_dir or training.run_dir / "tensorboard"
        # Readers forget what an earlier process wrote of the steps from here on.
        first_step = training.global_step + 1 if state else 0
        tracker = TensorBoardTracker(training.run_dir.name, folder, purge_step=first_step)
        tracker.start()
        state["folder"] = str(folder)
        return tracker

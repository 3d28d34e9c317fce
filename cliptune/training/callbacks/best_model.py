"""Keeping the best epoch's weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cliptune.errors import BadData
from cliptune.files import new_folder
from cliptune.training.callbacks.monitor import Monitor

if TYPE_CHECKING:
    from cliptune.training.state import Training

_WEIGHTS = "model.safetensors"


class BestModelCheckpoint(Monitor):
    """Keep the weights of the epoch with the best monitored figure; they go into the artifact.

    They lie in the run's folder as `best-model/epoch-00003/model.safetensors`. Of epochs that
    are equally good, the first counts.
    """

    name: Literal["BestModelCheckpoint"] = "BestModelCheckpoint"

    def on_epoch_end(self, training: Training) -> None:
        """Write the weights if they are the best so far."""
        state = self.state(training)
        value = self.value(training)
        # An older best goes only now: until the last checkpoint was written, a run that was
        # killed would have been resumed from a state that needs it.
        _remove_all_but(training.run_dir, state.get("epoch"))
        if self.improves(value, state.get("value")):
            epoch = training.position.epoch + 1
            weights = training.model.clip.state_dict()
            with new_folder(_folder(training.run_dir, epoch), replace=True) as beside:
                on_cpu = {k: v.detach().cpu().contiguous() for k, v in weights.items()}
                save_file(on_cpu, beside / _WEIGHTS)
            state.update(epoch=epoch, value=value)

    def on_train_end(self, training: Training) -> None:
        """Put the best weights back.

        Raises:
            BadData: they can't be read.
        """
        state = self.state(training)
        if not state:
            if training.position.history:
                training.reporter.log("WARNING", f"no epoch is the best: {self.monitor} was NaN")
            return
        path = _folder(training.run_dir, state["epoch"]) / _WEIGHTS
        try:
            training.model.clip.load_state_dict(load_file(path))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise BadData(f"the best weights at {path} can't be read: {error}") from error
        _remove_all_but(training.run_dir, state["epoch"])
        training.reporter.log(
            "INFO",
            f"the weights are those of the best epoch, {state['epoch']} of "
            f"{len(training.position.history)} ({self.monitor} {state['value']:.5g})",
        )


def _folder(run_dir: Path, epoch: int) -> Path:
    return run_dir / "best-model" / f"epoch-{epoch:05d}"


def _remove_all_but(run_dir: Path, epoch: int | None) -> None:
    """Remove other epochs' weights, and what a killed process left half written."""
    kept = None if epoch is None else _folder(run_dir, epoch)
    folder = run_dir / "best-model"
    for path in folder.iterdir() if folder.is_dir() else ():
        if path != kept:
            shutil.rmtree(path, ignore_errors=True)

"""Deciding by one figure of each epoch: stopping early, keeping the best epoch's weights."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cliptune.errors import BadData, BadInput, near_matches
from cliptune.files import new_folder
from cliptune.models.artifact import Epoch
from cliptune.training.callbacks.base import DECIDES, Callback
from cliptune.training.state import Training

LOSSES = ("loss", "val_loss")
"""What every epoch has; `val_loss` only with evaluation data."""


class Monitor(Callback):
    """Base of the callbacks that decide by one figure of each epoch."""

    order: ClassVar[int] = DECIDES

    monitor: str = "val_loss"
    """`loss`, `val_loss`, or a metric of an `EvaluationCallback`: its full name
    (`clip-text-to-clip-vision_reciprocal_rank`) or, where only one has it, `reciprocal_rank`."""
    mode: Literal["auto", "min", "max"] = "auto"
    """Whether lower or higher is better; `auto`: lower for losses, higher for the rest."""

    def check(self, has_val_loss: bool, callbacks: Sequence[Callback]) -> None:
        """Refuse a figure that this run will not have.

        Raises:
            BadInput: so it is, or there is a second callback of the class.
        """
        super().check(has_val_loss, callbacks)
        names = list(LOSSES if has_val_loss else LOSSES[:1])
        for callback in callbacks:
            names += callback.metric_names()
        try:
            find_metric(self.monitor, names)
        except BadInput as error:
            raise BadInput(f"{type(self).__name__}: {error}") from error

    def value(self, training: Training) -> float:
        """The monitored figure of the epoch that is ending.

        Raises:
            BadInput: the epoch has no such figure.
        """
        entry = training.position.history[-1]
        figures = {**losses(entry), **training.epoch_metrics}
        return float(figures[find_metric(self.monitor, figures)])

    def improves(self, value: float, reference: float | None, min_delta: float = 0.0) -> bool:
        """Whether `value` is better than `reference` by more than `min_delta`.

        Any number is better than None; NaN never is better.
        """
        if math.isnan(value) or reference is None:
            return not math.isnan(value)
        lower_is_better = self.mode == "min" or (self.mode == "auto" and self.monitor in LOSSES)
        gain = reference - value if lower_is_better else value - reference
        return gain > min_delta


def losses(entry: Epoch) -> dict[str, float]:
    """Those of `LOSSES` that an epoch has."""
    figures = {"loss": entry.get("loss"), "val_loss": entry.get("val_loss")}
    return {name: value for name, value in figures.items() if value is not None}


def find_metric(monitor: str, names: Iterable[str]) -> str:
    """The one of `names` that `monitor` means: the name itself, or a metric's short name.

    Raises:
        BadInput: it means none of them, or several.
    """
    names = list(names)
    if monitor in names:
        return monitor
    meant = [name for name in names if _short(name) == monitor]
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise BadInput(f"monitor is {monitor!r}: write which, {' or '.join(map(repr, meant))}")
    if monitor == "val_loss":
        raise BadInput(
            "monitor is 'val_loss', and the run has none: give it eval_data or val_split, or "
            f"monitor something else: {near_matches('', names)}"
        )
    known = [*names, *dict.fromkeys(_short(name) for name in names if name not in LOSSES)]
    raise BadInput(f"monitor is {monitor!r}, which is not measured: {near_matches(monitor, known)}")


def _short(name: str) -> str:
    """`reciprocal_rank` of `clip-text-to-clip-vision_reciprocal_rank`."""
    towers, _, metric = name.partition("_")
    return metric if "-to-" in towers else name


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
                training.logger.log("WARNING", f"no epoch is the best: {self.monitor} was NaN")
            return
        path = _folder(training.run_dir, state["epoch"]) / _WEIGHTS
        try:
            training.model.clip.load_state_dict(load_file(path))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise BadData(f"the best weights at {path} can't be read: {error}") from error
        _remove_all_but(training.run_dir, state["epoch"])
        training.logger.log(
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

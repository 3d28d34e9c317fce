"""Watching one figure from epoch to epoch: which one, and when it has improved."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from cliptune.errors import BadInput, near_matches
from cliptune.training.callbacks.base import DECIDES, Callback

if TYPE_CHECKING:
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
        figures = {name: entry[name] for name in LOSSES if name in entry}
        figures |= training.epoch_metrics
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

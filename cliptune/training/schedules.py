"""Learning-rate schedules: a factor on the peak rate by step, after a linear warm-up."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from cliptune.errors import BadInput

Decay = Callable[[float, dict[str, Any]], float]
"""(progress after the warm-up in [0, 1], options) to a factor in [0, 1]."""


def _linear(progress: float, _: dict[str, Any]) -> float:
    return 1 - progress


def _cosine(progress: float, options: dict[str, Any]) -> float:
    cycles = float(options.get("num_cycles", 0.5))
    return max(0.0, 0.5 * (1 + math.cos(2 * math.pi * cycles * progress)))


def _cosine_with_restarts(progress: float, options: dict[str, Any]) -> float:
    cycles = int(options.get("num_cycles", 1))
    return 0.0 if progress >= 1 else 0.5 * (1 + math.cos(math.pi * (cycles * progress % 1)))


def _polynomial(progress: float, options: dict[str, Any]) -> float:
    end = float(options.get("end_factor", 1e-4))
    return (1 - end) * (1 - progress) ** float(options.get("power", 1.0)) + end


def _constant(_: float, __: dict[str, Any]) -> float:
    return 1.0


SCHEDULES: dict[str, Decay] = {
    "linear": _linear,
    "cosine": _cosine,
    "cosine_with_restarts": _cosine_with_restarts,
    "polynomial": _polynomial,
    "constant": _constant,
    "constant_with_warmup": _constant,
}
_OPTIONS = {
    "cosine": {"num_cycles"},
    "cosine_with_restarts": {"num_cycles"},
    "polynomial": {"power", "end_factor"},
}
_DEFAULT_WARMUP = 0.1


def make_schedule(
    name: str, options: dict[str, Any], optimizer: Optimizer, epochs: int, steps_per_epoch: int
) -> LambdaLR:
    """The schedule `name`, to be stepped after every batch.

    `options` may hold `num_warmup_steps` (a number, or a part of all below 1; default 0.1),
    `num_training_steps` (default `'auto'`: all), the schedule's own, and `scheduler_step`: with
    `'epoch'` the rate changes between epochs only, and both numbers count epochs.

    Raises:
        BadInput: an option that this schedule does not have, a bad value, or a warm-up that does
            not end before the training does.
    """
    known = {"num_warmup_steps", "num_training_steps", "scheduler_step"} | _OPTIONS.get(name, set())
    unknown = sorted(set(options) - known)
    if unknown:
        raise BadInput(f"scheduler {name!r} has no option {unknown[0]!r}: it has {sorted(known)}")
    unit = options.get("scheduler_step", "batch")
    if unit not in ("batch", "epoch"):
        raise BadInput(f"scheduler_step is {unit!r}: use 'batch' or 'epoch'")
    batches_a_step = steps_per_epoch if unit == "epoch" else 1
    total = epochs * steps_per_epoch // batches_a_step
    default = 0 if name == "constant" else _DEFAULT_WARMUP
    warmup = _warmup_steps(options.get("num_warmup_steps", default), total)
    total = _training_steps(options.get("num_training_steps", "auto"), total)
    if warmup > total > 0:
        raise BadInput(
            f"num_warmup_steps is {warmup}, and there are {total} steps ({unit}): use fewer, or a "
            "part of them such as 0.1"
        )
    decay = SCHEDULES[name]

    def factor(batch: int) -> float:
        step = batch // batches_a_step
        if step < warmup:
            return (step + 1) / (warmup + 1)
        progress = (step - warmup) / max(1, total - warmup)
        return decay(min(1.0, progress), options)

    return LambdaLR(optimizer, factor)


def _training_steps(value: Any, total_steps: int) -> int:
    if value == "auto":
        return total_steps
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise BadInput(f"num_training_steps is {value!r}: use 'auto' or a number from 1")
    return value


def _warmup_steps(value: Any, total_steps: int) -> int:
    if not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise BadInput(f"num_warmup_steps is {value!r}: use a number of steps, or a part below 1")
    return round(value * total_steps) if 0 < value < 1 else int(value)

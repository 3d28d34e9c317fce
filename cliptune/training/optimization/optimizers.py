"""Optimizers and learning-rate schedules by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from cliptune.errors import BadInput
from cliptune.training.optimization.freezing import parameter_depths
from cliptune.training.optimization.muon import Muon

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    name: getattr(torch.optim, name)
    for name in ("Adam", "AdamW", "SGD", "RMSprop", "Adagrad", "NAdam", "RAdam", "Adamax")
} | {"Muon": Muon}
# open_clip's own training defaults for CLIP (betas, eps), with the milder decay of fine-tuning.
_DEFAULTS: dict[str, dict[str, object]] = {
    "AdamW": {"betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.05},
    "Muon": {"weight_decay": 0.05},
    "SGD": {"momentum": 0.9},
}


def make_optimizer(
    name: str, options: Mapping[str, object], learning_rate: float, module: nn.Module
) -> Optimizer:
    """The optimizer `name` over the trainable parameters of `module`.

    Gains, biases and other parameters of fewer than two dimensions, the logit scale among
    them, are not decayed. `options` are the optimizer's own arguments, and
    `layer_wise_lr_decay` (Howard & Ruder, 2018): a factor in (0, 1] by which the learning rate
    falls from each block of a tower to the one before it.

    Raises:
        BadInput: an option that this optimizer does not take, or nothing to train.
    """
    settings = {**_DEFAULTS.get(name, {}), **options}
    weight_decay = _number(settings, "weight_decay", 0.0)
    factors = _rate_factors(module, settings.pop("layer_wise_lr_decay", 1.0))
    settings.pop("weight_decay", None)
    groups: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
    for parameter_name, parameter in module.named_parameters():
        if parameter.requires_grad:
            decayed = parameter.ndim >= 2 and "positional_embedding" not in parameter_name
            is_matrix = decayed and "token_embedding" not in parameter_name
            key = (factors.get(parameter_name, 1.0), decayed, name == "Muon" and is_matrix)
            groups.setdefault(key, []).append(parameter)
    if not groups:
        raise BadInput("all parameters are frozen: there is nothing to train")
    if isinstance(betas := settings.get("betas"), list):
        settings["betas"] = tuple(betas)
    by_rate: list[dict[str, object]] = [
        {
            "params": params,
            "lr": learning_rate * factor,
            "weight_decay": weight_decay * decayed,
            **({"matrices": is_matrix} if name == "Muon" else {}),
        }
        for (factor, decayed, is_matrix), params in groups.items()
    ]
    try:
        return OPTIMIZERS[name](by_rate, lr=learning_rate, **settings)
    except (TypeError, ValueError) as error:
        raise BadInput(f"optimizer_options {options!r} do not fit {name}: {error}") from error


def _rate_factors(module: nn.Module, decay: object) -> dict[str, float]:
    """By parameter name: decay ** (blocks between it and its tower's end)."""
    if not isinstance(decay, int | float) or not 0 < decay <= 1:
        raise BadInput(f"layer_wise_lr_decay is {decay!r}: use a number above 0, up to 1")
    factors: dict[str, float] = {}
    for depths in parameter_depths(module).values():
        last = max(depths.values(), default=0)
        factors.update({name: decay ** (last - depth) for name, depth in depths.items()})
    return factors


Decay = Callable[[float, Mapping[str, object]], float]
"""(progress after the warm-up in [0, 1], options) to a factor in [0, 1]."""


def _cosine(progress: float, options: Mapping[str, object]) -> float:
    cycles = _number(options, "num_cycles", 0.5)
    return max(0.0, 0.5 * (1 + math.cos(2 * math.pi * cycles * progress)))


def _cosine_with_restarts(progress: float, options: Mapping[str, object]) -> float:
    cycles = int(_number(options, "num_cycles", 1))
    return 0.0 if progress >= 1 else 0.5 * (1 + math.cos(math.pi * (cycles * progress % 1)))


def _polynomial(progress: float, options: Mapping[str, object]) -> float:
    end = _number(options, "end_factor", 1e-4)
    return (1 - end) * math.pow(1 - progress, _number(options, "power", 1.0)) + end


SCHEDULES: dict[str, Decay] = {
    "linear": lambda progress, _: 1 - progress,
    "cosine": _cosine,
    "cosine_with_restarts": _cosine_with_restarts,
    "polynomial": _polynomial,
    "constant": lambda *_: 1.0,
    "constant_with_warmup": lambda *_: 1.0,
}
_OPTIONS = {
    "cosine": {"num_cycles"},
    "cosine_with_restarts": {"num_cycles"},
    "polynomial": {"power", "end_factor"},
}
_DEFAULT_WARMUP = 0.1


def make_schedule(
    name: str,
    options: Mapping[str, object],
    optimizer: Optimizer,
    epochs: int,
    steps_per_epoch: int,
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


def _number(options: Mapping[str, object], name: str, default: float) -> float:
    """The option `name`, a number.

    Raises:
        BadInput: it is none.
    """
    value = options.get(name, default)
    if not isinstance(value, int | float):
        raise BadInput(f"{name} is {value!r}: use a number")
    return float(value)


def _training_steps(value: object, total_steps: int) -> int:
    if value == "auto":
        return total_steps
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise BadInput(f"num_training_steps is {value!r}: use 'auto' or a number from 1")
    return value


def _warmup_steps(value: object, total_steps: int) -> int:
    if not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise BadInput(f"num_warmup_steps is {value!r}: use a number of steps, or a part below 1")
    return round(value * total_steps) if 0 < value < 1 else int(value)

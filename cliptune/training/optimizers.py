"""Optimizers by name, over parameter groups with and without weight decay."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from cliptune.errors import BadInput
from cliptune.training.freezing import parameter_depths

OPTIMIZERS: dict[str, type[Optimizer]] = {
    name: getattr(torch.optim, name)
    for name in ("Adam", "AdamW", "SGD", "RMSprop", "Adagrad", "NAdam", "RAdam", "Adamax")
}
# open_clip's own training defaults for CLIP (betas, eps), with the milder decay of fine-tuning.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "AdamW": {"betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.05},
    "SGD": {"momentum": 0.9},
}


def make_optimizer(
    name: str, options: dict[str, Any], learning_rate: float, module: nn.Module
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
    weight_decay = settings.pop("weight_decay", 0.0)
    factors = _rate_factors(module, settings.pop("layer_wise_lr_decay", 1.0))
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter_name, parameter in module.named_parameters():
        if parameter.requires_grad:
            decayed = parameter.ndim >= 2 and "positional_embedding" not in parameter_name
            key = (factors.get(parameter_name, 1.0), decayed)
            groups.setdefault(key, []).append(parameter)
    if not groups:
        raise BadInput("all parameters are frozen: there is nothing to train")
    if "betas" in settings:
        settings["betas"] = tuple(settings["betas"])
    by_rate: list[dict[str, Any]] = [
        {"params": params, "lr": learning_rate * factor, "weight_decay": weight_decay * decayed}
        for (factor, decayed), params in groups.items()
    ]
    try:
        return OPTIMIZERS[name](by_rate, lr=learning_rate, **settings)  # type: ignore[call-arg]
    except (TypeError, ValueError) as error:
        raise BadInput(f"optimizer_options {options!r} do not fit {name}: {error}") from error


def _rate_factors(module: nn.Module, decay: Any) -> dict[str, float]:
    """By parameter name: decay ** (blocks between it and its tower's end)."""
    if not isinstance(decay, int | float) or not 0 < decay <= 1:
        raise BadInput(f"layer_wise_lr_decay is {decay!r}: use a number above 0, up to 1")
    factors: dict[str, float] = {}
    for depths in parameter_depths(module).values():
        last = max(depths.values(), default=0)
        factors.update({name: decay ** (last - depth) for name, depth in depths.items()})
    return factors

"""Optimizers by name, over parameter groups with and without weight decay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from cliptune.errors import BadInput

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
    them, are not decayed.

    Raises:
        BadInput: an option that this optimizer does not take.
    """
    settings = {**_DEFAULTS.get(name, {}), **options}
    decay = settings.pop("weight_decay", 0.0)
    groups = [
        {"params": list(_parameters(module, decayed=True)), "weight_decay": decay},
        {"params": list(_parameters(module, decayed=False)), "weight_decay": 0.0},
    ]
    if "betas" in settings:
        settings["betas"] = tuple(settings["betas"])
    try:
        return OPTIMIZERS[name](groups, lr=learning_rate, **settings)  # type: ignore[call-arg]
    except (TypeError, ValueError) as error:
        raise BadInput(f"optimizer_options {options!r} do not fit {name}: {error}") from error


def _parameters(module: nn.Module, *, decayed: bool) -> Iterable[nn.Parameter]:
    for name, parameter in module.named_parameters():
        is_decayed = parameter.ndim >= 2 and "positional_embedding" not in name
        if parameter.requires_grad and is_decayed == decayed:
            yield parameter

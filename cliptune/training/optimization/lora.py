"""LoRA: train small low-rank matrices beside the towers' own weights (Hu et al., 2021), by peft."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from cliptune.errors import BadInput
from cliptune.extras import need
from cliptune.training.optimization.freezing import parameter_depths


class LoraOptions(BaseModel):
    """How large the adapters are. The weights themselves stay; `merge` adds the adapters to them.

    It needs a fraction of the optimiser's memory, and forgets less of the pre-training than full
    fine-tuning does; with much data, full fine-tuning gets further.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(8, ge=1, le=1024)
    """The rank of each adapter's two factors."""
    alpha: float = Field(16.0, gt=0)
    """The adapters' product is scaled by alpha / rank."""


class Adapters:
    """The adapters of a model under training."""

    def __init__(self, clip: nn.Module, options: LoraOptions) -> None:
        """Put adapters beside the linear and attention layers of both towers' trained blocks.

        The model's other parameters are frozen, but for the logit scale and bias.

        Raises:
            Unavailable: `cliptune[lora]` is not installed.
            BadInput: the model has no layer for an adapter.
        """
        need("lora", "lora")
        from peft import LoraConfig
        from peft.tuners.lora import LoraModel

        targets = _layers(clip)
        if not targets:
            raise BadInput("lora: no trained block of this model has a linear or attention layer")
        config = LoraConfig(
            r=options.rank,
            lora_alpha=options.alpha,  # type: ignore[arg-type]
            # A pattern for whole names: peft takes a list's names for suffixes.
            target_modules="|".join(map(re.escape, targets)),
        )
        scalars = [p for n, p in clip.named_parameters() if n.startswith("logit_")]
        self._tuned = LoraModel(clip, config, "default")
        for parameter in scalars:
            parameter.requires_grad_(True)
        self.count = len(targets)
        """How many layers have an adapter."""

    def merge(self) -> None:
        """Add the adapters to the weights and take them away: the model is a plain one again."""
        self._tuned.merge_and_unload()


def _layers(clip: nn.Module) -> list[str]:
    """The names of the linear and attention layers in blocks that are not frozen."""
    depths: dict[str, int] = {}
    for by_name in parameter_depths(clip).values():
        depths.update(by_name)
        last = max(by_name.values(), default=0)
        heads = {name for name, depth in by_name.items() if depth == last}
        for name in heads:
            del depths[name]
    adapted: list[str] = []
    for name, module in clip.named_modules():
        if any(name.startswith(f"{outer}.") for outer in adapted):
            continue  # an attention's own output projection
        # A convolution of one pixel is a linear layer: ConvNeXt's and ResNets' are.
        is_linear = isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)
        is_linear = is_linear and module.groups == 1
        if is_linear or isinstance(module, nn.Linear | nn.MultiheadAttention):
            first, parameter = next(iter(module.named_parameters()))
            if parameter.requires_grad and f"{name}.{first}" in depths:
                adapted.append(name)
    return adapted

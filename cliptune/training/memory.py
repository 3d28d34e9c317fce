"""How many pairs fit into memory at once."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

from cliptune.models.loading import ClipModel
from cliptune.training.optimization.freezing import training_mode

_MARGIN = 0.5
"""The part of free memory for activations: the backward pass, the optimizer and the rest of the
machine need some too."""
_CGROUP = Path("/sys/fs/cgroup")


def largest_fitting(
    model: ClipModel, tokens: Tensor, device: torch.device, dtype: torch.dtype | None, share: int
) -> int:
    """How many pairs fit through the towers at once with all that the backward pass needs.

    Measured on a few pairs, as the bytes of the tensors that autograd keeps for each, and held
    against half of the free memory.

    Args:
        model: with the parameters frozen that are not trained.
        tokens: int64 [N, L] of the training texts.
        device: where the model is.
        dtype: the autocast dtype, None for fp32.
        share: how many processes share the memory.
    """
    few, more = (_kept_bytes(model, tokens, n, device, dtype) for n in (2, 6))
    a_pair = max(1, (more - few) // 4)
    return max(1, int(_MARGIN * free_bytes(device) / share / a_pair))


def free_bytes(device: torch.device) -> int:
    """The memory that can be had on `device`; a container's limit counts."""
    if device.type == "cuda":
        unused, _ = torch.cuda.mem_get_info(device)
        # What torch keeps for itself but does not use is free for us as well.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return unused + kept
    free: int = psutil.virtual_memory().available
    for limit_file, used_file in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            limit = int((_CGROUP / limit_file).read_text())
            used = int((_CGROUP / used_file).read_text())
        except (OSError, ValueError):  # no container, or no limit ("max")
            continue
        free = min(free, max(0, limit - used))
    return free


def _kept_bytes(
    model: ClipModel, tokens: Tensor, n: int, device: torch.device, dtype: torch.dtype | None
) -> int:
    """The bytes of all tensors that autograd keeps for a forward pass of `n` pairs."""
    storages: dict[int, int] = {}
    alive: list[Tensor] = []  # a freed tensor's address may be another's a moment later

    def note(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        alive.append(tensor)
        return tensor

    modules: list[tuple[nn.Module, Tensor]] = [
        (model.vision_module, torch.zeros(n, 3, *model.preprocessing.size, device=device)),
        (model.text_module, tokens[:1].expand(n, -1).to(device)),
    ]
    training_mode(model.clip)
    context = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with context, torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        alive.extend(module(x) for module, x in modules)
    return sum(storages.values())

"""Several processes that train one model: who this one is, and what they tell each other.

Started by `torchrun` (its environment variables say how many there are), with gloo on CPUs and
NCCL on GPUs. Every process holds the whole model and works on its part of each batch; the first
(rank 0) alone evaluates, writes and reports, while the others wait for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import ParamSpec

import torch
import torch.distributed as dist
from torch import Tensor

from cliptune.errors import BadInput, CliptuneError
from cliptune.training.batches.pairs import share

# The others wait while rank 0 evaluates: minutes for some, and nobody should be cut off.
_TIMEOUT = timedelta(hours=12)
P = ParamSpec("P")


class ProcessesLost(CliptuneError):
    """Another process of the run has ended: it can't go on without it."""


def own_device(device: torch.device) -> torch.device:
    """This process's own GPU, where several processes share a machine's; else `device`.

    Raises:
        BadInput: there are fewer GPUs than processes.
    """
    rank, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if device.type != "cuda" or device.index is not None or "LOCAL_RANK" not in os.environ:
        return device
    if rank >= count:
        raise BadInput(f"process {rank} has no GPU of its own: this machine has {count}")
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    return device


@dataclass(frozen=True)
class World:
    """The processes of a run; alone by default, when all calls give back what they were given."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: torch.device) -> World:
        """Meet the other processes, if `torchrun` has started some."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        if not dist.is_initialized():
            backend = "nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=_TIMEOUT)
        return cls(dist.get_rank(), size)

    @property
    def local_size(self) -> int:
        """How many of the processes are on this machine."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if self.size > 1 else 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that evaluates, writes and reports."""
        return self.rank == 0

    def gather(self, own: Tensor, count: int) -> Tensor:
        """All processes' parts of a batch of `count`, [count, D], from each one's `own` part."""
        if self.size == 1:
            return own
        parts = [share(count, rank, self.size) for rank in range(self.size)]
        longest = max(part.stop - part.start for part in parts)
        padded = own.new_zeros(longest, *own.shape[1:])
        padded[: len(own)] = own
        everyone = [torch.empty_like(padded) for _ in parts]
        _told(dist.all_gather, everyone, padded)
        return torch.cat([x[: p.stop - p.start] for x, p in zip(everyone, parts, strict=True)])

    def sum_(self, tensor: Tensor) -> Tensor:
        """Add up `tensor` over all processes, in place; returns it."""
        if self.size > 1:
            _told(dist.all_reduce, tensor)
        return tensor

    def sum_all_(self, tensors: Sequence[Tensor]) -> None:
        """`sum_` of many tensors in one message."""
        if self.size > 1 and tensors:
            whole = self.sum_(torch.cat([tensor.reshape(-1) for tensor in tensors]))
            sizes = [tensor.numel() for tensor in tensors]
            for tensor, part in zip(tensors, torch.split(whole, sizes), strict=True):
                tensor.copy_(part.view_as(tensor))

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether `flag` is true in any process; the same answer in all."""
        if self.size == 1:
            return flag
        return bool(self.sum_(torch.tensor(float(flag), device=device)))

    def wait(self, device: torch.device) -> None:
        """Wait until all processes have come this far."""
        self.any(False, device)

    def from_first(self, values: Tensor, device: torch.device) -> Tensor:
        """What rank 0 has as `values` (of one shape and dtype everywhere), in every process."""
        if self.size == 1:
            return values
        sent = values.to(device)
        _told(dist.broadcast, sent, 0)
        return sent.to(values.device)


def _told(collective: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
    try:
        collective(*args, **kwargs)
    except RuntimeError as error:
        raise ProcessesLost(
            "another process of this run has ended (see the log for its reason): "
            f"{str(error).splitlines()[0][:200]}"
        ) from error

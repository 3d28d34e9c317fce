"""The tower that an encoder executor serves to many clients at once."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cliptune.serving import settings
from cliptune.serving.workers import prepare_worker

if TYPE_CHECKING:  # importing it imports torch, which must not happen before Jina's fork
    from cliptune.inference import TextTower, VisionTower


def serve_tower(
    name: Literal["clip-text", "clip-vision"],
    artifact: str | None,
    is_onnx: bool | None,
    precision: str | None,
    device: str | None,
    *,
    batch_size: int,
    max_wait_ms: float,
    replicas: int,
) -> Any:
    """Load a tower whose batches all requests share, on this executor's part of the cores.

    To be called in the executor's own process: native threads don't survive Jina's fork.

    Args:
        name: which tower.
        artifact: an artifact's path, or a model's name; None: CLIPTUNE_ARTIFACT or `builtin`.
        is_onnx: run the artifact's ONNX model; None: CLIPTUNE_ONNX or no.
        precision: `fp32`, `int8` or `bf16`, as the artifact has it; None: CLIPTUNE_PRECISION.
        device: `cpu`, `cuda`, …; None: CLIPTUNE_DEVICE or the accelerator that is there.
        batch_size: texts or pictures that go through the tower at once.
        max_wait_ms: how long a batch waits to be full while requests overlap.
        replicas: processes on this machine that share its cores.

    Returns:
        A `TextTower` or `VisionTower`.
    """
    import torch

    from cliptune.inference import get_tower
    from cliptune.inference.batching import share_batches

    chosen: Any = settings.precision(precision)  # get_tower checks it
    threads = max(1, usable_cores() // replicas)
    torch.set_num_threads(threads)
    tower: TextTower | VisionTower = get_tower(
        settings.artifact(artifact),
        name,
        is_onnx=settings.is_onnx(is_onnx),
        precision=chosen,
        device=settings.device(device),
        batch_size=batch_size,
        threads=threads,
    )
    share_batches(tower, max_wait=max_wait_ms / 1000)
    prepare_worker()
    return tower


def usable_cores() -> int:
    """The cores that this process may use: its affinity, and its container's limit."""
    cores = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, max(1, round(int(quota) / int(period))))
    return cores

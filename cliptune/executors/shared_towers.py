"""The towers that an encoder executor serves to many clients at once."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cliptune.executors.model_pool import ServedTowers
from cliptune.index.versions.manifest import Generations
from cliptune.protocol import redaction
from cliptune.settings import Settings

if TYPE_CHECKING:  # importing it imports torch, which must not happen before Jina's fork
    from cliptune.inference import TextTower, VisionTower
    from cliptune.inference.instrumentation import Observe


def serve_towers(
    name: Literal["clip-text", "clip-vision"],
    settings: Settings,
    *,
    batch_size: int,
    max_wait_ms: float,
    replicas: int,
    observe: Observe,
    query_cache: int = 0,
) -> ServedTowers[Any]:
    """Load the current tower: all requests share its batches, on this executor's part of the cores.

    Other generations' towers are loaded when they are wanted. To be called in the executor's own
    process: native threads don't survive Jina's fork.

    Args:
        name: which tower.
        settings: which model, and how it is run.
        batch_size: texts or pictures that go through the tower at once.
        max_wait_ms: how long a batch waits to be full while requests overlap.
        replicas: processes on this machine that share its cores.
        observe: told of what the tower does.
        query_cache: how many texts' embeddings each text tower remembers.

    Returns:
        Of `TextTower` or `VisionTower`.
    """
    import torch

    from cliptune.inference import get_tower
    from cliptune.inference.batching import share_batches
    from cliptune.inference.cache import EmbeddingCache
    from cliptune.models.loading import pick_device

    threads = max(1, usable_cores() // replicas)
    torch.set_num_threads(threads)
    on_gpu = pick_device(settings.device).type == "cuda"
    compiled = on_gpu and not settings.onnx if settings.compile is None else settings.compile

    def load(path: str) -> TextTower | VisionTower:
        tower: TextTower | VisionTower = get_tower(
            path,
            name,
            is_onnx=settings.onnx,
            precision=settings.precision,
            device=settings.device,
            batch_size=batch_size,
            threads=threads,
            compiled=compiled,
        )
        tower.observe = observe
        share_batches(tower, max_wait=max_wait_ms / 1000, threads=2 if on_gpu else 1)
        if compiled:
            _warm_up(tower)
        if query_cache and name == "clip-text":
            tower.cache = EmbeddingCache(query_cache)  # type: ignore[union-attr]
        return tower

    generations = Generations(settings.index_uri, settings.generations)
    told = {
        "artifact": settings.artifact,
        "onnx": settings.onnx,
        "precision": settings.precision,
        "place": redaction.note({"artifact": settings.artifact}),
    }
    return ServedTowers(load, settings.artifact, generations, told)


def _warm_up(tower: Any) -> None:
    """Compile before the first request comes; of two sizes, since one would be taken as fixed."""
    import numpy as np

    if tower.name == "clip-text":
        for texts in (["a"], ["a", "a longer text", "one more"]):
            tower.encode(texts)
        return
    for count in (1, 3):
        tower.encode([np.zeros((64, 64, 3), np.uint8)] * count)


def usable_cores() -> int:
    """The cores that this process may use: its affinity, and its container's limit."""
    cores = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, max(1, round(int(quota) / int(period))))
    return cores

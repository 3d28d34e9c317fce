"""`Encoder`: what the two encoder executors share, each with a tower that serves many clients."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from cliptune.executors.base import ObservedExecutor
from cliptune.executors.model_pool import ServedTowers
from cliptune.index.versions.manifest import Generations
from cliptune.protocol import redaction
from cliptune.protocol.status import TowerStatus
from cliptune.settings import Settings

if TYPE_CHECKING:  # importing it imports torch, which must not happen before Jina's fork
    from cliptune.inference import TextTower, VisionTower


class Encoder(ObservedExecutor):
    """Embeds by one kind of tower, on this executor's part of the cores.

    All requests share the tower's batches. Other generations' towers are loaded when they are
    wanted.
    """

    tower: ClassVar[Literal["clip-text", "clip-vision"]]

    def __init__(
        self,
        artifact: str | None = None,
        is_onnx: bool | None = None,
        precision: str | None = None,
        device: str | None = None,
        batch_size: int = 32,
        max_wait_ms: float = 2.0,
        query_cache: int = 0,
        engine: str | None = None,
        **kwargs: object,
    ) -> None:
        """Load the tower: that of the index's current generation, if it has some.

        Args:
            artifact: an artifact's path, or a model's name; None: CLIPTUNE_ARTIFACT or `builtin`.
            is_onnx: as `engine="onnx"`; None: CLIPTUNE_ONNX or no.
            precision: `fp32`, or what `cliptune quantize` added; None: CLIPTUNE_PRECISION.
            device: `cpu`, `cuda`, …; None: CLIPTUNE_DEVICE or the accelerator that is there.
            batch_size: texts or pictures that go through the tower at once, of several requests
                too.
            max_wait_ms: how long a batch waits to be full while requests overlap.
            query_cache: how many texts' embeddings a text tower remembers; 0: none.
            engine: `torch`, `onnx` or `openvino`, or `auto` for the quickest of them here; None:
                CLIPTUNE_ENGINE, or the precision's own.
            kwargs: Jina's own.
        """
        settings = Settings.read(
            artifact=artifact, engine=engine, onnx=is_onnx, precision=precision, device=device
        )
        super().__init__(settings, **kwargs)
        # Here, in the executor's own process: native threads don't survive Jina's fork.
        import torch

        from cliptune.inference import TextTower, get_tower
        from cliptune.inference.batching import share_batches
        from cliptune.inference.cache import EmbeddingCache
        from cliptune.models.loading import pick_device

        # Replicas are processes on this machine that share its cores.
        threads = max(1, usable_cores() // getattr(self.runtime_args, "replicas", 1))
        torch.set_num_threads(threads)
        on_gpu = pick_device(settings.device).type == "cuda"
        compiled = on_gpu if settings.compile is None else settings.compile
        observe = self.tower_observer()

        def load(path: str) -> TextTower | VisionTower:
            tower = get_tower(
                path,
                self.tower,
                engine=settings.served_engine,
                precision=settings.precision,
                device=settings.device,
                batch_size=batch_size,
                threads=threads,
                compiled=compiled,
            )
            tower.observe = observe
            share_batches(
                tower,
                max_wait=max_wait_ms / 1000,
                threads=2 if on_gpu and tower.engine != "openvino" else 1,
            )
            if compiled and tower.engine == "torch":
                _warm_up(tower)
            if query_cache and isinstance(tower, TextTower):
                tower.cache = EmbeddingCache(query_cache)
            return tower

        generations = Generations(settings.index_uri, settings.generations)
        fields = {
            "artifact": settings.artifact,
            "chosen": settings.served_engine == "auto" or None,
            "precision": settings.precision,
            "place": redaction.note(settings.home, {"artifact": settings.artifact}),
        }
        self.towers: ServedTowers[Any] = ServedTowers(
            load, settings.artifact, generations, fields, self.own_paths()
        )

    def tower_status(self, **own: int) -> TowerStatus:
        """Which model is served, and how; `own`: fields of this kind of tower."""
        current = self.towers.pick()
        fields = {**self.towers.status(), **own}
        return TowerStatus.model_validate(
            {
                "model_digest": current.digest,
                "output_dim": current.output_dim,
                "lengths": list(current.lengths),
                "engine": current.engine,
                "onnx": current.engine == "onnx",
                **fields,
            }
        )


def _warm_up(tower: TextTower | VisionTower) -> None:
    """Compile before the first request comes; of two sizes, since one would be taken as fixed."""
    from cliptune.inference import TextTower

    if isinstance(tower, TextTower):
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

"""Batches of pairs, read one ahead of the training."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cliptune.training.pairs import Pairs
from cliptune.training.samplers import Order


@dataclass
class Batch:
    """One step's pairs on the CPU, or the part of them that this process works on.

    Pictures, tokens and features are this process's n of the batch's N pairs: `here` says which.
    """

    positions: NDArray[np.int64]
    """[N]: which pairs they are."""
    labels: Tensor
    """int64 [N]"""
    here: slice
    tokens: Tensor | None = None
    """int64 [n, L]; None where the text features are known."""
    pixels: Tensor | None = None
    """uint8 [n, H, W, 3]; None where the image features are known."""
    text_features: Tensor | None = None
    """float32 [n, width]"""
    image_features: Tensor | None = None
    """float32 [n, width]"""

    def __len__(self) -> int:
        """N, the pairs of the whole batch."""
        return len(self.positions)


def read_batch(pairs: Pairs, positions: NDArray[np.int64], here: slice) -> Batch:
    """The batch of `pairs` at `positions`, with the contents of its part `here`."""
    batch = Batch(positions, pairs.labels[torch.from_numpy(positions)], here)
    own = positions[here]
    chosen = torch.from_numpy(own)
    if pairs.text_features is None:
        batch.tokens = pairs.tokens[chosen]
    else:
        batch.text_features = pairs.text_features[chosen]
    if pairs.image_features is None:
        # Reading a mapped file is fastest in its own order.
        in_order, back = np.unique(own, return_inverse=True)
        batch.pixels = torch.from_numpy(np.ascontiguousarray(pairs.pixels[in_order][back]))
    else:
        batch.image_features = pairs.image_features[chosen]
    return batch


def batches(
    pairs: Pairs, order: Order, *, start: int = 0, rank: int = 0, world_size: int = 1
) -> Iterator[tuple[int, Batch]]:
    """Yield (step, batch) from step `start` on; the next batch is read while one is trained on.

    Of `world_size` processes, the one of `rank` reads its own part of each batch.
    """

    def read(positions: NDArray[np.int64]) -> Batch:
        return read_batch(pairs, positions, share(len(positions), rank, world_size))

    with ThreadPoolExecutor(1, thread_name_prefix="cliptune-read") as pool:
        coming = pool.submit(read, order[start]) if start < len(order) else None
        for step in range(start, len(order)):
            assert coming is not None  # noqa: S101 - for the type checker
            batch = coming.result()
            if step + 1 < len(order):
                coming = pool.submit(read, order[step + 1])
            yield step, batch


def share(n: int, rank: int, world_size: int) -> slice:
    """The part of `n` pairs that the process `rank` of `world_size` works on: near-equal parts."""
    return slice(n * rank // world_size, n * (rank + 1) // world_size)

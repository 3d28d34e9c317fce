"""Which pairs make a batch, epoch by epoch: at random, or hard negatives together."""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Sampler = Literal["random", "hard_negatives"]
Order = list[NDArray[np.int64]]
"""The batches of an epoch: positions of pairs."""

SHARD = 8192
"""Hard negatives are looked for among this many pairs at random, so that batches differ from
epoch to epoch and no pair keeps the same neighbours for a whole run."""


def step_seed(*parts: int) -> int:
    """A seed from the run's seed, the epoch and the step: independent of what ran before.

    This is what makes a resumed run see the batches and crops of the uninterrupted one.
    """
    digest = hashlib.sha256(",".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") % 2**63


def steps_per_epoch(n: int, batch_size: int) -> int:
    """How many batches of at most `batch_size` an epoch over `n` pairs has."""
    return max(1, -(-n // batch_size))


def random_order(n: int, batch_size: int, seed: int, epoch: int) -> Order:
    """Positions 0..n-1 shuffled and cut in equal batches of at most `batch_size`.

    Equal batches, because a last batch of a few pairs would have next to no negatives.
    """
    order = np.random.default_rng(step_seed(seed, epoch)).permutation(n)
    return np.array_split(order, steps_per_epoch(n, batch_size))


def hard_negative_order(
    embeddings: NDArray[np.float32], batch_size: int, seed: int, epoch: int
) -> Order:
    """Batches of near neighbours: each holds pairs whose `embeddings` [N, D] are alike.

    Shards of `SHARD` pairs at random are cut in two along the direction between two of their
    points that lie far apart, and each part again, until a part is one batch: the leaves of a
    random projection tree (Dasgupta & Freund, 2008). The batches come in random order and are
    as many and as large as `random_order`'s, up to one pair.
    """
    random = np.random.default_rng(step_seed(seed, epoch))
    order = random.permutation(len(embeddings))
    count = steps_per_epoch(len(embeddings), batch_size)
    batches: Order = []
    # Shards of whole batches, so that all batches stay of equal size.
    cuts = np.array_split(order, count)
    per_shard = max(1, SHARD // batch_size)
    for start in range(0, count, per_shard):
        parts = cuts[start : start + per_shard]
        batches.extend(_cut(np.concatenate(parts), len(parts), embeddings, random))
    return [batches[i] for i in random.permutation(count)]


def _cut(
    positions: NDArray[np.int64],
    count: int,
    embeddings: NDArray[np.float32],
    random: np.random.Generator,
) -> Order:
    """Cut `positions` in `count` near-equal groups of neighbours."""
    if count == 1:
        return [positions]
    points = embeddings[positions]
    first = points[random.integers(len(points))]
    far = points[np.argmin(points @ first)]
    other = points[np.argmin(points @ far)]
    along = np.argsort(points @ (far - other), kind="stable")
    left = count // 2
    middle = round(len(positions) * left / count)
    return [
        *_cut(positions[along[:middle]], left, embeddings, random),
        *_cut(positions[along[middle:]], count - left, embeddings, random),
    ]

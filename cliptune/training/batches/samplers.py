"""Which pairs make a batch, epoch by epoch: at random, or hard negatives together."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Sampler = Literal["random", "hard_negatives"]
_NONE = np.empty(0, dtype=np.int64)
Order = list[NDArray[np.int64]]
"""The batches of an epoch: positions of pairs."""

SHARD = 8192
"""Hard negatives are looked for among this many pairs at random, so that batches differ from
epoch to epoch and no pair keeps the same neighbours for a whole run."""
GROUP = 8
"""Near neighbours that go into a batch together."""


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


def negatives_order(
    negatives: Mapping[int, NDArray[np.int64]], n: int, batch_size: int, seed: int, epoch: int
) -> Order:
    """Batches of groups of at most `GROUP`: a pair with wrong answers to it, by `negatives`.

    Pairs come in random order; each takes along those of its wrong answers, in random order too,
    that no other has taken in this epoch, so that each pair is seen once. The groups stand at
    random, as in `hard_negative_order`, and the batches are as many and as large.
    """
    random = np.random.default_rng(step_seed(seed, epoch))
    is_taken = np.zeros(n, dtype=bool)
    groups: Order = []
    # Pairs that name wrong answers choose first, or these would often be gone.
    naming = np.zeros(n, dtype=bool)
    naming[list(negatives)] = True
    order = random.permutation(n)
    for position in np.concatenate([order[naming[order]], order[~naming[order]]]):
        if is_taken[position]:
            continue
        is_taken[position] = True
        wrong = negatives.get(int(position), _NONE)
        wrong = random.permutation(wrong[~is_taken[wrong]])[: GROUP - 1]
        is_taken[wrong] = True
        groups.append(np.concatenate([[position], wrong]))
    joined = np.concatenate([groups[i] for i in random.permutation(len(groups))])
    return np.array_split(joined.astype(np.int64), steps_per_epoch(n, batch_size))


def hard_negative_order(
    embeddings: NDArray[np.float32], batch_size: int, seed: int, epoch: int
) -> Order:
    """Batches of groups: `GROUP` near neighbours by `embeddings` [N, D], and groups at random.

    So each pair has some hard negatives and many easy ones. Batches of neighbours alone teach to
    tell like things apart, and forget what tells a shoe from a shirt.

    Shards of `SHARD` pairs at random are cut in two along the direction between two of their
    points that lie far apart, and each part again, until a part is one group: the leaves of a
    random projection tree (Dasgupta & Freund, 2008). The batches are as many and as large as
    `random_order`'s.
    """
    random = np.random.default_rng(step_seed(seed, epoch))
    count = len(embeddings)
    shards = np.array_split(random.permutation(count), -(-count // SHARD))
    groups = [
        group
        for shard in shards
        for group in _cut(shard, max(1, round(len(shard) / GROUP)), embeddings, random)
    ]
    order = np.concatenate([groups[i] for i in random.permutation(len(groups))])
    return np.array_split(order, steps_per_epoch(count, batch_size))


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

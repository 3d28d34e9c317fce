"""Hard-negative batches against plain ones: nothing lost, and neighbours together."""

from __future__ import annotations

import numpy as np
import pytest

from cliptune.training import samplers
from cliptune.training.samplers import hard_negative_order, random_order


def clustered(n: int, clusters: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    centres = random.normal(size=(clusters, 24))
    points = centres[random.integers(clusters, size=n)] + 0.2 * random.normal(size=(n, 24))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def likeness(embeddings: np.ndarray, order: list[np.ndarray]) -> float:
    """The mean cosine between the pairs of a batch."""
    return float(np.mean([(embeddings[b] @ embeddings[b].T).mean() for b in order]))


@pytest.mark.parametrize(("n", "size"), [(1000, 64), (100, 99), (50, 64), (333, 2)])
def test_every_pair_is_in_one_batch_of_near_equal_size(n: int, size: int) -> None:
    order = hard_negative_order(clustered(n, 10), size, seed=1, epoch=0)
    assert sorted(np.concatenate(order).tolist()) == list(range(n))
    sizes = [len(batch) for batch in order]
    assert len(sizes) == len(random_order(n, size, 1, 0))
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= size


@pytest.mark.parametrize(("shard", "likely"), [(8192, 0.5), (256, 0.25)])
def test_batches_hold_neighbours(
    monkeypatch: pytest.MonkeyPatch, shard: int, likely: float
) -> None:
    monkeypatch.setattr(samplers, "SHARD", shard)
    embeddings = clustered(1024, 16)
    hard = likeness(embeddings, hard_negative_order(embeddings, 64, 1, 0))
    plain = likeness(embeddings, random_order(1024, 64, 1, 0))
    assert hard > likely > 0.2 > plain


def test_orders_differ_by_epoch_and_repeat_by_seed() -> None:
    embeddings = clustered(200, 5)

    def order(seed: int, epoch: int) -> list[int]:
        return np.concatenate(hard_negative_order(embeddings, 20, seed, epoch)).tolist()

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


def test_equal_embeddings_are_cut_too() -> None:
    order = hard_negative_order(np.ones((70, 4), dtype=np.float32), 8, 0, 0)
    assert sorted(np.concatenate(order).tolist()) == list(range(70))

"""Hard-negative batches against plain ones: nothing lost, and neighbours together."""

from __future__ import annotations

import numpy as np
import pytest

from cliptune.training.batches import samplers
from cliptune.training.batches.samplers import hard_negative_order, random_order


def clustered(n: int, clusters: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    centres = random.normal(size=(clusters, 24))
    points = centres[random.integers(clusters, size=n)] + 0.2 * random.normal(size=(n, 24))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def likeness(embeddings: np.ndarray, order: list[np.ndarray], nearest: int = 0) -> float:
    """The mean cosine of a pair to the `nearest` others of its batch, or to all of them."""
    means = []
    for batch in order:
        cosines = np.sort(embeddings[batch] @ embeddings[batch].T, axis=1)[:, :-1]  # not itself
        means.append(cosines[:, -nearest:].mean())
    return float(np.mean(means))


@pytest.mark.parametrize(("n", "size"), [(1000, 64), (100, 99), (50, 64), (333, 2)])
def test_every_pair_is_in_one_batch_of_near_equal_size(n: int, size: int) -> None:
    order = hard_negative_order(clustered(n, 10), size, seed=1, epoch=0)
    assert sorted(np.concatenate(order).tolist()) == list(range(n))
    sizes = [len(batch) for batch in order]
    assert len(sizes) == len(random_order(n, size, 1, 0))
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= size


@pytest.mark.parametrize("shard", [8192, 256])
def test_batches_hold_some_neighbours_among_many_others(
    monkeypatch: pytest.MonkeyPatch, shard: int
) -> None:
    monkeypatch.setattr(samplers, "SHARD", shard)
    embeddings = clustered(1024, 16)
    hard = hard_negative_order(embeddings, 64, 1, 0)
    plain = random_order(1024, 64, 1, 0)
    near = samplers.GROUP - 1
    # A cluster's points have a cosine of 0.95 to each other.
    assert likeness(embeddings, hard, near) > 0.85 > 0.75 > likeness(embeddings, plain, near)
    assert likeness(embeddings, hard) < 0.2, "most pairs of a batch are of other clusters"


def test_groups_are_near_neighbours() -> None:
    """Of points on a circle, a group is an arc: nothing else is as near."""
    angles = np.linspace(0, 2 * np.pi, 512, endpoint=False)
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    for group in np.concatenate(hard_negative_order(points, 64, 1, 0)).reshape(-1, samplers.GROUP):
        places = np.sort(group)
        largest_gap = np.diff(np.append(places, places[0] + 512)).max()
        assert largest_gap > 512 - 4 * samplers.GROUP, places


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

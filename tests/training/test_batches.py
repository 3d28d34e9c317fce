"""Order, splits and augmentation: nothing lost, nothing on two sides, seeded."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cliptune.training.batches.augmentation import crop, draw_crops
from cliptune.training.batches.pairs import Pairs, batches, split_by_label
from cliptune.training.batches.samplers import random_order


def pairs(n: int, labels: list[int] | None = None) -> Pairs:
    pixels = np.arange(n, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(4, 2)
    return Pairs(
        pixels.repeat(3, 3),
        torch.arange(n)[:, None].repeat(1, 5),
        torch.tensor(labels or list(range(n))),
        [f"id-{i}" for i in range(n)],
    )


@pytest.mark.parametrize(("n", "size"), [(10, 3), (10, 10), (10, 99), (129, 128)])
def test_an_epoch_has_every_pair_once_in_equal_batches(n: int, size: int) -> None:
    order = random_order(n, size, seed=1, epoch=0)
    assert sorted(np.concatenate(order).tolist()) == list(range(n))
    sizes = [len(part) for part in order]
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1


def test_orders_differ_by_epoch_and_repeat_by_seed() -> None:
    first, second = (np.concatenate(random_order(50, 7, 1, e)).tolist() for e in (0, 1))
    assert first != second
    assert first == np.concatenate(random_order(50, 7, 1, 0)).tolist()
    assert first != np.concatenate(random_order(50, 7, 2, 0)).tolist()


def test_batches_keep_pictures_texts_and_labels_together_from_any_step() -> None:
    data = pairs(20)
    order = random_order(20, 6, 0, 0)
    seen = list(batches(data, order, start=1))
    assert [step for step, _ in seen] == [1, 2, 3]
    for step, batch in seen:
        expected = torch.from_numpy(order[step])
        assert torch.equal(batch.pixels[:, 0, 0, 0].long(), expected)
        assert torch.equal(batch.tokens[:, 0], expected)
        assert torch.equal(batch.labels, expected)


def test_a_label_is_on_one_side_of_the_split_only() -> None:
    data = pairs(60, [i % 20 for i in range(60)])
    training, aside = split_by_label(data, 0.25, seed=3)
    assert len(training) + len(aside) == 60
    assert len(aside) == 15
    assert not set(training.labels.tolist()) & set(aside.labels.tolist())
    assert set(training.ids) | set(aside.ids) == set(data.ids)


def test_augmentation_is_seeded_and_full_crop_without_flip_changes_nothing() -> None:
    x = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))

    def run(seed: int, min_area: float, flip: bool) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return crop(x, draw_crops(len(x), min_area=min_area, flip=flip, generator=generator))

    assert torch.equal(run(1, 0.5, True), run(1, 0.5, True))
    assert not torch.equal(run(1, 0.5, True), run(2, 0.5, True))
    assert torch.equal(run(1, 1.0, False), x)
    flipped = run(1, 1.0, True)
    for picture, original in zip(flipped, x, strict=True):
        same = torch.allclose(picture, original, atol=1e-5)
        assert same or torch.allclose(picture, original.flip(-1), atol=1e-5)

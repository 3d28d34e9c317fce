"""Greedy soups against the recipe, done by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cliptune.errors import BadInput
from cliptune.tuning.soup import average_with, greedy_soup


def state(*values: float, count: int = 3) -> dict[str, Tensor]:
    return {"weight": torch.tensor(values, dtype=torch.float32), "steps": torch.tensor(count)}


def test_an_average_is_that_of_all_members() -> None:
    models = [torch.randn(5, 7) for _ in range(4)]
    soup = {"w": models[0]}
    for number, model in enumerate(models[1:], 1):
        soup = average_with(soup, {"w": model}, number)
    torch.testing.assert_close(soup["w"], torch.stack(models).mean(dim=0))


def test_what_makes_it_worse_stays_out() -> None:
    target = torch.tensor([1.0, 1.0])
    # 0 is (2, 0); with 1 it is the target (1, 1); 2 would pull it away; 3 changes nothing.
    models = [state(2, 0), state(0, 2), state(9, 9), state(1, 1, count=8)]
    measured = []

    def measure(one: dict[str, Tensor]) -> float:
        measured.append(one["weight"].tolist())
        return -float((one["weight"] - target).norm())

    members, soup, value = greedy_soup([lambda one=one: one for one in models], measure)
    assert members == [0, 1, 3]
    assert value == 0
    torch.testing.assert_close(soup, state(1, 1))
    assert measured[2] == pytest.approx([11 / 3, 11 / 3])


def test_half_precision_is_averaged_in_single() -> None:
    first, second = ({"w": torch.full((3,), x, dtype=torch.float16)} for x in (2048.0, 2050.0))
    averaged = average_with(average_with(first, second, 1), second, 2)["w"]
    assert averaged.tolist() == pytest.approx([(2048 + 2 * 2050) / 3] * 3)


def test_other_architectures_are_refused() -> None:
    with pytest.raises(BadInput, match="differ"):
        greedy_soup([lambda: state(1, 2), lambda: state(1, 2, 3)], lambda one: 0.0)

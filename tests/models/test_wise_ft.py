"""WiSE-FT's interpolation against its definition."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cliptune.errors import BadInput
from cliptune.models.loading import load_model
from cliptune.models.wise_ft import interpolate


def test_interpolation_is_the_papers(tiny_model: Path) -> None:
    before = load_model(tiny_model).clip.state_dict()
    after = {k: v + torch.randn_like(v) for k, v in before.items()}
    for alpha in (0.25, 0.5, 0.9):
        mixed = interpolate(before, after, alpha)
        for name, value in mixed.items():
            expected = (1 - alpha) * before[name].double() + alpha * after[name].double()
            torch.testing.assert_close(value.double(), expected, atol=1e-6, rtol=1e-6)
    assert mixed["logit_scale"] != before["logit_scale"]


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_the_ends_are_bit_for_bit(alpha: float) -> None:
    before = {"w": torch.randn(100), "count": torch.tensor(3)}
    after = {"w": torch.randn(100) * 1e6, "count": torch.tensor(9)}
    mixed = interpolate(before, after, alpha)
    expected = after if alpha else before
    assert all(torch.equal(mixed[name], expected[name]) for name in expected)
    mixed["w"].zero_()
    assert expected["w"].abs().sum() > 0, "the result must not share memory with the models"


@pytest.mark.parametrize("alpha", [-0.01, 1.01, float("nan")])
def test_alpha_outside_is_refused(alpha: float) -> None:
    with pytest.raises(BadInput, match=f"alpha is {alpha}"):
        interpolate({}, {}, alpha)


def test_different_architectures_are_refused() -> None:
    with pytest.raises(BadInput, match="names"):
        interpolate({"a": torch.ones(1)}, {"b": torch.ones(1)}, 0.5)
    with pytest.raises(BadInput, match="shapes"):
        interpolate({"a": torch.ones(1)}, {"a": torch.ones(2)}, 0.5)

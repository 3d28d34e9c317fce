"""Contexts that are longer than the weights were trained for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cliptune.errors import BadInput
from cliptune.inference import get_tower
from cliptune.models.artifact_writer import write_artifact
from cliptune.models.context import KEPT, stretched
from cliptune.models.loading import load_model


def long_clip(before: torch.Tensor) -> torch.Tensor:
    """Position by position, as the paper's program does it: 77 to 248."""
    after = [before[i] for i in range(20)]
    for i in range(20, 76):
        after += [before[i] + (before[i + 1] - before[i]) * k / 4 for k in range(4)]
    after += [before[76] + (before[76] - before[75]) * k / 4 for k in range(4)]
    return torch.stack(after)


def test_77_become_248_as_in_long_clip() -> None:
    before = torch.randn(77, 8, generator=torch.Generator().manual_seed(1))
    expected = long_clip(before)
    assert expected.shape == (248, 8)
    torch.testing.assert_close(stretched(before, 248), expected, atol=1e-6, rtol=0)


def test_a_long_context_lasts_and_short_texts_stay(tiny_model: Path, tmp_path: Path) -> None:
    short, long = load_model(tiny_model), load_model(tiny_model, context_length=248)
    assert long.context_length == 248
    assert long.digest != short.digest
    few, many = ["a red shoe"], ["word " * 100 + end for end in ("red", "blue")]
    before, after = (get_tower(m, "clip-text").encode(few) for m in (short, long))
    assert np.abs(before - after).max() < 1e-5, f"its tokens are among the first {KEPT}"
    cut, whole = (get_tower(m, "clip-text").encode(many) for m in (short, long))
    assert np.array_equal(cut[0], cut[1]), "the last words are cut off"
    assert np.abs(whole[0] - whole[1]).max() > 1e-4
    artifact = write_artifact(long, tmp_path / "artifact", to_onnx=True).path
    for options in ({}, {"engine": "onnx"}):
        again = get_tower(artifact, "clip-text", **options).encode([*few, *many])
        assert np.abs(again - np.concatenate([after, whole])).max() < 1e-5


@pytest.mark.parametrize("length", [20, 76, 1025])
def test_what_is_no_longer_context_is_refused(tiny_model: Path, length: int) -> None:
    with pytest.raises(BadInput, match=f"context_length is {length}: this model reads 77"):
        load_model(tiny_model, context_length=length)

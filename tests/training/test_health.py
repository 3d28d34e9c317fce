"""What goes wrong without an error is said; and nothing is said of runs that learn."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cliptune.training import train
from cliptune.training.health import Sign, _mean_cosine, finds_less, judge
from tests.training.test_loop import Recorder, options, squares


def outcome(tiny_model: Path, tmp_path: Path, **values: Any) -> tuple[Any, list[str]]:
    logger = Recorder()
    result = train(options(tiny_model, **values), squares(1), None, [], tmp_path, logger)
    return result, logger.lines


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"learning_rate": 0.3}, "has collapsed: .* all embeddings are alike"),
        ({"learning_rate": 0.3, "loss": "SigLIPLoss"}, "has collapsed|has risen"),
        ({"learning_rate": 1e-30}, "exactly what it was before"),
    ],
)
def test_what_went_wrong_is_said(
    values: dict[str, Any], words: str, tiny_model: Path, tmp_path: Path
) -> None:
    result, lines = outcome(tiny_model, tmp_path, **values)
    warnings = [line for line in lines if line.startswith("WARNING")]
    assert "epoch 1: " in warnings[0], "as it shows"
    assert "finished, but" in warnings[-1]
    assert re.search(words, result.warning), result.warning


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"epochs": 1},
        {"learning_rate": 1e-5},
        {"loss": "SigLIPLoss", "learning_rate": 3e-4},
        {"freeze": True},
        {"freeze": "vision"},
        {"sampler": "hard_negatives"},
    ],
)
def test_nothing_is_said_of_a_run_that_learns(
    values: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    result, lines = outcome(tiny_model, tmp_path, **values)
    assert result.warning == ""
    assert [line for line in lines if line.startswith("WARNING")] == []


def sign(**values: float) -> Sign:
    return Sign(**{"loss": 1.0, "entropy": 1.0, "guessing": math.log(32), "alike": 0.3, **values})


def test_the_rules() -> None:
    start = sign(loss=2.0)
    fresh = sign(loss=3.6, entropy=3.6, alike=0.95)
    assert judge(start, sign()) == ""
    assert "collapsed" in judge(start, sign(entropy=3.45, alike=0.999))
    assert "collapsed" in judge(fresh, sign(loss=3.46, entropy=3.46, alike=0.999))
    assert "lost what it knew" in judge(start, sign(entropy=3.6))
    assert judge(fresh, sign(loss=3.5, entropy=3.5, alike=0.9)) == "", "it learns from scratch"
    assert judge(start, sign(loss=2.09)) == ""
    assert "risen from 2.0000 before training to 2.1100" in judge(start, sign(loss=2.11))
    assert "nothing has been learnt" in judge(start, sign(loss=2.0))
    counts = {"a-to-b": {"n_queries": 100}}
    before = {"a-to-b_reciprocal_rank": 0.5}
    assert finds_less(before, {"a-to-b_reciprocal_rank": 0.48}, counts) == ""
    assert "0.5000 before, 0.3000" in finds_less(before, {"a-to-b_reciprocal_rank": 0.3}, counts)
    assert finds_less(before, {"a-to-b_reciprocal_rank": 0.3}, {"a-to-b": {"n_queries": 5}}) == ""


def test_the_mean_cosine() -> None:
    vectors = np.random.default_rng(0).standard_normal((7, 5))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T
    expected = cosines[~np.eye(7, dtype=bool)].mean()
    assert _mean_cosine(torch.from_numpy(vectors)) == pytest.approx(expected)

"""The learning-rate range test: where it ends, what it suggests, and that it leaves no trace."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

from cliptune.training import Cancelled, train
from cliptune.training.optimization.range_test import STEPS, RangeTest, range_test
from cliptune.training.state import list_checkpoints, read_position
from cliptune.training.step import TrainingFailed
from tests.training.test_loop import Recorder, options, squares, weights


def quadratic(curvature: float, around: float) -> RangeTest:
    """Gradient descent on curvature / 2 * x², which grows from a rate of 2 / curvature on."""
    x = 1.0

    def step(rate: float) -> float:
        nonlocal x
        loss = curvature / 2 * x**2
        x -= rate * curvature * x
        return loss

    return range_test(step, around)


@pytest.mark.parametrize("curvature", [1e-3, 1.0, 50.0, 1e4])
def test_the_suggestion_is_below_the_rate_that_is_known_to_diverge(curvature: float) -> None:
    most = 2 / curvature
    for around in (most, most / 20, most * 20):
        found = quadratic(curvature, around)
        assert most / 100 < found.suggestion < most, around
        assert found.rates[0] == pytest.approx(around / 100)
        assert found.rates == sorted(found.rates)
        if around >= most:  # it ends where the loss has grown
            assert len(found.rates) < STEPS
            assert found.rates[-1] < 10 * most


def test_a_loss_that_is_no_number_ends_it() -> None:
    losses = iter([3.0, 2.0, 1.0, math.nan])
    assert len(range_test(lambda rate: next(losses), 1e-3).rates) == 3
    assert range_test(lambda rate: math.inf, 1e-3) == RangeTest([], [])


def test_a_run_is_that_of_the_rate_that_was_found(tiny_model: Path, tmp_path: Path) -> None:
    docs = squares(1)
    logger = Recorder()
    found = train(
        options(tiny_model, learning_rate="auto"), docs, None, [], tmp_path / "auto", logger
    )
    [said] = [line for line in logger.lines if "range test" in line]
    [checkpoint] = list_checkpoints(tmp_path / "auto" / "checkpoints")
    rate = read_position(checkpoint).peak_learning_rate
    assert re.search(rf"learning rate {rate:.2g}, by a range test of \d+ steps from 1e-07", said)
    assert found.history[-1]["loss"] < found.history[0]["loss"]
    given = options(tiny_model, learning_rate=rate)
    expected = train(given, docs, None, [], tmp_path / "given", Recorder())
    assert [e["loss"] for e in found.history] == [e["loss"] for e in expected.history]
    ours, theirs = weights(tmp_path / "auto"), weights(tmp_path / "given")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    # It is found once: a run that was stopped goes on at the same rate.
    automatic = options(tiny_model, learning_rate="auto")
    with pytest.raises(Cancelled):
        train(automatic, docs, None, [], tmp_path / "cut", Recorder(stop_after=4))
    [checkpoint] = list_checkpoints(tmp_path / "cut" / "checkpoints")
    logger = Recorder()
    train(automatic, docs, None, [], tmp_path / "cut", logger, resume_from=checkpoint)
    assert not [line for line in logger.lines if "range test" in line]
    resumed = weights(tmp_path / "cut")
    assert all(torch.equal(resumed[name], theirs[name]) for name in theirs)


def test_a_model_that_gives_no_number_is_told(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "cliptune.training.step.Objective.backward", lambda self, *_: math.nan, raising=True
    )
    with pytest.raises(TrainingFailed, match=r"not a number at a learning rate of 1e-07"):
        train(options(tiny_model, learning_rate="auto"), squares(1), None, [], tmp_path, Recorder())

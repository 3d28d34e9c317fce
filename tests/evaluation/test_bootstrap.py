"""Confidence intervals against a plain resampling loop."""

from __future__ import annotations

import numpy as np
import pytest

from cliptune.evaluation.bootstrap import compare_means


def test_intervals_equal_those_of_drawing_queries_one_by_one() -> None:
    rng = np.random.default_rng(0)
    before = rng.beta(0.4, 1.2, 80)
    after = np.clip(before + rng.normal(0.1, 0.2, 80), 0, 1)
    change = compare_means({"m": before}, {"m": after}, resamples=20_000)["m"]
    assert change.before.mean == pytest.approx(before.mean())
    assert change.difference.mean == pytest.approx(after.mean() - before.mean())
    draws = rng.integers(0, 80, (20_000, 80))
    for interval, values in (
        (change.before, before),
        (change.after, after),
        (change.difference, after - before),  # paired: both models get the same queries
    ):
        low, high = np.quantile(values[draws].mean(axis=1), [0.025, 0.975])
        width = high - low
        assert interval.low == pytest.approx(low, abs=0.04 * width)
        assert interval.high == pytest.approx(high, abs=0.04 * width)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for seed in range(200):
        difference = rng.normal(0.05, 0.3, 60)
        zeros = np.zeros(60)
        change = compare_means({"m": zeros}, {"m": difference}, seed=seed, resamples=400)["m"]
        held += change.difference.low <= 0.05 <= change.difference.high
    assert 178 <= held <= 199


def test_certain_means_that_0_is_outside() -> None:
    values = np.linspace(0, 1, 30)
    same = compare_means({"m": values}, {"m": values})["m"]
    assert not same.is_certain
    assert (same.difference.low, same.difference.high) == (0, 0)
    better = compare_means({"m": values}, {"m": values + 0.1})["m"]
    assert better.is_certain
    assert better == compare_means({"m": values}, {"m": values + 0.1})["m"]  # by the seed
    only_in_one = compare_means({"m": values, "x": values}, {"m": values, "y": values})
    assert list(only_in_one) == ["m"]

"""How sure a mean over queries is: bootstrap confidence intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 4000
CONFIDENCE = 0.95
_CHUNK_VALUES = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Change:
    """A metric of two models on the same queries."""

    before: Interval
    after: Interval
    difference: Interval
    p_value: float
    """Two-sided, of the same draws: twice the part of them in which the difference has the other
    sign or is 0 (each draw that could be counts one more, so that it is never 0), at most 1; and
    at least 2^(1 - m) where m queries differ, the least that a sign test of so many can give."""

    @property
    def is_certain(self) -> bool:
        """Whether the interval of the difference leaves out 0, and its p-value is below 0.05.

        Draws of a handful of queries are too alike for the interval alone: those of one query are
        that query.
        """
        leaves_out_0 = not self.difference.low <= 0 <= self.difference.high
        return leaves_out_0 and self.p_value < 1 - CONFIDENCE


def compare_means(
    before: Mapping[str, NDArray[np.float64]],
    after: Mapping[str, NDArray[np.float64]],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Change]:
    """Percentile bootstrap (Efron, 1979) over queries, paired: both models get the same draws.

    Args:
        before: each metric's value for each query, [Q].
        after: likewise, of the same queries.
        seed: of the draws.
        resamples: how many; each draws Q of the Q queries with replacement.

    Returns:
        By metric the means and their 95 % intervals.
    """
    names = [name for name in before if name in after]
    values = np.stack([x for name in names for x in (before[name], after[name])])
    drawn = _resampled_means(values, np.random.default_rng(seed), resamples)
    changes = {}
    for row, name in enumerate(names):
        first, second = drawn[:, 2 * row], drawn[:, 2 * row + 1]
        a, b = float(values[2 * row].mean()), float(values[2 * row + 1].mean())
        gained = second - first
        differing = int(np.count_nonzero(values[2 * row + 1] - values[2 * row]))
        changes[name] = Change(
            _interval(a, first),
            _interval(b, second),
            _interval(b - a, gained),
            _p_value(gained, differing),
        )
    return changes


def interval_of_mean(
    values: NDArray[np.float64], *, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """The mean of `values` [Q] with its 95 % interval, drawn as by `compare_means`."""
    drawn = _resampled_means(values[None], np.random.default_rng(seed), resamples)[:, 0]
    return _interval(float(values.mean()), drawn)


def _resampled_means(
    values: NDArray[np.float64], random: np.random.Generator, resamples: int
) -> NDArray[np.float64]:
    """[resamples, M]: the means of the rows of `values` [M, Q] over drawn queries."""
    count = values.shape[1]
    step = max(1, _CHUNK_VALUES // count)
    parts = []
    for start in range(0, resamples, step):
        n = min(step, resamples - start)
        # How often each query is drawn: the same as drawing one by one, and one product.
        times = random.multinomial(count, np.full(count, 1 / count), size=n)
        parts.append(times @ values.T / count)
    return np.concatenate(parts)


def _p_value(gained: NDArray[np.float64], differing: int) -> float:
    """Of the differences drawn, [resamples] (Efron & Tibshirani, 1993, section 15.4)."""
    # Draws of the same queries add up to 0 but for rounding.
    least = 1e-12
    other = min((gained <= least).sum(), (gained >= -least).sum())
    return float(min(1.0, max(2.0 ** (1 - differing), 2 * (other + 1) / (len(gained) + 1))))


def _interval(mean: float, drawn: NDArray[np.float64]) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(mean, float(low), float(high))

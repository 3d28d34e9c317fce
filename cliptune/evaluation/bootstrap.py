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

    @property
    def is_certain(self) -> bool:
        """Whether the interval of the difference leaves out 0."""
        return not self.difference.low <= 0 <= self.difference.high


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
        difference = _interval(b - a, second - first)
        changes[name] = Change(_interval(a, first), _interval(b, second), difference)
    return changes


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


def _interval(mean: float, drawn: NDArray[np.float64]) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(mean, float(low), float(high))

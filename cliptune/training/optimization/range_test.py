"""The learning-rate range test: how high a rate may be, found by one short rise through all rates.

Smith, "Cyclical learning rates for training neural networks", 2017: while the rate rises
exponentially from step to step, the loss first falls, faster and faster, and then grows. A peak for
a schedule that warms up and decays lies well below the rate at which it begins to grow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

STEPS = 100
SPAN = 100.0
"""From so many times below the default of the model's family to so many times above it."""
_SMOOTHING = 0.9
_DIVERGED = 1.5
"""The test ends where the smoothed loss is so many times the least."""
_BACK = 10.0
"""The suggestion is so many times below the rate of the least smoothed loss."""


@dataclass(frozen=True)
class RangeTest:
    """What a test has seen; nothing where the first loss is no number."""

    rates: list[float]
    """The rate of each step, rising."""
    losses: list[float]
    """The smoothed loss after each step."""

    @property
    def suggestion(self) -> float:
        """A peak rate: a tenth of that at which the smoothed loss was least."""
        return self.rates[int(np.argmin(self.losses))] / _BACK


def range_test(
    step: Callable[[float], float], around: float, *, steps: int = STEPS, span: float = SPAN
) -> RangeTest:
    """Take steps at rates that rise from `around / span` to `around * span`.

    Args:
        step: trains on the next batch at a rate; returns its loss, which may be no number.
        around: the middle of the rates.
        steps: how many at most: the test ends once the loss has grown by half.
        span: see above.
    """
    rates: list[float] = []
    losses: list[float] = []
    average = 0.0
    for number in range(steps):
        rate = around * span ** (2 * number / max(1, steps - 1) - 1)
        loss = step(rate)
        if not math.isfinite(loss):
            break
        average = _SMOOTHING * average + (1 - _SMOOTHING) * loss
        smoothed = average / (1 - _SMOOTHING ** (number + 1))
        rates.append(rate)
        losses.append(smoothed)
        if smoothed > _DIVERGED * min(losses):
            break
    return RangeTest(rates, losses)

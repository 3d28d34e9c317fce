"""`diversity`: an order in which matches that resemble each other don't stand together.

Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): one match after the other is
taken, each time the one with the greatest ::

    (1 - diversity) * score - diversity * (greatest cosine with a match taken before)

The first one is the best match. Of equals the one with the better score is taken. With 0 it is the
order of the scores.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def diverse_order(
    scores: NDArray[np.float64], embeddings: np.ndarray, diversity: float, most: int
) -> list[int]:
    """The first `most` places in that order.

    Args:
        scores: float64 [N], descending.
        embeddings: float [N, D], of any length but zero.
        diversity: 0 to 1.
    """
    units = embeddings.astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    order: list[int] = []
    left = np.ones(len(scores), np.bool_)
    nearest = np.full(len(scores), -np.inf)
    for _ in range(min(most, len(scores))):
        worth = (1 - diversity) * scores - (diversity * nearest if order else 0.0)
        taken = 0 if not order else int(np.argmax(np.where(left, worth, -np.inf)))
        order.append(taken)
        left[taken] = False
        nearest = np.maximum(nearest, units @ units[taken])
    return order

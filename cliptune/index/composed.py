"""Queries that are made of several embeddings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cliptune.errors import BadInput

_NOTHING = 1e-4
"""Of a sum's length, relative to the greatest that its weights allow: float32's rounding is far
below, and what is left of embeddings that cancel out is noise."""


def combine(embeddings: NDArray[np.floating], weights: NDArray[np.floating]) -> NDArray[np.float32]:
    """The unit vector along the weighted sum of the embeddings' unit vectors: float32 [D].

    Args:
        embeddings: float [P, D], of any lengths but zero.
        weights: float [P]: how much each counts; below 0, away from it.

    Raises:
        BadInput: the parts cancel out: the sum has no direction.
    """
    units = np.asarray(embeddings, np.float64)
    units = units / np.linalg.norm(units, axis=1, keepdims=True)
    total = np.asarray(weights, np.float64) @ units
    length = float(np.linalg.norm(total))
    if length <= _NOTHING * float(np.abs(weights).sum()):
        raise BadInput("its parts cancel out: nothing is left to search for")
    return np.asarray(total / length, np.float32)

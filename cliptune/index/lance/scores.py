"""The score of a match: one formula, whichever way its row was found.

A search of the files and one of memory would round in different places, so that one query had
two answers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def unit_queries(queries: NDArray[np.floating]) -> NDArray[np.float64]:
    """Queries [Q, D] at unit length."""
    return _unit(queries)


def unit_rows(embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows' embeddings [N, D] at unit length, as they are compared."""
    return _unit(embeddings).astype(np.float32)


def scores_of(query: NDArray[np.float64], rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """The cosine similarity [N] of a query [D] and rows [N, D], each of unit length.

    Each is a sum of its own: the same for the same row, whatever rows stand beside it, as in a
    matrix product it is not.
    """
    return np.asarray(np.clip((rows * query).sum(axis=1), -1, 1))


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    exact = vectors.astype(np.float64)
    return np.asarray(exact / np.linalg.norm(exact, axis=1, keepdims=True))

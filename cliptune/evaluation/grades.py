"""Graded right answers: what each is worth, and what the best order would be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


class Grades:
    """The right answers to Q queries with their grades; the gain of a grade is 2^grade - 1."""

    def __init__(
        self, grades: Sequence[Mapping[int, int]], exclude: NDArray[np.int64] | None = None
    ) -> None:
        """Take the grades, by positions in the index, but for what a query may not retrieve.

        Args:
            grades: [Q]; what a query doesn't name, or grades 0, is worth nothing.
            exclude: [Q, m], positions that it may not retrieve, filled up with -1.
        """
        left_out: list[set[int]] = [set() for _ in grades]
        if exclude is not None:
            left_out = [set(map(int, row)) for row in exclude]
        self._gains = [
            {
                position: 2.0**grade - 1
                for position, grade in of_query.items()
                if grade > 0 and position not in out
            }
            for of_query, out in zip(grades, left_out, strict=True)
        ]

    @property
    def n_relevant(self) -> NDArray[np.int64]:
        """[Q]: how many right answers each query can retrieve."""
        return np.array([len(gains) for gains in self._gains], dtype=np.int64)

    def gains_of(self, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """[Q, n]: the gains of the answers `ids` [Q, n]."""
        rows = [
            [gains.get(position, 0.0) for position in row]
            for gains, row in zip(self._gains, ids.tolist(), strict=True)
        ]
        return np.array(rows, dtype=np.float64).reshape(ids.shape)

    def best_gains(self, k: int) -> NDArray[np.float64]:
        """[Q, k]: the highest gains of each query, from the highest on, filled up with 0."""
        best = np.zeros((len(self._gains), k))
        for row, gains in enumerate(self._gains):
            highest = sorted(gains.values(), reverse=True)[:k]
            best[row, : len(highest)] = highest
        return best

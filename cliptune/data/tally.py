"""Counting many texts in little memory."""

from __future__ import annotations

from array import array

import numpy as np

_LISTED = 10


class Tally:
    """How often each of many texts comes, by their hashes; by name the first of them."""

    NAMED = 50_000

    def __init__(self) -> None:
        """Nothing yet."""
        self._hashes = array("q")
        self._names: dict[int, str] = {}

    def add(self, text: str) -> None:
        """Count a text."""
        self._hashes.append(hash(text))
        if len(self._names) < self.NAMED:
            self._names.setdefault(self._hashes[-1], text)

    def counts(self) -> list[tuple[str | None, int]]:
        """(text, or None where its name isn't kept; how often), the most frequent first."""
        if not self._hashes:
            return []
        hashes, first, counts = np.unique(
            np.frombuffer(self._hashes, np.int64), return_index=True, return_counts=True
        )
        order = np.lexsort((first, -counts))[:_LISTED]
        return [(self._names.get(int(hashes[i])), int(counts[i])) for i in order]

    def __len__(self) -> int:
        """How many different texts there are."""
        return len(np.unique(np.frombuffer(self._hashes, np.int64))) if self._hashes else 0

"""Embeddings of texts that were asked for lately."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

_LONGEST = 1000
"""Characters of a text that is worth keeping; queries are shorter."""


class EmbeddingCache:
    """The embeddings of the texts used last, by text; for many threads.

    It belongs to one tower, so that all it holds is of one model.
    """

    def __init__(self, size: int) -> None:
        """Keep at most `size` embeddings."""
        self._held: LRUCache[str, NDArray[np.float32]] = LRUCache(size)
        self._lock = threading.Lock()
        self.hits = 0
        """Texts that were found."""
        self.misses = 0
        """Texts that were not."""

    def get(self, texts: Iterable[str]) -> dict[str, NDArray[np.float32]]:
        """The embeddings float32 [D] of those of `texts` that are here."""
        with self._lock:
            asked = set(texts)
            held = {text: self._held[text] for text in asked if text in self._held}
            self.hits += len(held)
            self.misses += len(asked) - len(held)
        return held

    def put(self, embeddings: Mapping[str, NDArray[np.float32]]) -> None:
        """Remember each text's embedding, float32 [D]."""
        with self._lock:
            for text, embedding in embeddings.items():
                if len(text) <= _LONGEST:
                    self._held[text] = embedding.copy()  # not a view that keeps its whole batch

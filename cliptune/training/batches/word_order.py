"""Texts whose words are put in another order: what is told then is the words, not the sentence."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

_STREAM = 2
"""Tells these random numbers from a step's others."""


@dataclass(frozen=True)
class WordOrder:
    """Which texts it happens to, and how they are read then."""

    part: float
    """Of all texts, 0 to 1."""
    texts: Sequence[str]
    """[M]: those of the pairs, or of their choices where they have several."""
    tokenize: Callable[[list[str]], Tensor]
    """Texts to tokens int64 [n, L]."""

    def draw(self, count: int, seed: int) -> NDArray[np.int64]:
        """[count]: for each text of a batch what its order is drawn by, -1 where it stays."""
        dice = np.random.default_rng([seed, _STREAM])
        seeds = dice.integers(0, 2**62, count)
        return np.where(dice.random(count) < self.part, seeds, -1)

    def read(self, tokens: Tensor, rows: Sequence[int], seeds: NDArray[np.int64]) -> Tensor:
        """`tokens` int64 [n, L] of the texts at `rows`, those with a seed in another order."""
        changed = {
            place: _in_any_order(self.texts[row], int(seed))
            for place, (row, seed) in enumerate(zip(rows, seeds, strict=True))
            if seed >= 0
        }
        if changed:
            tokens = tokens.clone()
            tokens[list(changed)] = self.tokenize(list(changed.values()))
        return tokens


def _in_any_order(text: str, seed: int) -> str:
    words = text.split()
    return " ".join(random.Random(seed).sample(words, len(words)))

"""Several texts of one picture: each time that it is trained on, one of them is drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cliptune.data.equivalence import Groups
from cliptune.data.validation import is_blank
from cliptune.documents import ClipDoc

_STREAM = 1
"""Tells these random numbers from a step's others."""


def texts_with_weights(doc: ClipDoc) -> dict[str, float]:
    """The texts of a document that can be drawn; of one without several its text alone."""
    usable = {
        text: weight
        for text, weight in (doc.texts or {}).items()
        if not is_blank(text) and 0 < weight < math.inf
    }
    return usable or {str(doc.text): 1.0}


@dataclass(frozen=True)
class TextChoices:
    """The texts of N pairs, M different ones in all."""

    tokens: Tensor
    """int64 [M, L], padded to the longest."""
    rows: NDArray[np.int64]
    """[T]: the first pair's texts, by their rows of `tokens`, the second one's, …"""
    starts: NDArray[np.int64]
    """[N + 1]: where in `rows` each pair's begin, and where the last one's end."""
    ends: NDArray[np.float64]
    """[T]: where each text's part of its pair's [0, 1) ends; it is as long as its weight's."""
    texts: list[str]
    """[M], as they are written."""
    features: Tensor | None = None
    """float32 [M, width] of the text tower's trunk, where that is frozen."""

    @classmethod
    def of(
        cls,
        texts: Sequence[dict[str, float]],
        row_of: dict[str, int],
        tokens: Tensor,
        unique: list[str],
    ) -> TextChoices | None:
        """The choices among each pair's `texts`; None: no pair has two.

        `row_of` is each text's row in `tokens`, which are of the `unique` texts, the same for texts
        with the same tokens.
        """
        if all(len(one) < 2 for one in texts):
            return None
        counts = [len(one) for one in texts]
        weights = [np.cumsum(list(one.values())) for one in texts]
        return cls(
            tokens,
            np.array([row_of[text] for one in texts for text in one], dtype=np.int64),
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            np.concatenate([one / one[-1] for one in weights]),
            unique,
        )

    def draw(self, positions: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
        """[n]: a text for each of the pairs at `positions`, by its row of `tokens`."""
        part = np.random.default_rng([seed, _STREAM]).random(len(positions))
        first, after = self.starts[positions], self.starts[positions + 1]
        chosen = first.copy()
        for number in range(int((after - first).max(initial=1)) - 1):
            at = np.minimum(first + number, after - 1)
            chosen += (part >= self.ends[at]) & (first + number < after - 1)
        return self.rows[chosen]

    def subset(self, positions: NDArray[np.int64]) -> TextChoices:
        """Those of the pairs at `positions`."""
        parts = [np.arange(self.starts[one], self.starts[one + 1]) for one in positions]
        taken = np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
        starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
        return replace(self, rows=self.rows[taken], starts=starts, ends=self.ends[taken])


def labels_with_texts(labels: Tensor, rows: Iterable[int]) -> Tensor:
    """Labels int64 [n] of pairs that are right answers to each other by `labels` or by their text.

    Two products with one description must not be wrong answers to each other in the step that
    draws it for both.
    """
    groups: Groups[tuple[str, int]] = Groups()
    keys = [("label", int(label)) for label in labels]
    for key, row in zip(keys, rows, strict=True):
        groups.join([key, ("text", int(row))])
    codes: dict[tuple[str, int], int] = {}
    joined = [codes.setdefault(groups.first(key), len(codes)) for key in keys]
    return torch.tensor(joined, dtype=torch.int64)

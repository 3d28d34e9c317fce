"""What documents say of their pairs: how much each counts, and which answers are wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cliptune.documents import HIGHEST_GRADE, ClipDoc

Negatives = dict[int, NDArray[np.int64]]
"""By a pair's position those of the wrong answers to it."""


def weights_of(docs: Sequence[ClipDoc]) -> Tensor | None:
    """float32 [N]: each document's `weight` times its grade over 3; None where all are 1.

    So a fully right answer counts three times as much as one that is barely right, and one of
    grade 0 has weight 0: a wrong answer (see `cliptune.training.losses`).
    """
    weights = [
        (1.0 if doc.weight is None else doc.weight)
        * (1.0 if doc.grade is None else doc.grade / HIGHEST_GRADE)
        for doc in docs
    ]
    if all(weight == 1 for weight in weights):
        return None
    return torch.tensor(weights, dtype=torch.float32)


def find_negatives(docs: Sequence[ClipDoc], texts: Sequence[int]) -> Negatives:
    """The wrong answers of each pair among `docs`: those that it names, those that are graded so.

    Args:
        docs: the pairs; `negatives` are ids of others.
        texts: [N], equal where two texts are the same: a document of grade 0 is a wrong answer to
            all pairs of its text.
    """
    position_of = {str(doc.id): position for position, doc in enumerate(docs)}
    wrong_for: dict[int, list[int]] = {}
    for position, (doc, text) in enumerate(zip(docs, texts, strict=True)):
        if doc.grade == 0:
            wrong_for.setdefault(text, []).append(position)
    negatives: Negatives = {}
    for position, (doc, text) in enumerate(zip(docs, texts, strict=True)):
        if doc.grade == 0:
            continue
        named = [position_of[one] for one in doc.negatives or () if one in position_of]
        wrong = dict.fromkeys([*named, *wrong_for.get(text, ())])
        wrong.pop(position, None)
        if wrong:
            negatives[position] = np.array(list(wrong), dtype=np.int64)
    return negatives


def unknown_negatives(docs: Sequence[ClipDoc]) -> list[str]:
    """Ids that documents name as wrong answers and that none of them has."""
    known = {str(doc.id) for doc in docs}
    named = (one for doc in docs for one in doc.negatives or ())
    return [one for one in dict.fromkeys(named) if one not in known]


def negatives_among(negatives: Negatives, positions: Iterable[int]) -> Negatives:
    """Those of the pairs at `positions` that are there too, by their places in it."""
    place_of = {int(position): place for place, position in enumerate(positions)}
    kept = {}
    for position, wrong in negatives.items():
        there = [place_of[int(one)] for one in wrong if int(one) in place_of]
        if position in place_of and there:
            kept[place_of[position]] = np.array(there, dtype=np.int64)
    return kept

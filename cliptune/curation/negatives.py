"""Hard negatives: for each pair, wrong answers that the model at hand ranks near the right one.

Candidates are the nearest neighbours by an exact search (`cliptune.evaluation.topk`): of a title
the pictures, of a picture the titles, or both. What is nearest is often no wrong answer at all but
one that nobody has marked as right; so candidates are left out by rules. Their names and meanings
are those of sentence-transformers' `mine_hard_negatives`; positive-aware mining is that of
Moreira et al., "NV-Retriever: Improving text embedding models with effective hard-negative mining",
2024 (arXiv:2407.15831): `relative_margin=0.05` is its TopK-PercPos with 95 %, `absolute_margin` its
TopK-MarginPos, `max_score` its TopK-Abs, and `range_min` its top-k shifted by N.

Never candidates are right answers as training decides them (`cliptune.data.equivalence`): pairs of
one label, title, product or picture. The two thresholds on near-duplicates are ours: a table knows
pictures and titles of both sides of a couple, and two pictures that are all but the same can't be a
right and a wrong answer.

Beside the embeddings a search takes about 100 MB, and what it finds 4 bytes for each candidate of
each pair and direction, twice for a moment: with 100 candidates 0.8 GB for a million pairs. No
matrix of all pairs by all pairs is ever made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from docarray import DocList
from numpy.typing import NDArray

from cliptune.curation.embedded import EmbeddedPairs
from cliptune.curation.mining_options import MiningOptions
from cliptune.documents import ClipDoc
from cliptune.evaluation.search_task import OnProgress
from cliptune.evaluation.topk import top_k

QUERIES = 8192
"""Titles or pictures that are searched for at once."""
_NUMBERS = 2**24
"""Of embeddings that are compared couple by couple, at once."""
_EXCLUDED = 2**22
"""Right answers of the queries of one search, at once."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Negative:
    """A wrong answer."""

    position: int
    """Of its pair among those that were looked at."""
    score: float
    """The cosine by which it was found."""


@dataclass
class Mined:
    """What was found."""

    negatives: list[list[Negative]]
    """[N]: of each pair, the nearest first."""
    n_right: int = 0
    """Couples that were no candidates because they belong together."""
    n_candidates: int = 0
    """Couples that were looked at."""
    left_out: Counter[str] = field(default_factory=Counter)
    """How many of them each rule left out, by its name; the first that applies counts."""
    n_short: int = 0
    """Pairs for which fewer than `num_negatives` were found."""

    @property
    def n_found(self) -> int:
        """Of all pairs together."""
        return sum(map(len, self.negatives))


@dataclass(frozen=True)
class _Side:
    """One direction of search: titles that look for pictures, or pictures for titles."""

    what: str
    """Is looked for."""
    asked: Floats
    """[A, D]: embeddings that look."""
    index: Floats
    """[I, D]: embeddings that are looked for."""
    asks: Ints
    """[N]: which of `asked` each pair has."""
    has: Ints
    """[N]: which of `index` each pair has."""
    groups: Ints
    """[N]: equal where pairs belong together."""

    @cached_property
    def query_of(self) -> Ints:
        """[N]: which query each pair is: those of one group that ask the same are one."""
        _, numbers = np.unique(np.stack([self.asks, self.groups]), axis=1, return_inverse=True)
        return numbers.reshape(-1).astype(np.int64)

    def right_scores(self) -> Floats:
        """[N]: the least cosine of a query with its own answers."""
        cosines = _rowwise(self.asked[self.asks], self.index[self.has])
        least = np.full(int(self.query_of.max()) + 1, np.inf, dtype=np.float32)
        np.minimum.at(least, self.query_of, cosines)
        return least[self.query_of]

    def representatives(self) -> Ints:
        """[I]: the first pair that has each of `index`."""
        return np.unique(self.has, return_index=True)[1].astype(np.int64)


def mine(pairs: EmbeddedPairs, options: MiningOptions, tell: OnProgress = lambda *_: None) -> Mined:
    """Find the wrong answers of each pair.

    Of several pairs with one picture (looking for pictures) or one title the first stands for it.

    Args:
        pairs: see `embed_pairs`.
        options: see `MiningOptions`.
        tell: of the progress.
    """
    titles, pictures = pairs.title_of, pairs.picture_of
    sides = {
        "pictures": _Side("pictures", pairs.titles, pairs.pictures, titles, pictures, pairs.groups),
        "titles": _Side("titles", pairs.pictures, pairs.titles, pictures, titles, pairs.groups),
    }
    chosen = [side for name, side in sides.items() if options.direction in ("both", name)]
    mined = Mined([[] for _ in range(len(pairs))])
    found = []
    for side in chosen:
        near, n_right = _neighbours(side, options.candidates, tell)
        found.append(near)
        mined.n_right += n_right
    right = {side.what: side.right_scores() for side in chosen}
    random = np.random.default_rng(options.seed)
    width = sum(one.shape[1] for one in found)
    step = max(1, _NUMBERS // max(1, width * pairs.titles.shape[1]))
    for start in range(0, len(pairs), step):
        tell("choosing wrong answers", start, len(pairs))
        rows = np.arange(start, min(start + step, len(pairs)))
        candidates = _without_repeats(np.concatenate([one[rows] for one in found], axis=1))
        scores = _judged(pairs, rows, candidates, right, options, mined)
        for row, order in zip(rows, _ranked(scores, candidates, options, random), strict=True):
            place = row - start
            mined.negatives[row] = [
                Negative(int(candidates[place, at]), float(scores[place, at])) for at in order
            ]
            mined.n_short += len(order) < options.num_negatives
    return mined


def with_negatives(pairs: EmbeddedPairs, mined: Mined) -> DocList[ClipDoc]:
    """The pairs as documents that name their wrong answers, after those that they name already."""
    docs = DocList[ClipDoc]()
    for doc, negatives in zip(pairs.docs, mined.negatives, strict=True):
        found = [str(pairs.docs[one.position].id) for one in negatives]
        ids = list(dict.fromkeys([*(doc.negatives or ()), *found]))
        docs.append(doc.model_copy(update={"negatives": ids or None}))
    return docs


def _neighbours(side: _Side, count: int, tell: OnProgress) -> tuple[NDArray[np.int32], int]:
    """[N, count]: for each pair, the pairs that stand for its nearest wrong answers; -1: no more.

    And how many couples were no candidates, as they belong together.
    """
    first_of_query = np.unique(side.query_of, return_index=True)[1]
    stands_for = np.append(side.representatives(), -1)
    found = np.empty((len(first_of_query), min(count, len(side.index))), dtype=np.int32)
    right_of_group = _members(side.groups, side.has)
    right_of_asked = _members(side.asks, side.has)
    n_right = 0
    for start, stop in _query_ranges(first_of_query, side, right_of_group):
        tell(f"looking for {side.what}", start, len(first_of_query))
        pairs = first_of_query[start:stop]
        right = [
            np.union1d(right_of_group[side.groups[pair]], right_of_asked[side.asks[pair]])
            for pair in pairs
        ]
        n_right += sum(map(len, right)) - len(right)
        exclude = np.full((len(right), max(map(len, right))), -1, dtype=np.int64)
        for line, one in zip(exclude, right, strict=True):
            line[: len(one)] = one
        ids, _ = top_k(side.asked[side.asks[pairs]], side.index, count, exclude=exclude)
        found[start:stop] = stands_for[ids]
    return found[side.query_of], n_right


def _members(of: Ints, has: Ints) -> list[Ints]:
    """For each number in `of`, which ones of `has` stand beside it."""
    couples = np.unique(np.stack([of, has]), axis=1)
    ends = np.searchsorted(couples[0], np.arange(int(of.max()) + 2))
    return [couples[1][ends[i] : ends[i + 1]] for i in range(len(ends) - 1)]


def _query_ranges(
    first: Ints, side: _Side, right_of_group: list[Ints]
) -> Iterator[tuple[int, int]]:
    """Queries to be searched for at once: fewer where they have many right answers."""
    most = max(map(len, right_of_group))
    step = max(1, min(QUERIES, _EXCLUDED // most))
    return ((start, min(start + step, len(first))) for start in range(0, len(first), step))


def _without_repeats(candidates: NDArray[np.int32]) -> Ints:
    """[n, K] with -1 for what stood further left in its row."""
    order = np.argsort(candidates, axis=1, kind="stable")
    in_order = np.take_along_axis(candidates, order, axis=1)
    repeated = np.zeros_like(in_order, dtype=bool)
    repeated[:, 1:] = in_order[:, 1:] == in_order[:, :-1]
    is_repeated = np.zeros_like(repeated)
    np.put_along_axis(is_repeated, order, repeated, axis=1)
    return np.where(is_repeated, -1, candidates).astype(np.int64)


def _judged(
    pairs: EmbeddedPairs,
    rows: Ints,
    candidates: Ints,
    right: dict[str, Floats],
    options: MiningOptions,
    mined: Mined,
) -> Floats:
    """[n, K]: the candidates' scores, -inf where there is none or a rule leaves it out."""
    own_titles = pairs.titles[pairs.title_of[rows]]
    own_pictures = pairs.pictures[pairs.picture_of[rows]]
    titles = pairs.titles[pairs.title_of[candidates]]
    pictures = pairs.pictures[pairs.picture_of[candidates]]
    ways = {}
    if "pictures" in right:
        ways["pictures"] = _each(own_titles, pictures)
    if "titles" in right:
        ways["titles"] = _each(own_pictures, titles)
    scores = np.maximum.reduce(list(ways.values()))
    is_open = candidates >= 0
    mined.n_candidates += int(is_open.sum())

    def leave_out(rule: str, which: NDArray[np.bool_]) -> None:
        nonlocal is_open
        mined.left_out[rule] += int((is_open & which).sum())
        is_open = is_open & ~which

    if options.near_pictures is not None:
        leave_out("near_pictures", _each(own_pictures, pictures) >= options.near_pictures)
    if options.near_titles is not None:
        leave_out("near_titles", _each(own_titles, titles) >= options.near_titles)
    for way, cosines in ways.items():
        own = right[way][rows][:, None]
        if options.absolute_margin is not None:
            leave_out("absolute_margin", cosines + options.absolute_margin > own)
        if options.relative_margin is not None:
            leave_out("relative_margin", cosines > own - abs(own) * options.relative_margin)
    if options.max_score is not None:
        leave_out("max_score", scores > options.max_score)
    if options.min_score is not None:
        leave_out("min_score", scores < options.min_score)
    return np.where(is_open, scores, -np.inf).astype(np.float32)


def _ranked(
    scores: Floats, candidates: Ints, options: MiningOptions, random: np.random.Generator
) -> Iterator[Ints]:
    """Of each row the places of those that are taken, the nearest first."""
    # Equal scores: the earlier pair first.
    order = np.lexsort((candidates, -scores), axis=1)
    counts = np.isfinite(scores).sum(axis=1)
    for line, count in zip(order, counts, strict=True):
        left = line[options.range_min : min(count, options.candidates)]
        if options.sampling_strategy == "random" and len(left) > options.num_negatives:
            left = left[np.sort(random.choice(len(left), options.num_negatives, replace=False))]
        yield left[: options.num_negatives]


def _each(own: Floats, others: Floats) -> Floats:
    """[n, K]: the cosines of `own` [n, D] with `others` [n, K, D]."""
    cosines: Floats = np.matmul(others, own[:, :, None])[:, :, 0]
    return cosines


def _rowwise(one: Floats, other: Floats) -> Floats:
    """[n]: the cosines of the rows of [n, D] and [n, D]."""
    cosines: Floats = np.einsum("nd,nd->n", one, other)
    return cosines

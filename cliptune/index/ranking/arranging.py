"""From the nearest documents to a page of matches, as a `Ranking` says."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cliptune.documents import Match
from cliptune.index.ranking.diversity import diverse_order
from cliptune.index.ranking.formula import Formula
from cliptune.index.ranking.groups import Find, nearest_groups
from cliptune.index.ranking.options import Ranking
from cliptune.index.ranking.sorting import sort_matches
from cliptune.index.tags import values_at

Embeddings = Callable[[Sequence[str]], dict[str, np.ndarray]]
"""The stored embeddings with these ids; those that aren't there any more are left out."""


def arrange(
    ranking: Ranking,
    find: Find,
    queries: int,
    page: slice,
    least: float,
    embeddings: Embeddings,
) -> list[list[Match]]:
    """For each query the matches on a page.

    Args:
        ranking: what is made of the nearest documents.
        find: gives them.
        queries: how many queries there are.
        page: which places, of those that the ranking gives.
        least: the score that a match has at least.
        embeddings: of stored documents.
    """
    wanted = ranking.wanted(page.start, page.stop - page.start)
    if not wanted:
        return [[] for _ in range(queries)]
    if ranking.group_by is None:
        candidates = [
            [match for match in matches if match.score >= least]
            for matches in find(range(queries), wanted, None)
        ]
    else:
        candidates = nearest_groups(find, queries, ranking.group_by, wanted, least)
    return [_ordered(ranking, matches, page.stop, embeddings)[page] for matches in candidates]


def _ordered(
    ranking: Ranking, matches: list[Match], most: int, embeddings: Embeddings
) -> list[Match]:
    """The matches in the ranking's order, at least the first `most` of them."""
    if ranking.sorting:
        return sort_matches(matches, ranking.sorting)
    if ranking.scoring is not None:
        return _by_formula(matches, ranking.scoring)
    if ranking.diversity is not None and matches:
        stored = embeddings([str(match.id) for match in matches])
        there = [match for match in matches if match.id in stored]
        scores = np.array([match.score for match in there], np.float64)
        vectors = (
            np.stack([stored[str(match.id)] for match in there]) if there else np.empty((0, 1))
        )
        return [there[place] for place in diverse_order(scores, vectors, ranking.diversity, most)]
    return matches


def _by_formula(matches: list[Match], formula: Formula) -> list[Match]:
    scores = np.array([match.score for match in matches], np.float64)
    values = {
        path: np.array([_number(match, path) for match in matches], np.float64)
        for path in formula.tags
    }
    for match, score in zip(matches, formula.of(scores, values).tolist(), strict=True):
        match.formula_score = None if np.isnan(score) else score
    return sorted(
        matches,
        key=lambda match: -np.inf if match.formula_score is None else match.formula_score,
        reverse=True,  # which keeps the order of what is equal
    )


def _number(match: Match, path: str) -> float:
    values = list(values_at(match.tags, path).values())
    return float(values[0]) if len(values) == 1 and not isinstance(values[0], str) else np.nan

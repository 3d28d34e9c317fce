"""Retrieval metrics over ranked hits, vectorised over queries.

Two families stand side by side:

- docarray 0.21's definitions under docarray's names. Finetuner reported these, so figures under
  these names compare with its published ones. Average precision, R-precision and nDCG are
  normalised by what was *retrieved* and so read higher than a textbook's; recall counts the
  query's own document as a relevant one even where it may not retrieve itself.
- the textbook's definitions (Manning, Raghavan & Schütze, *Introduction to Information
  Retrieval*, chapter 8; cut at rank k as trec_eval does), under names that end in `_textbook`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cliptune.errors import BadInput

DOCARRAY_METRICS = (
    "precision_at_k",
    "hit_at_k",
    "average_precision",
    "reciprocal_rank",
    "dcg_at_k",
    "recall_at_k",
    "ndcg_at_k",
    "f1_score_at_k",
    "r_precision",
)
TEXTBOOK_METRICS = (
    "precision_at_k_textbook",
    "average_precision_textbook",
    "dcg_at_k_textbook",
    "recall_at_k_textbook",
    "ndcg_at_k_textbook",
    "f1_score_at_k_textbook",
    "r_precision_textbook",
)
METRICS = DOCARRAY_METRICS + TEXTBOOK_METRICS
"""Every key of `retrieval_metrics`' answer, in the order in which they are shown."""

UNBOUNDED_METRICS = frozenset({"dcg_at_k", "dcg_at_k_textbook"})
"""Metrics that can exceed 1; all others lie in [0, 1]. For all of them higher is better."""

HEADLINE = "reciprocal_rank"
"""The metric by which queries are said to have gained or lost, and groups of them are compared."""

Floats = NDArray[np.float64]
Numbers = NDArray[np.float64 | np.int64]


def retrieval_metrics(
    relevant: ArrayLike,
    n_relevant: ArrayLike,
    retrieved: ArrayLike | None = None,
    *,
    excluded: ArrayLike | None = None,
    limit: int | None = None,
) -> dict[str, float]:
    """Means over queries of every metric in `METRICS`, as float64.

    `per_query_metrics` gives the definitions for one query; queries have equal weight in the
    mean. A query without a relevant document in the index counts as 0 in every metric: recall
    would be 0/0 (docarray refuses such a query, or answers NaN). Such queries pull the means
    down; `Evaluation.n_without_answers` says how many there are.

    Arguments and errors are those of `per_query_metrics`; no queries at all raise `BadInput`.
    """
    return means(per_query_metrics(relevant, n_relevant, retrieved, excluded=excluded, limit=limit))


def means(by_query: Mapping[str, Floats]) -> dict[str, float]:
    """The mean over queries of each metric; no queries at all raise `BadInput`."""
    if not len(by_query[METRICS[0]]):
        raise BadInput("no queries: metrics need at least one")
    return {name: float(np.mean(by_query[name])) for name in METRICS}


def per_query_metrics(
    relevant: ArrayLike,
    n_relevant: ArrayLike,
    retrieved: ArrayLike | None = None,
    *,
    excluded: ArrayLike | None = None,
    limit: int | None = None,
    gains: ArrayLike | None = None,
    best_gains: ArrayLike | None = None,
) -> dict[str, Floats]:
    """Every metric in `METRICS` for each query: arrays float64 [Q].

    For one query let `rel` be its 0/1 list in rank order, n its length (the retrieved documents,
    fewer than k only where the index is small), h = sum(rel) the hits, A = `n_relevant` all
    relevant documents in the index, R = A - `excluded` those that can be retrieved, and
    P@i = (rel_1 + … + rel_i) / i. 0/0 is 0 throughout.

    docarray 0.21:
      - precision_at_k = h / n
      - hit_at_k = 1 if h > 0 else 0
      - recall_at_k = h / A
      - f1_score_at_k = 2 · precision · recall / (precision + recall)
      - average_precision = (sum of P@i over the hits' ranks i) / h
      - reciprocal_rank = 1 / rank of the first hit, else 0
      - r_precision = P@h, so it says how densely the hits stand at the top
      - dcg_at_k = rel_1 + Σ_{i ≥ 2} rel_i / log2(i)
      - ndcg_at_k = dcg_at_k / dcg_at_k of the same list sorted

    Textbook, cut at k (hit and reciprocal rank are the same in both):
      - precision_at_k_textbook = h / k
      - recall_at_k_textbook = h / R
      - f1_score_at_k_textbook = the harmonic mean of these two
      - average_precision_textbook = (sum of P@i over the hits' ranks i) / R; what was not found
        counts as 0, so its maximum is k / R where R > k (trec_eval's map_cut)
      - r_precision_textbook = (hits within the first R ranks) / R; only k ranks are seen, so it
        is a lower bound where R > k
      - dcg_at_k_textbook = Σ_i rel_i / log2(i + 1)
      - ndcg_at_k_textbook = dcg_at_k_textbook / (that of min(R, k) hits at the top)

    Where right answers have grades (`gains`), rel in these last two is the gain of the i-th answer,
    2^grade - 1, and nDCG is over the DCG of the best order of all that can be retrieved (Burges et
    al., 2005; the book's chapter 8.4). In all other metrics what has a grade above 0 is right.

    Args:
        relevant: bool or 0/1 [Q, n], whether the i-th best answer has the query's label.
            Columns past a query's `retrieved` must be 0.
        n_relevant: integers [Q], the relevant documents in the whole index.
        retrieved: integers [Q], how many columns are real answers; all n by default.
        excluded: integers [Q], how many of `n_relevant` the query may not retrieve because they
            are the query itself; 0 by default.
        limit: k, by default n. Larger than n where the index holds fewer than k documents.
        gains: floats [Q, n], of the i-th answer, 0 where it isn't relevant; by default `relevant`.
        best_gains: floats [Q, m], with `gains`: the m <= k highest of all that can be retrieved,
            from the highest on, filled up with 0.

    Raises:
        BadInput: shapes disagree, values other than 0 and 1, hits past `retrieved`, or more hits
            than relevant documents; the message gives the position of the first such query.
    """
    rel, in_index, total, seen, k = _checked(relevant, n_relevant, retrieved, excluded, limit)
    n_queries, width = rel.shape
    ranks = np.arange(1, width + 1, dtype=np.float64)
    hits_so_far = np.cumsum(rel, axis=1, dtype=np.int64)
    hits = rel.sum(axis=1, dtype=np.int64)
    # At a hit's rank, P@i; elsewhere 0.
    precisions = np.where(rel, hits_so_far / ranks, 0.0).sum(axis=1)

    precision = _ratio(hits, seen)
    recall = _ratio(hits, in_index)
    precision_textbook = hits / k
    recall_textbook = _ratio(hits, total)
    first = rel.argmax(axis=1) + 1.0 if width else np.ones(n_queries)

    docarray_gain = _gains(width, shift=0)
    dcg = rel @ docarray_gain
    ideal = _cumulated(docarray_gain)[hits]
    textbook_gain = _gains(k, shift=1)
    if gains is None or best_gains is None:
        dcg_textbook = rel @ textbook_gain[:width]
        ideal_textbook = _cumulated(textbook_gain)[np.minimum(total, k)]
    else:
        best = np.asarray(best_gains, dtype=np.float64)
        dcg_textbook = np.asarray(gains, dtype=np.float64) @ textbook_gain[:width]
        ideal_textbook = best @ textbook_gain[: best.shape[1]]

    return {
        "precision_at_k": precision,
        "hit_at_k": (hits > 0).astype(np.float64),
        "average_precision": _ratio(precisions, hits),
        "reciprocal_rank": np.where(hits > 0, 1.0 / first, 0.0),
        "dcg_at_k": dcg,
        "recall_at_k": recall,
        "ndcg_at_k": _ratio(dcg, ideal),
        "f1_score_at_k": _harmonic(precision, recall),
        "r_precision": _ratio(_hits_within(hits_so_far, hits), hits),
        "precision_at_k_textbook": precision_textbook,
        "average_precision_textbook": _ratio(precisions, total),
        "dcg_at_k_textbook": dcg_textbook,
        "recall_at_k_textbook": recall_textbook,
        "ndcg_at_k_textbook": _ratio(dcg_textbook, ideal_textbook),
        "f1_score_at_k_textbook": _harmonic(precision_textbook, recall_textbook),
        "r_precision_textbook": _ratio(_hits_within(hits_so_far, total), total),
    }


def _checked(
    relevant: ArrayLike,
    n_relevant: ArrayLike,
    retrieved: ArrayLike | None,
    excluded: ArrayLike | None,
    limit: int | None,
) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], int]:
    given = np.asarray(relevant)
    if given.ndim != 2:
        raise BadInput(f"relevant must be a [Q, k] array, it has the shape {given.shape}")
    rel = given.astype(bool)
    if given.dtype != bool and not np.array_equal(rel, given):
        row = int(np.flatnonzero((rel != given).any(axis=1))[0])
        raise BadInput(f"relevant holds 0 and 1 only, query {row} has {given[row].tolist()}")
    n_queries, width = rel.shape
    k = width if limit is None else limit
    if k < max(width, 1):
        raise BadInput(f"limit is {k}, it must be at least 1 and the {width} columns of relevant")
    in_index = _counts("n_relevant", n_relevant, n_queries)
    total = in_index
    if excluded is not None:
        total = in_index - _counts("excluded", excluded, n_queries)
    if retrieved is None:
        seen = np.full(n_queries, width, dtype=np.int64)
    else:
        seen = _counts("retrieved", retrieved, n_queries)
        wrong = (seen > width) | (rel & (np.arange(width) >= seen[:, None])).any(axis=1)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise BadInput(
                f"query {row}: retrieved is {seen[row]}, but relevant has {width} columns "
                f"with hits in {np.flatnonzero(rel[row]).tolist()}"
            )
    over = np.flatnonzero(rel.sum(axis=1) > total)
    if over.size:
        row = int(over[0])
        raise BadInput(
            f"query {row}: {rel[row].sum()} hits, but {total[row]} relevant documents to retrieve"
        )
    return rel, in_index, total, seen, k


def _counts(name: str, values: ArrayLike, n_queries: int) -> NDArray[np.int64]:
    counts = np.asarray(values)
    if counts.shape != (n_queries,):
        raise BadInput(f"{name} must have the shape ({n_queries},), it has {counts.shape}")
    # An empty list comes as float64, and is as good as integers.
    if counts.size and (not np.issubdtype(counts.dtype, np.integer) or counts.min() < 0):
        raise BadInput(f"{name} must be integers of at least 0, got {counts.dtype} {counts[:5]}")
    return counts.astype(np.int64)


def _ratio(numerator: Numbers, denominator: Numbers) -> Floats:
    """`numerator / denominator` in float64, 0 where the denominator is 0."""
    ratio: Floats = np.zeros(len(numerator), dtype=np.float64)
    np.divide(numerator, denominator, out=ratio, where=denominator != 0)
    return ratio


def _harmonic(a: Floats, b: Floats) -> Floats:
    return _ratio(2 * a * b, a + b)


def _gains(n: int, *, shift: int) -> Floats:
    """The discount of ranks 1 to n: 1 / log2(i + shift); the first rank counts in full."""
    ranks = np.arange(1, n + 1, dtype=np.float64)
    return 1.0 / np.log2(np.maximum(ranks + shift, 2.0))


def _cumulated(gains: Floats) -> Floats:
    """[n + 1]: the sum of the first i gains at position i."""
    return np.concatenate([[0.0], np.cumsum(gains)])


def _hits_within(hits_so_far: NDArray[np.int64], depth: NDArray[np.int64]) -> NDArray[np.int64]:
    """Hits among the first `depth` ranks; [Q, n] cumulated hits and [Q] depths give [Q]."""
    padded = np.concatenate([np.zeros((len(hits_so_far), 1), dtype=np.int64), hits_so_far], axis=1)
    return padded[np.arange(len(padded)), np.minimum(depth, hits_so_far.shape[1])]

"""Metrics against loops written from their definitions, torchmetrics, and values by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional import retrieval as reference

from cliptune.errors import BadInput
from cliptune.evaluation.metrics import (
    DOCARRAY_METRICS,
    METRICS,
    UNBOUNDED_METRICS,
    per_query_metrics,
    retrieval_metrics,
)


def docarray_021(rel: list[int], in_index: int) -> dict[str, float]:
    """docarray 0.21's metrics of one query, as loops over its list."""

    def dcg(values: list[int]) -> float:
        total = float(values[0]) if values else 0.0
        for i in range(2, len(values) + 1):
            total += values[i - 1] / math.log2(i)
        return total

    hit_ranks = [i for i, r in enumerate(rel, 1) if r]
    precision = sum(rel) / len(rel) if rel else 0.0
    recall = sum(rel) / in_index if in_index else 0.0
    both = precision + recall
    ap = [sum(rel[:i]) / i for i in hit_ranks]
    n_hits = len(hit_ranks)
    best = dcg(sorted(rel, reverse=True))
    return {
        "precision_at_k": precision,
        "hit_at_k": 1.0 if any(rel) else 0.0,
        "recall_at_k": recall,
        "f1_score_at_k": 2 * precision * recall / both if both else 0.0,
        "average_precision": sum(ap) / len(ap) if ap else 0.0,
        "reciprocal_rank": 1 / hit_ranks[0] if hit_ranks else 0.0,
        "r_precision": sum(rel[:n_hits]) / n_hits if n_hits else 0.0,
        "dcg_at_k": dcg(rel),
        "ndcg_at_k": dcg(rel) / best if best else 0.0,
    }


# One query: its list, how many relevant documents the list lacks, how many are the query itself.
query = st.tuples(
    st.lists(st.integers(0, 1), max_size=12), st.sampled_from([0, 0, 1, 4]), st.integers(0, 1)
)


@settings(max_examples=200, deadline=None)
@given(st.lists(query, min_size=1, max_size=6))
def test_docarray_metrics_are_those_of_plain_loops(queries: list) -> None:
    width = max(len(rel) for rel, _, _ in queries)
    padded = [rel + [0] * (width - len(rel)) for rel, _, _ in queries]
    in_index = [sum(rel) + missing + own for rel, missing, own in queries]
    expected = [
        docarray_021(rel, total) for (rel, _, _), total in zip(queries, in_index, strict=True)
    ]
    got = per_query_metrics(
        np.array(padded).reshape(len(queries), width),
        in_index,
        [len(rel) for rel, _, _ in queries],
        excluded=[own for _, _, own in queries],
        limit=max(width, 1),
    )
    for name in DOCARRAY_METRICS:
        assert got[name].dtype == np.float64
        np.testing.assert_allclose(got[name], [e[name] for e in expected], atol=1e-12, err_msg=name)


def test_by_hand() -> None:
    # Hits at ranks 2 and 3 of 4; 5 relevant in the index, of which one is the query itself.
    got = retrieval_metrics([[0, 1, 1, 0]], [5], excluded=[1])
    ap = 1 / 2 + 2 / 3
    log3, log4, log5 = math.log2(3), 2.0, math.log2(5)
    assert got == pytest.approx(
        {
            "precision_at_k": 0.5,
            "hit_at_k": 1.0,
            "average_precision": ap / 2,
            "reciprocal_rank": 0.5,
            "dcg_at_k": 1 + 1 / log3,
            "recall_at_k": 0.4,
            "ndcg_at_k": (1 + 1 / log3) / 2,
            "f1_score_at_k": 2 * 0.5 * 0.4 / 0.9,
            "r_precision": 0.5,
            "precision_at_k_textbook": 0.5,
            "average_precision_textbook": ap / 4,
            "dcg_at_k_textbook": 1 / log3 + 1 / log4,
            "recall_at_k_textbook": 0.5,
            "ndcg_at_k_textbook": (1 / log3 + 1 / log4) / (1 + 1 / log3 + 1 / log4 + 1 / log5),
            "f1_score_at_k_textbook": 0.5,
            "r_precision_textbook": 0.5,
        },
        abs=1e-12,
    )
    assert list(got) == list(METRICS)


def test_means_give_every_query_equal_weight() -> None:
    got = retrieval_metrics([[1, 1], [0, 1], [0, 0]], [2, 4, 0])
    assert got["precision_at_k"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert got["recall_at_k"] == pytest.approx((1 + 0.25 + 0) / 3)
    assert got["hit_at_k"] == pytest.approx(2 / 3)
    assert got["reciprocal_rank"] == pytest.approx((1 + 0.5) / 3)


def test_a_short_list_is_a_list_of_its_own_length() -> None:
    """With 2 documents in the index, precision@20 is over 2 in docarray and over 20 in books."""
    got = retrieval_metrics([[1, 0]], [1], limit=20)
    assert got["precision_at_k"] == 0.5
    assert got["precision_at_k_textbook"] == 0.05
    assert got["recall_at_k"] == got["recall_at_k_textbook"] == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_textbook_metrics_are_torchmetrics(seed: int) -> None:
    """A ranking of the whole index, given to torchmetrics whole and to us cut at k."""
    rng = np.random.default_rng(seed)
    n_queries, n_index, k = 30, 40, 12
    rel = rng.random((n_queries, n_index)) < rng.choice([0.02, 0.1, 0.5], n_queries)[:, None]
    got = per_query_metrics(rel[:, :k], rel.sum(axis=1))
    whole = per_query_metrics(rel, rel.sum(axis=1))
    scores = torch.arange(n_index, 0, -1, dtype=torch.float64) / n_index
    for q in range(n_queries):
        target = torch.from_numpy(rel[q])
        expected = {
            "precision_at_k_textbook": reference.retrieval_precision(scores, target, top_k=k),
            "recall_at_k_textbook": reference.retrieval_recall(scores, target, top_k=k),
            "hit_at_k": reference.retrieval_hit_rate(scores, target, top_k=k),
            "reciprocal_rank": reference.retrieval_reciprocal_rank(scores, target, top_k=k),
            "ndcg_at_k_textbook": reference.retrieval_normalized_dcg(scores, target, top_k=k),
            # torchmetrics, too, divides a truncated AP by the hits it saw: docarray's.
            "average_precision": reference.retrieval_average_precision(scores, target, top_k=k),
        }
        for name, value in expected.items():
            assert got[name][q] == pytest.approx(float(value), abs=1e-6), name
        ap = reference.retrieval_average_precision(scores, target)
        assert whole["average_precision_textbook"][q] == pytest.approx(float(ap), abs=1e-6)
        rp = reference.retrieval_r_precision(scores, target)
        assert whole["r_precision_textbook"][q] == pytest.approx(float(rp), abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 1), min_size=5, max_size=5), min_size=1, max_size=5),
    st.integers(0, 9),
)
def test_bounds_and_what_a_perfect_ranking_gets(rel: list, missing: int) -> None:
    total = [sum(r) + missing for r in rel]
    got = retrieval_metrics(rel, total)
    best = retrieval_metrics([sorted(r, reverse=True) for r in rel], total)
    for name in METRICS:
        assert 0 <= got[name] <= (5 if name in UNBOUNDED_METRICS else 1 + 1e-12), name
        assert got[name] <= best[name] + 1e-12, name
    assert got["average_precision_textbook"] <= got["average_precision"] + 1e-12
    assert got["ndcg_at_k_textbook"] <= 1 + 1e-12
    if any(sum(r) for r in rel):
        assert best["average_precision"] == pytest.approx(got["hit_at_k"])


def test_all_relevant_first_is_1_in_every_bounded_metric() -> None:
    got = retrieval_metrics([[1, 1, 1]], [3])
    assert {got[name] for name in METRICS if name not in UNBOUNDED_METRICS} == {1.0}


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"relevant": [1, 0], "n_relevant": [1]}, r"shape \(2,\)"),
        ({"relevant": [[1, 2]], "n_relevant": [2]}, r"query 0 has \[1, 2\]"),
        ({"relevant": [[1, float("nan")]], "n_relevant": [2]}, "query 0 has"),
        ({"relevant": [[1, 0], [1, 1]], "n_relevant": [1, 1]}, "query 1: 2 hits, but 1 relevant"),
        ({"relevant": [[1]], "n_relevant": [1], "excluded": [1]}, "1 hits, but 0 relevant"),
        ({"relevant": [[1]], "n_relevant": [1, 2]}, r"n_relevant must have the shape \(1,\)"),
        ({"relevant": [[1]], "n_relevant": [-1]}, "at least 0"),
        ({"relevant": [[1]], "n_relevant": [1.5]}, "integers"),
        ({"relevant": [[0, 1]], "n_relevant": [1], "retrieved": [1]}, "retrieved is 1"),
        ({"relevant": [[0, 1]], "n_relevant": [1], "retrieved": [3]}, "retrieved is 3"),
        ({"relevant": [[0, 1]], "n_relevant": [1], "limit": 1}, "limit is 1"),
        ({"relevant": np.zeros((0, 3)), "n_relevant": []}, "no queries"),
    ],
)
def test_bad_input_is_named(kwargs: dict, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        retrieval_metrics(**kwargs)

"""Embeddings as one query, and the documents that it is made of."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cliptune.errors import BadInput, ModelMismatch
from cliptune.executors.composing import combine
from cliptune.index import Index
from tests.index.index_helpers import DIGEST, DIM, OTHER_DIGEST, cosine, doc, docs, vector


def test_the_sum_of_unit_vectors_of_unit_length() -> None:
    first, second, third = (vector(n) * scale for n, scale in ((1, 1.0), (2, 1e6), (3, 1e-6)))
    found = combine(np.stack([first, second, third]), np.array([1, -0.4, 0.5]))
    units = [one / np.linalg.norm(one) for one in (vector(1), vector(2), vector(3))]
    total = units[0] - 0.4 * units[1] + 0.5 * units[2]
    np.testing.assert_allclose(found, total / np.linalg.norm(total), atol=1e-6)
    assert found.dtype == np.float32
    np.testing.assert_allclose(combine(first[None], np.array([3.0])), units[0], atol=1e-6)
    np.testing.assert_allclose(combine(first[None], np.array([-3.0])), -units[0], atol=1e-6)


def test_what_cancels_out_is_refused() -> None:
    same = np.stack([vector(1), vector(1) * 3])
    for weights in ([1, -1], [100, -100], [1e-3, -1e-3]):
        with pytest.raises(BadInput, match="cancel out"):
            combine(same, np.array(weights))
    nearly = np.stack([vector(1), vector(1) + 1e-2 * vector(2)])  # a hundredth is no rounding
    assert np.isfinite(combine(nearly, np.array([1, -1]))).all()


def test_documents_that_are_left_out_make_room_for_others(index: Index) -> None:
    names = [f"d{n:02}" for n in range(40)]
    index.add(docs(*(doc(name, seed=n, tags={"n": n}) for n, name in enumerate(names))))
    queries = np.stack([vector(100), vector(101), vector(102)])
    scores = cosine(queries, np.stack([vector(n) for n in range(40)]))
    order = [[names[n] for n in row] for row in np.argsort(-scores, axis=1)]
    without = [{order[0][0], order[0][4], "unknown"}, set(order[1][:35]), set()]
    left = [
        [name for name in row if name not in out] for row, out in zip(order, without, strict=True)
    ]
    for offset, limit in ((0, 6), (3, 5), (0, 100)):
        found = index.search(queries, DIGEST, limit=limit, offset=offset, without=without)
        assert [[m.id for m in one] for one in found] == [row[offset:][:limit] for row in left]
    [few] = index.search(queries[:1], DIGEST, filter="n < 9", without=without[:1])
    assert [m.id for m in few] == [name for name in left[0] if name < "d09"]
    with pytest.raises(BadInput, match="ids for 1 queries, and there are 3"):
        index.search(queries, DIGEST, without=[{"d01"}])
    with pytest.raises(BadInput, match="1001 ids for query 0"):
        index.search(queries[:1], DIGEST, without=[[str(n) for n in range(1001)]])


def test_stored_embeddings_are_those_of_one_model(open_store: Callable[..., Index]) -> None:
    index = open_store()
    assert index.embeddings(["a"], DIGEST) == {}
    index.add(docs(doc("a"), doc("b")))
    found = index.embeddings(["b", "c", "a"], DIGEST)
    assert set(found) == {"a", "b"}
    np.testing.assert_allclose(found["b"], doc("b").embedding, atol=1e-6)
    assert found["b"].shape == (DIM,)
    with pytest.raises(ModelMismatch):
        index.embeddings(["a"], OTHER_DIGEST)
    with pytest.raises(BadInput, match="ids"):
        index.embeddings([""], DIGEST)

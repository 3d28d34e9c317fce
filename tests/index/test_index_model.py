"""Each store against a dict, over random sequences of calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from cliptune.documents import ClipDoc
from cliptune.index import Index, parse_filter
from tests.index.filter_reference import matches
from tests.index.index_helpers import DIGEST, cosine, doc, docs, vector

_ids = st.integers(0, 59).map(lambda n: f"d{n}")
_filters = st.sampled_from(
    [
        "n < 3",
        "n >= 5 and c == 'red'",
        "c != 'red'",
        "c in ['blue', null]",
        "not (n == 1 or n == 2)",
        "$text > 'm'",
        "n == null",
    ]
)
_fields = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 1000),
        "text": st.sampled_from([None, "a", "z"]),
        "tags": st.fixed_dictionaries(
            {}, optional={"n": st.integers(0, 7), "c": st.sampled_from(["red", "blue"])}
        ),
    }
)


class _Machine(RuleBasedStateMachine):
    opened: Callable[[], Index]
    has_small_graphs: bool

    @initialize()
    def open(self) -> None:
        self.model: dict[str, ClipDoc] = {}
        self.index = self.opened()
        # What the example before has left; a new collection takes Milvus two seconds.
        self.index.delete(filter="$id != null")

    def teardown(self) -> None:
        if hasattr(self, "index"):
            self.index.close()

    @rule(batch=st.lists(st.tuples(_ids, _fields), min_size=1, max_size=6))
    def add(self, batch: list[tuple[str, dict[str, Any]]]) -> None:
        given = [doc(id, **fields) for id, fields in batch]
        assert self.index.add(docs(*given)) == len({one.id for one in given})
        self.model.update({str(one.id): one for one in given})

    @rule(start=st.integers(0, 30), seed=st.integers(0, 1000))
    def add_many(self, start: int, seed: int) -> None:
        given = [
            doc(f"d{n}", seed=seed + n, tags={"n": n % 8, "c": ["red", "blue"][n % 2]})
            for n in range(start, start + 30)
        ]
        assert self.index.add(docs(*given)) == 30
        self.model.update({str(one.id): one for one in given})

    @rule(ids=st.lists(_ids, max_size=8))
    def delete_ids(self, ids: list[str]) -> None:
        gone = {one for one in ids if self.model.pop(one, None) is not None}
        assert self.index.delete(ids=ids) == len(gone)

    @rule(filter=_filters)
    def delete_filter(self, filter: str) -> None:
        gone = [id for id, one in self.model.items() if matches(parse_filter(filter), one)]
        assert self.index.delete(filter=filter) == len(gone)
        for id in gone:
            del self.model[id]

    @rule()
    def optimize(self) -> None:
        status = self.index.optimize()
        assert status.rows == len(self.model)
        if len(self.model) >= 30 and self.has_small_graphs:
            assert status.state == "ready"

    @rule()
    def reopen(self) -> None:
        self.index.close()
        self.index = self.opened()

    @rule(seed=st.integers(0, 1000))
    def clear(self, seed: int) -> None:
        if seed % 4 == 0:
            self.index.clear()
            self.model.clear()

    @rule(
        seed=st.integers(0, 1000),
        filter=st.none() | _filters,
        limit=st.integers(1, 20),
        exact=st.booleans(),
    )
    def search(self, seed: int, filter: str | None, limit: int, exact: bool) -> None:
        query = vector(seed)[None]
        [found] = self.index.search(query, DIGEST, limit=limit, filter=filter, exact=exact)
        node = parse_filter(filter)
        wanted = {id: one for id, one in self.model.items() if matches(node, one)}
        if not wanted:
            assert not found
            return
        scores = cosine(query, np.stack([one.embedding for one in wanted.values()]))[0]
        best = sorted(zip(-scores, wanted, strict=True))[:limit]
        # So few are found completely by the ANN index too. Scores nearer than float32 tells
        # apart may stand in either order.
        assert len(found) == len(best)
        np.testing.assert_allclose([one.score for one in found], [-s for s, _ in best], atol=2e-6)
        of = dict(zip(wanted, scores, strict=True))
        for one in found:
            assert one.score == pytest.approx(of[str(one.id)], abs=2e-6)
            assert one.tags == wanted[str(one.id)].tags

    @invariant()
    def holds_the_same(self) -> None:
        if not hasattr(self, "index"):
            return
        assert self.index.count() == len(self.model)
        found = self.index.get([f"d{n}" for n in range(60)], include_embedding=True)
        assert {one.id for one in found} == set(self.model)
        for one in found:
            expected = self.model[str(one.id)]
            assert (one.text, one.tags) == (expected.text, expected.tags)
            np.testing.assert_array_equal(one.embedding, expected.embedding)


def test_a_store_behaves_like_a_dict(store: str, open_store: Callable[..., Index]) -> None:
    # A threshold that these few documents reach: LanceDB's graph and its indexes on ids and tags
    # come and go between the calls. Milvus makes graphs of 1,024 documents or more.
    options = {"ann_threshold": 30} if store == "lance" else {}
    attributes = {
        "opened": staticmethod(lambda: open_store(**options)),
        "has_small_graphs": store == "lance",
    }
    run_state_machine_as_test(
        type("Machine", (_Machine,), attributes),
        settings=settings(
            max_examples=40 if store == "lance" else 8,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )

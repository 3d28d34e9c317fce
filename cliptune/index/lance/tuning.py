"""Choosing how an ANN index is searched by what it finds: recall against an exact search."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from cliptune.errors import BadInput
from cliptune.index.lance.ann import AnnSearch, partitions
from cliptune.index.lance.rows import embeddings_in
from cliptune.index.lance.scores import unit_rows
from cliptune.index.lance.search import Searcher
from cliptune.index.lance.state import TableState
from cliptune.index.metadata import RECALL, TunedSearch

if TYPE_CHECKING:
    from lancedb.table import Table

K = 10
AUTOMATIC = 0.99
"""Of documents, which are easier to find than what people ask for."""
_SAMPLED = 200
REFINE_FACTORS = (2, 8)
_PROBES_A_REFINEMENT = 16
"""Scoring so many times the matches again takes as long as the codes of 16 partitions, of a million
documents on two cores."""
Progress = Callable[[int, int], None]
"""Is told of each setting that was tried: how many so far, and of how many at most."""


@dataclass(frozen=True)
class _Tried:
    setting: AnnSearch
    recall: float


@dataclass(frozen=True)
class _Sample:
    """What is searched for, and what is to be found."""

    queries: np.ndarray
    """float32 [Q, D]."""
    nearest: list[set[str]]
    """Of each query, the ids that are to be found."""
    limit: int
    """How many matches are asked for."""

    @classmethod
    def of_documents(cls, table: Table, rows: int) -> _Sample:
        """Some of a table's `rows`, evenly, each of which is to find the `K` others nearest."""
        offsets = np.unique(np.linspace(0, rows - 1, min(_SAMPLED, rows)).astype(int)).tolist()
        sampled = table.take_offsets(offsets).select(["id", "embedding"]).to_arrow()
        queries, ids = _embeddings_of(sampled), sampled["id"].to_pylist()
        nearest = nearest_ids(table, queries, K + 1)
        return cls(queries, [n - {i} for n, i in zip(nearest, ids, strict=True)], K + 1)

    def tried(self, state: TableState, setting: AnnSearch) -> _Tried:
        """How much of it a search with `setting` finds."""
        searcher, hits = Searcher(state, None, setting), 0
        for query, wanted in zip(self.queries, self.nearest, strict=True):
            [matches] = searcher.nearest(query[None], self.limit)
            hits += len(wanted & {str(one.id) for one in matches})
        return _Tried(setting, hits / sum(map(len, self.nearest)))


def tune_search(
    table: Table,
    queries: np.ndarray | None,
    recall: float = RECALL,
    progress: Progress = lambda done, most: None,
) -> TunedSearch:
    """The cheapest setting that finds, on average, the share `recall` of a query's `K` nearest.

    For each refine factor the numbers of probes are bisected. If no setting finds enough, it is
    the one that finds most.

    Args:
        table: held at a version, with an ANN index.
        queries: float32 [Q, D]; None: documents, evenly over the table, which are to find others.
            They are easier than what people ask, so that not fewer partitions are searched than by
            rule.
        recall: in (0, 1].
        progress: see `Progress`.

    Raises:
        BadInput: `recall` is out of range.
    """
    if not 0 < recall <= 1:
        raise BadInput(f"recall: expected more than 0 and at most 1, got {recall!r}")
    state = TableState(table)
    rows = state.rows
    if queries is None:
        sample, least = _Sample.of_documents(table, rows), AnnSearch.of(rows, None).nprobes
    else:
        sample, least = _Sample(queries, nearest_ids(table, queries, K), K), 1
    probes = _ladder(least, partitions(rows))
    steps = len(REFINE_FACTORS) * len(probes).bit_length()
    tried: list[_Tried] = []
    for refine_factor in REFINE_FACTORS:
        low, high = 0, len(probes) - 1
        while low <= high:
            middle = (low + high) // 2
            one = sample.tried(state, AnnSearch(probes[middle], refine_factor, rows))
            tried.append(one)
            progress(len(tried), steps)
            low, high = (low, middle - 1) if one.recall >= recall else (middle + 1, high)
    enough = [one for one in tried if one.recall >= recall]
    best = min(enough, key=_cost) if enough else max(tried, key=lambda one: one.recall)
    return TunedSearch(
        best.setting.nprobes,
        best.setting.refine_factor,
        rows,
        round(best.recall, 4),
        "documents" if queries is None else "queries",
    )


def nearest_ids(table: Table, queries: np.ndarray, k: int) -> list[set[str]]:
    """By comparing with all rows, the ids of the `k` nearest to each query in float32 [Q, D]."""
    unit = unit_rows(queries)
    scores = np.empty((len(unit), 0), np.float32)
    ids = np.empty((len(unit), 0), object)
    for named, vectors in _blocks(table):
        block = unit @ vectors.T
        among = np.argpartition(-block, min(k, block.shape[1]) - 1, axis=1)[:, :k]
        scores = np.concatenate([scores, np.take_along_axis(block, among, axis=1)], axis=1)
        ids = np.concatenate([ids, named[among]], axis=1)
        best = np.argsort(-scores, axis=1)[:, :k]
        scores = np.take_along_axis(scores, best, axis=1)
        ids = np.take_along_axis(ids, best, axis=1)
    return [set(row) for row in ids.tolist()]


def _cost(one: _Tried) -> int:
    """Rows that are read to be scored again cost as much as the codes of some partitions."""
    return one.setting.nprobes + _PROBES_A_REFINEMENT * one.setting.refine_factor


def _ladder(least: int, most: int) -> list[int]:
    """Numbers of probes, ascending, each about 1.3 times the one before."""
    steps = np.ceil(min(least, most) * 1.3 ** np.arange(64)).astype(int)
    return sorted({*steps[steps < most].tolist(), most})


def _blocks(table: Table) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All ids as objects [n] and embeddings as float32 [n, D], some thousand at a time."""
    for batch in table.search().select(["id", "embedding"]).to_batches():
        if len(batch):
            rows = pa.Table.from_batches([batch])
            yield np.asarray(rows["id"].to_pylist(), object), _embeddings_of(rows)


def _embeddings_of(rows: pa.Table) -> np.ndarray:
    return unit_rows(embeddings_in(rows["embedding"].combine_chunks()))

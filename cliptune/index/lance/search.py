"""Nearest neighbours from a Lance table, with ties in order and no match left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cliptune.documents import Match
from cliptune.index.lance.rows import MATCH_COLUMNS, to_match

if TYPE_CHECKING:
    from lancedb.table import Table

_QUERIES_A_CALL = 64
_SLACK = 8


def nearest(
    table: Table,
    queries: np.ndarray,
    k: int,
    *,
    where: str | None,
    exact: bool,
    ef: int,
    refine_factor: int,
) -> list[list[Match]]:
    """The `k` best matches of each query in float32 [Q, D], best first, ties by id."""
    found: list[list[Match]] = []
    for start in range(0, len(queries), _QUERIES_A_CALL):
        group = queries[start : start + _QUERIES_A_CALL]
        search = _Search(table, where, exact, ef, refine_factor)
        for query, rows in zip(group, search.run(group, k + _SLACK), strict=True):
            found.append(search.settle(query, rows, k))
    return found


class _Search:
    def __init__(
        self, table: Table, where: str | None, exact: bool, ef: int, refine_factor: int
    ) -> None:
        self.table = table
        self.where = where
        self.exact = exact
        self.ef = ef
        self.refine_factor = refine_factor
        self._reachable: int | None = None
        self._has_ann: bool | None = None

    def run(self, queries: np.ndarray, k: int, exact: bool = False) -> list[list[dict[str, Any]]]:
        """About the `k` best rows of each query, nearest first."""
        single = len(queries) == 1
        search: Any = self.table.search(
            queries[0] if single else queries, vector_column_name="embedding"
        )
        search = search.distance_type("cosine").select(MATCH_COLUMNS).limit(k)
        if self.where is not None:
            search = search.where(self.where, prefilter=True)
        if self.exact or exact:
            search = search.bypass_vector_index()
        else:
            candidates = max(self.ef, 2 * k)
            search = search.ef(candidates).refine_factor(self.refine_factor)
        results: list[list[dict[str, Any]]] = [[] for _ in queries]
        for row in search.to_arrow().to_pylist():
            results[row.pop("query_index", 0)].append(row)
        return results

    def settle(self, query: np.ndarray, rows: list[dict[str, Any]], k: int) -> list[Match]:
        """The rows' `k` best as matches, after asking for more rows where some may be missing."""
        asked, exact = k + _SLACK, self.exact
        if len(rows) < asked and not exact and self._ann() and len(rows) < self._all():
            # A graph search can run dry under a filter that leaves little.
            exact = True
            rows = self.run(query[None], asked, exact=True)[0]
        while len(rows) >= asked and _ends_in_tie(rows, k):
            # Which of many equals come first is up to the ids: all of them must be seen.
            asked *= 8
            rows = self.run(query[None], asked, exact=exact)[0]
        scored = [(min(1.0, max(-1.0, 1.0 - row["_distance"])), row) for row in rows]
        scored.sort(key=lambda pair: (-pair[0], pair[1]["id"]))
        return [to_match(row, score) for score, row in scored[:k]]

    def _ann(self) -> bool:
        if self._has_ann is None:
            indices = self.table.list_indices()
            self._has_ann = any(index.columns == ["embedding"] for index in indices)
        return self._has_ann

    def _all(self) -> int:
        """How many rows the filter leaves."""
        if self._reachable is None:
            self._reachable = self.table.count_rows(self.where)
        return self._reachable


def _ends_in_tie(rows: list[dict[str, Any]], k: int) -> bool:
    distances = sorted(row["_distance"] for row in rows)
    return bool(distances[-1] == distances[k - 1])

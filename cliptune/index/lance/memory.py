"""A table's embeddings kept in memory, so that an exact search reads nothing but what it finds.

A search of the files decodes all of them anew; in memory it is one matrix product.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import pyarrow as pa

from cliptune.documents import Match
from cliptune.index.lance.rows import (
    SHOWN_COLUMNS,
    MatchRow,
    embeddings_in,
    row_ids,
    to_match,
)
from cliptune.index.lance.scores import scores_of, unit_queries, unit_rows

if TYPE_CHECKING:
    from lancedb.table import Table

_GATHERED = 8
"""Of a filter that leaves less than one in so many rows, only theirs are compared."""


@dataclass(frozen=True)
class Embeddings:
    """The embeddings of one version of a table."""

    table: Table
    """At this version, whatever is written afterwards."""
    row_ids: np.ndarray
    """uint64 [N], ascending: the rows' addresses."""
    ids: pa.ChunkedArray
    unit: np.ndarray
    """float32 [N, D] of unit length."""

    @classmethod
    def read(cls, table: Table, dim: int) -> Embeddings:
        """All of a table that is held at a version; `dim` is D."""
        rows = table.count_rows()
        addresses, unit = np.empty(rows, np.uint64), np.empty((rows, dim), np.float32)
        ids: list[pa.Array] = []
        start = 0
        for batch in table.search().select(["id", "embedding"]).with_row_id(True).to_batches():
            end = start + len(batch)
            addresses[start:end] = batch["_rowid"].to_numpy()
            unit[start:end] = unit_rows(embeddings_in(batch["embedding"]))
            ids.append(batch["id"])
            start = end
        order = np.argsort(addresses)
        named = pa.chunked_array(ids, pa.string())
        if not np.array_equal(order, np.arange(rows)):
            addresses, unit, named = addresses[order], unit[order], named.take(pa.array(order))
        return cls(table, addresses, named, unit)

    def nearest(self, queries: np.ndarray, k: int, condition: str | None) -> list[list[Match]]:
        """The `k` best matches of each query in float32 [Q, D], best first, ties by id.

        Only rows for which the SQL `condition` holds are compared.
        """
        among = None if condition is None else self._among(condition)
        rows = self.unit
        if among is not None and len(among) * _GATHERED < len(rows):
            rows = rows[among]
        unit = unit_queries(queries)
        scores = unit.astype(np.float32) @ rows.T
        if among is not None and scores.shape[1] != len(among):
            scores = scores[:, among]
        positions = np.arange(len(self.unit)) if among is None else among
        return [
            self._matches(*self._best(query, positions, row, k))
            for query, row in zip(unit, scores, strict=True)
        ]

    def _among(self, condition: str) -> np.ndarray:
        """The positions of the rows for which it holds, int64, ascending."""
        return np.asarray(np.searchsorted(self.row_ids, row_ids(self.table, condition)))

    def _best(
        self, query: np.ndarray, positions: np.ndarray, scores: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The positions of the `k` best and their scores, by exact scores, ties by id.

        Args:
            query: float64 [D] of unit length.
            positions: int64 [M], of the rows that are compared.
            scores: float32 [M], theirs; a product's rounding depends on where a row stands, so
                that equal ones may differ here.
            k: how many.
        """
        if len(scores) > k:
            least = np.partition(scores, len(scores) - k)[len(scores) - k]
            # A sum of D products of a unit vector's numbers is rounded by less than D epsilons.
            rounding = 2 * self.unit.shape[1] * np.finfo(np.float32).eps
            positions = positions[scores >= least - rounding]
        exact = scores_of(query, self.unit[positions])
        ids = np.asarray(self.ids.take(pa.array(positions)).to_pylist(), object)
        order = np.lexsort((ids, -exact))[:k]
        return positions[order], exact[order]

    def _matches(self, positions: np.ndarray, scores: np.ndarray) -> list[Match]:
        addresses = self.row_ids[positions].tolist()
        if not addresses:
            return []
        taken = self.table.take_row_ids(addresses).select(SHOWN_COLUMNS).with_row_id().to_arrow()
        rows = {row["_rowid"]: cast("MatchRow", row) for row in taken.to_pylist()}
        return [
            to_match(rows[one], score)
            for one, score in zip(addresses, scores.tolist(), strict=True)
        ]


class EmbeddingsCache:
    """The embeddings of the table that is searched now, once they are worth reading."""

    def __init__(self, most_bytes: int) -> None:
        """Keep embeddings of up to so many bytes as float32."""
        self._most_bytes = most_bytes
        self._kept: Embeddings | None = None
        self._key: tuple[str, int] | None = None
        self._reading = threading.Lock()

    def get(self, table: Table, dim: int, pinned: Callable[[], Table]) -> Embeddings | None:
        """Its embeddings; None if they are too many, or it is the first search of its version.

        Reading all of them pays from the second search on: a table that is written to between all
        searches is better asked itself. While one thread reads, the others don't wait for it.

        Args:
            table: as it is now.
            dim: length of its embeddings.
            pinned: gives the same table, held at the version that it has.
        """
        key, kept = (table.name, table.version), self._kept
        if kept is not None and key == (kept.table.name, kept.table.version):
            return kept
        if table.count_rows() * dim * 4 > self._most_bytes:
            self._kept = None
            return None
        if self._key != key:
            self._key, self._kept = key, None
            return None
        if not self._reading.acquire(blocking=False):
            return None
        try:
            self._kept = Embeddings.read(pinned(), dim)
            return self._kept
        finally:
            self._reading.release()

    def clear(self) -> None:
        """Let go of the memory."""
        self._key = self._kept = None

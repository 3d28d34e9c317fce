"""The ANN index of a Lance table: how it is built for N documents, and how it is searched.

IVF_SQ: √N partitions by k-means; a search compares the 8-bit codes of all rows in the partitions
whose centres are nearest to the query (Jégou et al., 2011, with scalar quantisation). The best are
scored again by the embeddings as they are kept. It was chosen among others in
`docs/vector-index.md`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cliptune.index.metadata import TunedSearch

if TYPE_CHECKING:
    from lancedb._lancedb import IndexConfig
    from lancedb.index import IvfSq
    from lancedb.query import LanceVectorQueryBuilder
    from lancedb.table import Table

_TYPE = "IvfSq"
_LEAST_PROBES = 20
_PROBED = 1.25
"""So many times the root of the number of partitions are searched, untuned."""
_REFINE_FACTOR = 2
_SEEN = 4
"""At least so many rows are compared for each match asked for."""
_OUTGROWN = 0.25
"""With more rows outside than this share of those inside, the index is built anew."""
_EARLIER_EF = 800
"""Candidates in a graph (HNSW) that an earlier cliptune has built."""


def ann_index(table: Table) -> IndexConfig | None:
    """The table's ANN index, if it has one."""
    for index in table.list_indices():
        if index.columns == ["embedding"]:
            return index
    return None


def needs_building(index: IndexConfig | None, max_segments: int) -> bool:
    """Whether the ANN index is to be built over all rows, not only brought up to date.

    It is if there is none, if it is of another type (an earlier cliptune's), if it would have more
    parts than `max_segments`, each of which is searched, or if it was made for far fewer rows.
    """
    if index is None or index.index_type != _TYPE:
        return True
    inside, outside = index.num_indexed_rows or 0, index.num_unindexed_rows or 0
    parts = (index.num_segments or 0) + (outside > 0)
    return parts > max_segments or outside > _OUTGROWN * inside


def partitions(rows: int) -> int:
    """√N: so the search of the partitions' centres and of what is in one of them grow alike."""
    return max(1, round(math.sqrt(rows)))


def to_build(rows: int) -> IvfSq:
    """The index for so many rows; k-means sees 64 of a partition, in at most 20 rounds."""
    from lancedb.index import IvfSq

    return IvfSq(
        distance_type="cosine",
        num_partitions=partitions(rows),
        sample_rate=64,
        max_iterations=20,
    )


def _by_rule(rows: int) -> int:
    return max(_LEAST_PROBES, math.ceil(_PROBED * math.sqrt(partitions(rows))))


@dataclass(frozen=True)
class AnnSearch:
    """How an ANN index is searched."""

    nprobes: int
    """Partitions that are searched where nothing is left out."""
    refine_factor: int
    """So many times the matches asked for are scored again with the full embeddings."""
    rows: int
    """Documents that the index was built for; the partitions are as many as these need."""

    @classmethod
    def of(cls, rows: int, tuned: TunedSearch | None) -> AnnSearch:
        """For a table of so many rows: 1.25 √partitions, and 20 at least; or as tuned.

        What was tuned holds for up to twice the rows that there were; beyond, it is a lower bound.
        """
        nprobes = _by_rule(rows)
        if tuned is None:
            return cls(nprobes, _REFINE_FACTOR, rows)
        built_for = max(rows, tuned.rows)  # some may have been deleted since
        if not tuned.holds_for(rows):
            most = max(nprobes, tuned.nprobes), max(_REFINE_FACTOR, tuned.refine_factor)
            return cls(*most, built_for)
        return cls(tuned.nprobes, tuned.refine_factor, built_for)

    @property
    def everywhere(self) -> AnnSearch:
        """The same in all partitions."""
        return replace(self, nprobes=partitions(self.rows))

    def apply(self, search: LanceVectorQueryBuilder, k: int, left: int) -> LanceVectorQueryBuilder:
        """The search for `k` matches among the `left` of the rows that are there and not filtered.

        The fewer are left, the more partitions are searched: as many rows are compared as if there
        were all of them, and by rule at least: what was tuned then says little of it.
        """
        share, count = max(1, left) / self.rows, partitions(self.rows)
        least = self.nprobes if left >= self.rows else max(self.nprobes, _by_rule(self.rows))
        seen = _SEEN * k * count / self.rows
        probes = min(count, math.ceil(max(least, seen) / share))
        # A graph is one partition; other indexes pass over `ef`.
        search = search.nprobes(probes).ef(max(_EARLIER_EF, 2 * k))
        return search.refine_factor(self.refine_factor)

"""What is measured: cliptune's index, the store alone, and bare hnswlib, on the same documents.

Each one answers with the numbers of the ten nearest documents. The store alone is asked through
its own package, for the table and the ANN index that cliptune made, with the same parameters.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from catalogue import DIGEST, blocks, share

from cliptune.index import open_index
from cliptune.index.lance.ann import AnnSearch

K = 10


class Contender(ABC):
    """A way to ask for the `K` nearest documents."""

    @abstractmethod
    def __init__(self, folder: Path, rows: int) -> None:
        """Open what `ingest.py` has left in `folder`."""

    @abstractmethod
    def search(self, query: np.ndarray, only_share: int | None) -> list[int]:
        """The numbers of the documents nearest to float32 [D], nearest first."""


class Cliptune(Contender):
    """`Index.search`: checked, ties in order, as typed documents with their tags."""

    def __init__(self, folder: Path, rows: int) -> None:
        """Open the index."""
        self.index = open_index(folder)

    def search(self, query: np.ndarray, only_share: int | None) -> list[int]:
        """One call of `Index.search`."""
        filter = None if only_share is None else f"share == {only_share}"
        [matches] = self.index.search(query[None], DIGEST, limit=K, filter=filter)
        return [int(str(match.id)[1:]) for match in matches]


class LanceDB(Contender):
    """`lancedb` with the same parameters, columns and consistency; rows as it gives them."""

    consistency: timedelta | None = timedelta(0)

    def __init__(self, folder: Path, rows: int) -> None:
        """Open the table that the index's stamp names."""
        os.environ.setdefault("LANCE_INCLUDE_VECTOR_CENTROIDS", "false")
        import lancedb

        name = json.loads((folder / "cliptune-index.json").read_text())["table"]
        database: Any = lancedb.connect(str(folder), read_consistency_interval=self.consistency)
        self.table: Any = database.open_table(name)
        self.rows = rows

    def search(self, query: np.ndarray, only_share: int | None) -> list[int]:
        """One search of the table."""
        search = self.table.search(query, vector_column_name="embedding").distance_type("cosine")
        search = search.select(["id", "text", "uri", "tags", "_distance"]).limit(K)
        left = self.rows
        if only_share is not None:
            where = f"array_has(terms, '[\"share\", {only_share:.1f}]')"
            search, left = search.where(where), self.table.count_rows(where)
        search = AnnSearch.of(self.rows, None).apply(search, K, left)
        return [int(row["id"][1:]) for row in search.to_list()]


class LanceDBUnaware(LanceDB):
    """The same, without seeing what other processes write (its default)."""

    consistency = None


class Hnswlib(Contender):
    """hnswlib in memory: numbers alone, no titles, no tags, nothing on disk that is safe."""

    def __init__(self, folder: Path, rows: int) -> None:
        """Read the graph, or build it from the same embeddings and keep it beside the index."""
        import hnswlib

        path = folder.with_name(f"{folder.name}.hnswlib")
        dim = next(blocks(1))[1].shape[1]
        self.graph = hnswlib.Index(space="cosine", dim=dim)
        if path.exists():
            self.graph.load_index(str(path), max_elements=rows)
        else:
            self.graph.init_index(rows, M=20, ef_construction=150)
            for start, vectors in blocks(rows):
                self.graph.add_items(vectors, np.arange(start, start + len(vectors)))
            self.graph.save_index(str(path))
        self.graph.set_num_threads(1)
        self.graph.set_ef(800)

    def search(self, query: np.ndarray, only_share: int | None) -> list[int]:
        """One query of the graph; a filter is a Python function called for each candidate."""
        keep = None if only_share is None else lambda number: share(number) == only_share
        numbers, _ = self.graph.knn_query(query, k=K, filter=keep)
        return [int(number) for number in numbers[0]]


CONTENDERS: dict[str, type[Contender]] = {
    "cliptune": Cliptune,
    "LanceDB alone": LanceDB,
    "LanceDB, other writers unseen": LanceDBUnaware,
    "hnswlib": Hnswlib,
}

"""One store under measurement: filled, built and asked in this process. Run by `million.py`.

    python benchmarks/index/stores.py NAME KINDS KIND ROWS FOLDER OUT.json

Needs numpy, psutil and the store alone, so that it runs in the peers' own environment
(`scripts/install-peers ann`). A document is its number, its embedding and, for filters, one tag for
each of `SHARES`; cliptune's and Milvus' have titles too.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from asking import ask

K = 10
SHARES = {"50 %": 2, "1 %": 100, "0.01 %": 10_000}
BLOCK = 10_000


def blocks_of(rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The numbers and embeddings, some thousand at a time."""
    for start in range(0, len(rows), BLOCK):
        part = np.ascontiguousarray(rows[start : start + BLOCK])
        yield np.arange(start, start + len(part)), part


class Store(ABC):
    """A way to keep and search embeddings."""

    settings: str
    """What it is, and how it is built and asked."""

    def __init__(self, folder: Path, dim: int, rows: int) -> None:
        """Make it anew in `folder`, for so many rows."""
        self.folder, self.dim, self.rows = folder, dim, rows

    @abstractmethod
    def fill(self, rows: np.ndarray) -> None:
        """Write float32 [N, D], numbered from 0."""

    @abstractmethod
    def build(self) -> None:
        """Build what searches need."""

    @abstractmethod
    def search(self, query: np.ndarray, every: int | None) -> list[int]:
        """The numbers of the `K` rows nearest to float32 [D]; of each `every`-th alone."""


class Cliptune(Store):
    """`Index.search`, as it is served: checked, with titles and tags, ties in order."""

    settings = "as it is by default"
    digest = "c" * 64

    def fill(self, rows: np.ndarray) -> None:
        """Write the rows into the table that the index's first document has made."""
        import lancedb
        from docarray import DocList

        from cliptune.documents import ClipDoc
        from cliptune.index import open_index
        from cliptune.index.checks import check_batch
        from cliptune.index.lance.rows import to_table

        self.index = open_index(self.folder)
        table: Any = None
        for numbers, vectors in blocks_of(rows):
            docs = DocList[ClipDoc](
                ClipDoc(
                    id=f"p{n:08d}",
                    text=f"product no. {n}",
                    tags={f"of{every}": n % every for every in SHARES.values()},
                    embedding=vector,
                    model_digest=self.digest,
                )
                for n, vector in zip(numbers.tolist(), vectors, strict=True)
            )
            if table is None:
                self.index.add(docs)
                [path] = self.folder.glob("documents-*.lance")
                database: Any = lancedb.connect(str(self.folder))
                table = database.open_table(path.stem)
            else:
                table.add(to_table(check_batch(docs, None), store_images=False, storage="float32"))

    def build(self) -> None:
        """`Index.optimize`."""
        status = self.index.optimize()
        assert (status.state, status.unindexed_rows) == ("ready", 0), status

    def search(self, query: np.ndarray, every: int | None) -> list[int]:
        """One call of `Index.search`."""
        where = None if every is None else f"of{every} == 1"
        [matches] = self.index.search(query[None], self.digest, limit=K, filter=where)
        return [int(str(one.id)[1:]) for one in matches]


class Hnswlib(Store):
    """hnswlib in memory: a filter is a Python function that is called for each candidate."""

    settings = "M 16, efConstruction 100, ef 200"

    def fill(self, rows: np.ndarray) -> None:
        """It builds while it is filled."""
        import hnswlib

        self.graph = hnswlib.Index(space="cosine", dim=self.dim)
        self.graph.init_index(self.rows, M=16, ef_construction=100)
        self._rows = rows

    def build(self) -> None:
        """Add all rows."""
        for numbers, vectors in blocks_of(self._rows):
            self.graph.add_items(vectors, numbers)
        self.graph.set_num_threads(1)
        self.graph.set_ef(200)

    def search(self, query: np.ndarray, every: int | None) -> list[int]:
        """One query."""
        keep = None if every is None else lambda number: number % every == 1
        try:
            numbers, _ = self.graph.knn_query(query, k=K, filter=keep)
        except RuntimeError:  # it found less than K
            return []
        return [int(number) for number in numbers[0]]


class Faiss(Store):
    """faiss' own IVF_SQ8 in memory, with as many partitions and probes as cliptune's."""

    settings = "IVF, √N partitions, SQ8; a tenth probed; 20 scored again"

    def fill(self, rows: np.ndarray) -> None:
        """It needs all rows at hand."""
        self._rows = rows

    def build(self) -> None:
        """Train on 64 rows of each partition, then add all."""
        import faiss

        lists = round(self.rows**0.5)
        coarse = faiss.IndexFlatIP(self.dim)
        self.index = faiss.IndexIVFScalarQuantizer(
            coarse,
            self.dim,
            lists,
            faiss.ScalarQuantizer.QT_8bit,
            faiss.METRIC_INNER_PRODUCT,
        )
        self.index.cp.niter = 20
        chosen = np.random.default_rng(0).choice(self.rows, min(self.rows, 64 * lists), False)
        self.index.train(self._rows[np.sort(chosen)])
        for _, vectors in blocks_of(self._rows):
            self.index.add(vectors)
        self.index.nprobe = max(20, lists // 10)
        faiss.omp_set_num_threads(1)

    def search(self, query: np.ndarray, every: int | None) -> list[int]:
        """One query, of which the best are scored again."""
        import faiss

        parameters = None
        if every is not None:
            kept = faiss.IDSelectorBatch(np.arange(1, self.rows, every))
            parameters = faiss.SearchParametersIVF(sel=kept, nprobe=self.index.nprobe)
        _, [found] = self.index.search(query[None], 2 * K, params=parameters)
        found = found[found >= 0]
        best = np.argsort(-(self._rows[found] @ query))[:K]
        return [int(one) for one in found[best]]


class Zvec(Store):
    """zvec in a folder."""

    settings = "HNSW, int8, m 16, ef_construction 100, ef 200, refined"

    def fill(self, rows: np.ndarray) -> None:
        """Insert all rows."""
        import zvec

        number = zvec.DataType.INT64
        self.collection = zvec.create_and_open(
            str(self.folder / "zvec"),
            zvec.CollectionSchema(
                name="rows",
                fields=[
                    zvec.FieldSchema(f"of{e}", number, index_param=zvec.InvertIndexParam())
                    for e in SHARES.values()
                ],
                vectors=zvec.VectorSchema(
                    "embedding",
                    zvec.DataType.VECTOR_FP32,
                    self.dim,
                    index_param=zvec.HnswIndexParam(
                        metric_type=zvec.MetricType.COSINE,
                        m=16,
                        ef_construction=100,
                        quantize_type=zvec.QuantizeType.INT8,
                    ),
                ),
            ),
        )
        for numbers, vectors in blocks_of(rows):
            for start in range(0, len(numbers), 1000):
                part = slice(start, start + 1000)
                self.collection.insert(
                    [
                        zvec.Doc(
                            id=str(n),
                            vectors={"embedding": vector.tolist()},
                            fields={f"of{every}": n % every for every in SHARES.values()},
                        )
                        for n, vector in zip(numbers[part].tolist(), vectors[part], strict=True)
                    ]
                )

    def build(self) -> None:
        """`optimize`."""
        import zvec

        self.collection.optimize(zvec.OptimizeOption(concurrency=2))

    def search(self, query: np.ndarray, every: int | None) -> list[int]:
        """One query."""
        import zvec

        found = self.collection.query(
            zvec.Query(
                field_name="embedding",
                vector=query.tolist(),
                param=zvec.HnswQueryParam(ef=200, is_using_refiner=True),
            ),
            topk=K,
            filter=None if every is None else f"of{every} = 1",
            output_fields=[],
        )
        return [int(one.id) for one in found]


class QdrantEdge(Store):
    """Qdrant Edge in a folder."""

    settings = "HNSW, m 16, ef_construct 100, int8 in memory, ef 200"

    def fill(self, rows: np.ndarray) -> None:
        """Upsert all rows."""
        import qdrant_edge as edge

        (self.folder / "edge").mkdir(parents=True, exist_ok=True)
        config = edge.EdgeConfig(
            vectors=edge.EdgeVectorParams(self.dim, edge.Distance.Cosine),
            hnsw_config=edge.HnswIndexConfig(m=16, ef_construct=100, full_scan_threshold=10_000),
            quantization_config=edge.ScalarQuantizationConfig(
                type=edge.ScalarType.Int8, always_ram=True
            ),
        )
        self.shard = edge.EdgeShard.create(str(self.folder / "edge"), config)
        for numbers, vectors in blocks_of(rows):
            points = [
                edge.Point(n, vector.tolist(), {f"of{e}": n % e for e in SHARES.values()})
                for n, vector in zip(numbers.tolist(), vectors, strict=True)
            ]
            self.shard.update(edge.UpdateOperation.upsert_points(points))
        for every in SHARES.values():
            self.shard.update(
                edge.UpdateOperation.create_field_index(
                    f"of{every}", edge.PayloadSchemaType.Integer
                )
            )

    def build(self) -> None:
        """`optimize`."""
        self.shard.optimize()

    def search(self, query: np.ndarray, every: int | None) -> list[int]:
        """One query."""
        import qdrant_edge as edge

        kept = None
        if every is not None:
            match = edge.MatchValue(1)
            kept = edge.Filter(must=[edge.FieldCondition(f"of{every}", match=match)])
        found = self.shard.search(
            edge.SearchRequest(
                query=edge.Query.Nearest(query.tolist()),
                limit=K,
                filter=kept,
                params=edge.SearchParams(hnsw_ef=200),
            )
        )
        return [int(one.id) for one in found]


class Milvus(Store):
    """A Milvus server on this machine (`MILVUS_URI`), over its network interface."""

    settings = "server 2.3.5, IVF_SQ8, √N partitions, a tenth probed"

    def fill(self, rows: np.ndarray) -> None:
        """Insert all rows."""
        from pymilvus import DataType, MilvusClient

        self.client: Any = MilvusClient(os.environ["MILVUS_URI"])
        if self.client.has_collection("benchmark"):
            self.client.drop_collection("benchmark")
        schema = self.client.create_schema(auto_id=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=self.dim)
        for every in SHARES.values():
            schema.add_field(f"of{every}", DataType.INT64)
        self.client.create_collection("benchmark", schema=schema, consistency_level="Bounded")
        for numbers, vectors in blocks_of(rows):
            self.client.insert(
                "benchmark",
                [
                    {
                        "id": n,
                        "embedding": vector,
                        **{f"of{every}": n % every for every in SHARES.values()},
                    }
                    for n, vector in zip(numbers.tolist(), vectors, strict=True)
                ],
            )
        self.client.flush("benchmark")

    def build(self) -> None:
        """Create the index, wait for it, and load it."""
        parameters = self.client.prepare_index_params()
        parameters.add_index(
            "embedding",
            index_type="IVF_SQ8",
            metric_type="COSINE",
            params={"nlist": round(self.rows**0.5)},
        )
        self.client.create_index("benchmark", parameters)
        self.client.load_collection("benchmark")

    def search(self, query: np.ndarray, every: int | None) -> list[int]:
        """One query."""
        [found] = self.client.search(
            "benchmark",
            [query.tolist()],
            limit=K,
            filter="" if every is None else f"of{every} == 1",
            search_params={"params": {"nprobe": max(20, round(self.rows**0.5 / 10))}},
        )
        return [int(one["id"]) for one in found]


STORES: dict[str, type[Store]] = {
    "cliptune": Cliptune,
    "hnswlib": Hnswlib,
    "faiss": Faiss,
    "zvec": Zvec,
    "Qdrant Edge": QdrantEdge,
    "Milvus": Milvus,
}


class PeakMemory(threading.Thread):
    """Watches this process's own memory, without files that the system keeps in its cache."""

    def __init__(self) -> None:
        """Begin to watch."""
        super().__init__(daemon=True)
        self.peak = 0
        self._process = psutil.Process()
        self.start()

    def now(self) -> int:
        """Bytes."""
        info = self._process.memory_info()
        return int(info.rss - info.shared)

    def run(self) -> None:
        """Look ten times a second."""
        while True:
            self.peak = max(self.peak, self.now())
            time.sleep(0.1)


def main() -> None:
    """Measure one store; the figures are written after each step, in case it is ended."""
    name, kinds, kind, rows_, folder, out = sys.argv[1:]
    rows = np.load(Path(kinds) / f"{kind}-rows.npy", mmap_mode="r")[: int(rows_)]
    queries = np.load(Path(kinds) / f"{kind}-queries.npy")
    truth = np.load(Path(kinds) / f"{kind}-truth-{rows_}.npz")
    memory, path = PeakMemory(), Path(out)
    figures: dict[str, Any] = {"store": name, "kind": kind, "rows": len(rows)}

    def note(**new: Any) -> None:
        figures.update(new)
        path.write_text(json.dumps(figures, indent=2))

    Path(folder).mkdir(parents=True, exist_ok=True)
    store = STORES[name](Path(folder), rows.shape[1], len(rows))
    note(settings=store.settings)
    began = time.perf_counter()
    store.fill(rows)
    note(fill_s=time.perf_counter() - began)
    memory.peak = 0
    began, used = time.perf_counter(), time.process_time()
    store.build()
    note(
        build_s=time.perf_counter() - began,
        build_cpu_s=time.process_time() - used,
        build_peak_mb=memory.peak >> 20,
    )
    note(searches=_ask_all(store, queries, truth))
    if isinstance(store, Cliptune):
        began = time.perf_counter()
        tuned = store.index.tune(queries[1000:1200], store.digest)
        note(tune_s=time.perf_counter() - began, tuned=vars(tuned))
        note(tuned_searches=_ask_all(store, queries, truth))
    note(resident_mb=memory.now() >> 20, complete=True)


def _ask_all(store: Store, queries: np.ndarray, truth: Any) -> dict[str, Any]:
    """Recall and latency at 1 client and 8, and under filters."""
    ask(partial(store.search, every=None), queries[500:520], 1)
    figures = {}
    for label, every, clients, count in (
        ("1 client", None, 1, 500),
        ("8 clients", None, 8, 500),
        *((f"filter of {share}", every, 1, 100) for share, every in SHARES.items()),
    ):
        asked = ask(partial(store.search, every=every), queries[:count], clients)
        true = truth["all" if every is None else str(every)][:count]
        hits = [len(set(a) & set(b)) for a, b in zip(asked.found, true.tolist(), strict=True)]
        figures[label] = {
            "recall": sum(hits) / true.size,
            "worst": min(hits) / true.shape[1],
            "p50_ms": float(np.median(asked.seconds)) * 1000,
            "p99_ms": float(np.quantile(asked.seconds, 0.99)) * 1000,
            "per_second": count / asked.wall,
            "cpu_ms": asked.cpu / count * 1000,
        }
    return figures


if __name__ == "__main__":
    main()

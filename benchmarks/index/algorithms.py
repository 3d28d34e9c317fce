"""What LanceDB's ANN indexes find and cost: HNSW_SQ, IVF_SQ, IVF_RQ and IVF_HNSW_SQ, side by side.

    python benchmarks/index/kinds.py KINDS --rows 200000 --products ../shared/fashion_large
    python benchmarks/index/algorithms.py KINDS --rows 200000 --markdown --out figures.json

For each kind of embeddings (see `kinds`) and each index: processor time and memory of building, and
for several settings of a search recall@10 against brute force and the time that it takes. Then,
with the cheapest setting that finds 98 %, under filters; after a fifth was deleted and a fifth
replaced; and after a tenth was added, before and after the next `optimize`.
Everything is asked through `lancedb` itself, in a process of its own for each index.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from kinds import KINDS, nearest_rows, queries_of, rows_of

sys.path.append(str(Path(__file__).parents[1] / "training"))
from results import add_output_options, show, write

K = 10
GOAL = 0.98
SHARES = {"50 %": 2, "1 %": 100, "0.01 %": 10_000}
ADDED_AT_ONCE = 5_000


@dataclass(frozen=True)
class Algorithm:
    """An index's type, the partitions for N rows, and which settings of a search to try."""

    name: str
    type: str
    rows_a_partition: float | None
    """None: √N partitions."""
    settings: list[dict[str, int]]
    options: dict[str, int]

    def config(self, rows: int) -> Any:
        """As `create_index` takes it."""
        import lancedb.index

        partitions = rows**0.5 if self.rows_a_partition is None else rows / self.rows_a_partition
        made: Any = getattr(lancedb.index, self.type)
        return made(
            distance_type="cosine", num_partitions=max(1, round(partitions)), **self.options
        )


def _probes(refine: int, *, ef: int | None = None) -> list[dict[str, int]]:
    more = {} if ef is None else {"ef": ef}
    return [{"nprobes": n, "refine_factor": refine, **more} for n in (10, 20, 40, 80, 160, 320)]


KMEANS = {"sample_rate": 64, "max_iterations": 20}
GRAPH = {"m": 20, "ef_construction": 150}
ALGORITHMS = {
    one.name: one
    for one in (
        Algorithm(
            "HNSW_SQ",
            "HnswSq",
            2e9,
            [{"ef": ef, "refine_factor": 2} for ef in (100, 200, 400, 800, 1600)],
            GRAPH,
        ),
        Algorithm("IVF_SQ", "IvfSq", None, _probes(2), KMEANS),
        Algorithm("IVF_RQ", "IvfRq", None, [*_probes(10), *_probes(30)], KMEANS),
        Algorithm(
            "IVF_HNSW_SQ",
            "HnswSq",
            20_000,
            [{"nprobes": n, "ef": ef, "refine_factor": 2} for n in (4, 8, 16) for ef in (100, 400)],
            GRAPH,
        ),
    )
}


def table_of(numbers: np.ndarray, vectors: np.ndarray) -> pa.Table:
    """Rows as cliptune keeps them, as far as searches touch them."""
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).ravel())
    return pa.table(
        {
            "id": [f"p{n:08d}" for n in numbers.tolist()],
            "text": [f"product no. {n}" for n in numbers.tolist()],
            "tags": ["{}"] * len(numbers),
            "terms": [
                [f"{every} {n % every}" for every in SHARES.values()] for n in numbers.tolist()
            ],
            "embedding": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
        }
    )


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Trial:
    """One table under one algorithm."""

    def __init__(self, folder: Path, algorithm: Algorithm, rows: np.ndarray) -> None:
        """Fill a table with `rows` float32 [N, D] in `folder`."""
        import lancedb

        self._algorithm = algorithm
        self.numbers = np.arange(len(rows))
        self.vectors = rows
        self.table: Any = None
        database: Any = lancedb.connect(str(folder))
        for start in range(0, len(rows), 50_000):
            part = table_of(self.numbers[start : start + 50_000], rows[start : start + 50_000])
            if self.table is None:
                self.table = database.create_table("t", part, mode="overwrite")
            else:
                self.table.add(part)

    def build(self) -> dict[str, float]:
        """Build the index; what it took."""
        from lancedb.index import LabelList

        began, used = time.perf_counter(), _cpu()
        self.table.create_index("embedding", config=self._algorithm.config(len(self.vectors)))
        took = {"build_s": time.perf_counter() - began, "build_cpu_s": _cpu() - used}
        self.table.create_index("terms", config=LabelList())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        return {**took, "peak_mb": peak}

    def ask(
        self, queries: np.ndarray, setting: dict[str, int], every: int | None
    ) -> dict[str, Any]:
        """Recall against brute force, and the time of a search."""
        kept = self.numbers >= 0 if every is None else self.numbers % every == 1
        truth = self.numbers[kept][nearest_rows(self.vectors[kept], queries, K)]
        found, seconds, used = [], [], 0.0
        for position, query in enumerate([*queries[:10], *queries]):
            if position == 10:
                used = _cpu()
            began = time.perf_counter()
            search = self.table.search(query, vector_column_name="embedding")
            search = search.distance_type("cosine").limit(K)
            search = search.select(["id", "text", "tags", "_distance"])
            for name, value in setting.items():
                search = getattr(search, name)(value)
            if every is not None:
                search = search.where(f"array_has(terms, '{every} 1')", prefilter=True)
            rows = search.to_arrow()
            seconds.append(time.perf_counter() - began)
            found.append({int(one[1:]) for one in rows["id"].to_pylist()})
        hits = [len(a & set(b)) for a, b in zip(found[10:], truth.tolist(), strict=True)]
        return {
            "setting": setting,
            "recall": sum(hits) / truth.size,
            "least": min(hits) / truth.shape[1],
            "p50_ms": float(np.median(seconds[10:])) * 1000,
            "cpu_ms": (_cpu() - used) / len(queries) * 1000,
        }

    def change(self, more: np.ndarray) -> None:
        """Delete a fifth of the rows and replace another one by as many of `more`."""
        count = len(self.vectors)
        gone = self.numbers % 5 == 2
        self.table.delete(
            "array_has_any(terms, ["
            + ", ".join(f"'10000 {n}'" for n in range(10_000) if n % 5 == 2)
            + "])"
        )
        replaced = self.numbers[self.numbers % 5 == 3]
        vectors = np.array(self.vectors)
        vectors[replaced] = more[: len(replaced)]
        for start in range(0, len(replaced), ADDED_AT_ONCE):
            part = replaced[start : start + ADDED_AT_ONCE]
            upsert = self.table.merge_insert("id").when_matched_update_all()
            upsert.when_not_matched_insert_all().execute(table_of(part, vectors[part]))
        self.numbers, self.vectors = self.numbers[~gone], vectors[~gone]
        assert self.table.count_rows() == len(self.numbers) < count

    def add(self, more: np.ndarray) -> None:
        """Append `more` rows."""
        numbers = np.arange(len(more)) + int(self.numbers.max()) + 1
        for start in range(0, len(more), ADDED_AT_ONCE):
            part = slice(start, start + ADDED_AT_ONCE)
            self.table.add(table_of(numbers[part], more[part]))
        self.numbers = np.concatenate([self.numbers, numbers])
        self.vectors = np.concatenate([self.vectors, more])

    def optimize(self) -> dict[str, float]:
        """Take in what was added since; what it took."""
        began, used = time.perf_counter(), _cpu()
        self.table.optimize()
        return {"optimize_s": time.perf_counter() - began, "optimize_cpu_s": _cpu() - used}


def measure(kinds: Path, kind: str, name: str, rows: int, count: int, pipe: Any) -> None:
    """One trial, in a process of its own."""
    os.environ["LANCE_INCLUDE_VECTOR_CENTROIDS"] = "false"
    algorithm, queries = ALGORITHMS[name], queries_of(kinds, kind, count)
    given = np.asarray(rows_of(kinds, kind, rows * 13 // 10))
    folder = kinds / f"trial-{kind}-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    trial = Trial(folder, algorithm, given[:rows])
    figures: dict[str, Any] = trial.build()
    figures["searches"] = [trial.ask(queries, one, None) for one in algorithm.settings]
    good = [one for one in figures["searches"] if one["recall"] >= GOAL]
    best = min(good, key=lambda one: one["cpu_ms"], default=None)
    best = best or max(figures["searches"], key=lambda one: one["recall"])
    setting = best["setting"]
    figures["filtered"] = {
        share: trial.ask(queries, setting, every) for share, every in SHARES.items()
    }
    trial.change(given[rows : rows * 12 // 10])
    figures["changed"] = {"before": trial.ask(queries, setting, None), **trial.optimize()}
    figures["changed"]["after"] = trial.ask(queries, setting, None)
    trial.add(given[rows * 12 // 10 :])
    figures["added"] = {"before": trial.ask(queries, setting, None), **trial.optimize()}
    figures["added"]["after"] = trial.ask(queries, setting, None)
    shutil.rmtree(folder)
    pipe.send(figures)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("kinds", type=Path, help="made by kinds.py, with 1.3 times the rows")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--kind", nargs="*", default=KINDS, choices=KINDS)
    parser.add_argument(
        "--algorithm", nargs="*", default=list(ALGORITHMS), choices=list(ALGORITHMS)
    )
    add_output_options(parser)
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    figures: dict[str, Any] = {"rows": args.rows}
    for kind in args.kind:
        for name in args.algorithm:
            ours, theirs = context.Pipe()
            given = (args.kinds, kind, name, args.rows, args.queries, theirs)
            process = context.Process(target=measure, args=given)
            process.start()
            theirs.close()
            figures[f"{kind}, {name}"] = one = ours.recv()
            process.join()
            _show(f"{kind}, {name}, {args.rows:,} rows", one, args.markdown)
            write(args.out, figures)


def _show(title: str, one: dict[str, Any], markdown: bool) -> None:
    labelled = [
        (", ".join(f"{k} {v}" for k, v in s["setting"].items()), s) for s in one["searches"]
    ]
    labelled += [(f"filter of {share}", s) for share, s in one["filtered"].items()]
    for what in ("changed", "added"):
        labelled += [(f"{what}, {when}", one[what][when]) for when in ("before", "after")]
    rows = [
        [
            what,
            f"{s['recall']:.3f}",
            f"{s['least']:.1f}",
            f"{s['p50_ms']:.1f}",
            f"{s['cpu_ms']:.1f}",
        ]
        for what, s in labelled
    ]
    title += f": built in {one['build_s']:.0f} s, {one['build_cpu_s']:.0f} s of processor time, "
    title += f"{one['peak_mb']:,.0f} MB; optimized in {one['changed']['optimize_cpu_s']:.0f} s and "
    title += f"{one['added']['optimize_cpu_s']:.0f} s of it"
    show(title, ["", "recall@10", "least", "p50, ms", "CPU, ms"], rows, markdown)


if __name__ == "__main__":
    main()

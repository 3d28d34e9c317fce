"""Words, groups, facets and orders beside the plain search: 100,000 pictures, three a product.

    python benchmarks/index/ranking.py /tmp/products-100k --rows 100000 --markdown

The index is made in the folder if it isn't there. All kinds of search take turns, query by query,
and each query is asked in every way: shown are p50 and p99, and the median over the queries of the
ratio to the plain search of the same query under the same filter. Processor time is that of the
process, so that it says the same on a machine that others use too.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from catalogue import DIGEST, DIM, blocks, documents, queries

from cliptune.index import Index, Ranking, open_index

sys.path.append(str(Path(__file__).parents[1] / "training"))
from results import add_output_options, show, write

PICTURES = 3
"""Of a product; their cosine is about 0.92."""
NEAR = 0.3
WORDS = ["blue rain boots"]
"""A sixth of all titles has two of these words, another eighth the third."""
FACETS = ["brand", "price", "sizes", "product"]
FILTERS = {"no filter": None, "15 %": "price < 30", "2 %": "brand == 'brand 7'"}


def make(folder: Path, rows: int) -> None:
    """Fill the index and build its graph."""
    rng = np.random.default_rng(7)
    with open_index(folder) as index:
        for start, vectors in blocks(rows):
            numbers = np.arange(start, start + len(vectors))
            first = (numbers // PICTURES * PICTURES - start).clip(0)
            noise = rng.standard_normal(vectors.shape, dtype=np.float32)
            near = vectors[first] + NEAR / np.sqrt(DIM) * noise
            docs = documents(start, near / np.linalg.norm(near, axis=1, keepdims=True))
            for doc, number in zip(docs, numbers.tolist(), strict=True):
                doc.tags |= {"product": f"P{number // PICTURES}", "sales": number * 7919 % 1000}
            index.add(docs)
        index.optimize()


def ways(index: Index, filter: str | None) -> dict[str, Callable[[np.ndarray], object]]:
    """The kinds of search, the plain one first."""

    def ranked(**options: Any) -> Callable[[np.ndarray], object]:
        ranking = Ranking(**options)
        return lambda query: index.search(query[None], DIGEST, filter=filter, ranking=ranking)

    def plain(query: np.ndarray) -> object:
        return index.search(query[None], DIGEST, filter=filter)

    def hybrid(query: np.ndarray) -> object:
        return index.search(query[None], DIGEST, filter=filter, texts=WORDS)

    return {
        "plain": plain,
        "hybrid": hybrid,
        "group_by": ranked(group_by="product"),
        "with 4 facets": lambda query: (plain(query), index.facets(FACETS, filter)),
        "group_by, 4 facets": lambda query: (
            ranked(group_by="product")(query),
            index.facets(FACETS, filter),
        ),
        "sort_by": ranked(sort_by="price"),
        "formula": ranked(formula="score + 0.1 * log(1 + sales)"),
        "diversity": ranked(diversity=0.3),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=60)
    add_output_options(parser)
    args = parser.parse_args()

    if not args.folder.exists():
        make(args.folder, args.rows)
    figures: dict[str, Any] = {"rows": args.rows}
    table = []
    with open_index(args.folder) as index:
        began = time.perf_counter()
        index.facets(FACETS)
        figures["first_facets_ms"] = (time.perf_counter() - began) * 1000
        began = time.perf_counter()
        index.known_tags()
        figures["first_tags_ms"] = (time.perf_counter() - began) * 1000
        for name, filter in FILTERS.items():
            kinds = ways(index, filter)
            wall: dict[str, list[float]] = {kind: [] for kind in kinds}
            cpu: dict[str, list[float]] = {kind: [] for kind in kinds}
            for number, query in enumerate(queries(args.queries + 3)):
                for kind, search in kinds.items():
                    started, used = time.perf_counter(), time.process_time()
                    search(query)
                    if number >= 3:  # the first ones warm caches up
                        wall[kind].append((time.perf_counter() - started) * 1000)
                        cpu[kind].append((time.process_time() - used) * 1000)
            for kind in kinds:
                ratios = np.array(wall[kind]) / np.array(wall["plain"])
                row = {
                    "p50_ms": float(np.median(wall[kind])),
                    "p99_ms": float(np.quantile(wall[kind], 0.99)),
                    "p50_ratio": float(np.median(wall[kind]) / np.median(wall["plain"])),
                    "median_ratio": float(np.median(ratios)),
                    "cpu_ratio": float(np.sum(cpu[kind]) / np.sum(cpu["plain"])),
                }
                figures[f"{name}, {kind}"] = row
                table.append([name, kind, *(f"{value:.1f}" for value in row.values())])
    header = ["filter", "", "p50, ms", "p99, ms", "p50 ratio", "median ratio", "CPU ratio"]
    show(f"{args.rows:,} documents", header, table, args.markdown)
    print({key: round(figures[key]) for key in ("first_facets_ms", "first_tags_ms")})
    write(args.out, figures)


if __name__ == "__main__":
    main()

"""Queries while an index is written to and optimised, by another process and by a thread.

    python benchmarks/index/while_indexing.py /tmp/index-100k --add 20000 --markdown

It asks one query after the other: first undisturbed, then while another process adds documents,
then while `optimize` builds them into the graph. The index is copied first and stays as it is.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from catalogue import BLOCK, DIGEST, blocks, documents, queries

from cliptune.index import open_index

sys.path.append(str(Path(__file__).parents[1] / "training"))
from results import add_output_options, show, write

BATCH = 500


def _add(folder: Path, first: int, rows: int) -> None:
    with open_index(folder) as index:
        for start, vectors in blocks(first + rows):
            if start >= first:
                for at in range(0, len(vectors), BATCH):
                    index.add(documents(start + at, vectors[at : at + BATCH]))


def _optimize(folder: Path) -> None:
    with open_index(folder) as index:
        index.optimize()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path, help="made by ingest.py")
    parser.add_argument("--add", type=int, default=20_000, help="documents added meanwhile")
    parser.add_argument("--queries", type=int, default=300, help="asked undisturbed")
    add_output_options(parser)
    args = parser.parse_args()

    rows = json.loads((args.folder / "ingest.json").read_text())["rows"]
    if rows % BLOCK:
        parser.error(f"the index should hold a multiple of {BLOCK} documents")
    context = multiprocessing.get_context("spawn")
    asked = queries(args.queries)
    figures: dict[str, Any] = {"rows": rows, "added": args.add}
    with tempfile.TemporaryDirectory(dir=args.folder.parent) as kept:
        folder = Path(kept) / "index"
        shutil.copytree(args.folder, folder)
        with open_index(folder) as index:

            def ask(query: np.ndarray) -> float:
                began = time.perf_counter()
                [matches] = index.search(query[None], DIGEST)
                assert len(matches) == 10
                return time.perf_counter() - began

            figures["undisturbed"] = _figures([ask(query) for query in asked])
            works: dict[str, tuple[Any, tuple[Any, ...]]] = {
                "while adding": (_add, (folder, rows, args.add)),
                "while optimising": (_optimize, (folder,)),
            }
            for name, (work, given) in works.items():
                process = context.Process(target=work, args=given)
                began = time.perf_counter()
                seconds: list[float] = []
                process.start()
                while process.is_alive():
                    seconds.append(ask(asked[len(seconds) % len(asked)]))
                figures[name] = {**_figures(seconds), "seconds": time.perf_counter() - began}
                if process.exitcode:
                    raise RuntimeError(f"{name}: the process ended with {process.exitcode}")
            assert index.count() == rows + args.add
            figures["afterwards"] = _figures([ask(query) for query in asked])
    table = [
        [
            name,
            str(one["queries"]),
            f"{one['p50_ms']:.1f}",
            f"{one['p99_ms']:.1f}",
            f"{one['max_ms']:.0f}",
            f"{one['seconds']:.0f}" if "seconds" in one else "",
        ]
        for name, one in figures.items()
        if isinstance(one, dict)
    ]
    header = ["", "queries", "p50, ms", "p99, ms", "slowest, ms", "it took, s"]
    show(f"{rows:,} documents, {args.add:,} more", header, table, args.markdown)
    write(args.out, figures)


def _figures(seconds: list[float]) -> dict[str, float]:
    milliseconds = 1000 * np.array(seconds)
    return {
        "queries": len(seconds),
        "p50_ms": float(np.median(milliseconds)),
        "p99_ms": float(np.quantile(milliseconds, 0.99)),
        "max_ms": float(milliseconds.max()),
    }


if __name__ == "__main__":
    main()

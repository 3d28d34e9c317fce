"""Latency, throughput, recall and memory: cliptune's index, LanceDB alone, bare hnswlib.

    python benchmarks/index/ingest.py /tmp/index-100k --rows 100000
    python benchmarks/index/queries.py /tmp/index-100k --markdown

Each contender is a process of its own over the same documents; they take turns, round by round,
and the one that begins changes. Shown are the median over the rounds and the least and greatest;
"ratio" is cliptune's over the line's own, round by round. Processor time says the same on a machine
that others use too.
hnswlib is measured if it is installed (`pip install hnswlib`).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from catalogue import nearest, queries
from contenders import CONTENDERS, K
from rounds import Round, Worker

sys.path.append(str(Path(__file__).parents[1] / "training"))
from results import add_output_options, show, write

SHARE = 7


def recall(found: list[list[int]], truth: np.ndarray) -> float:
    """The share of the true `K` nearest that were found."""
    hits = (len(set(one) & set(row)) for one, row in zip(found, truth.tolist(), strict=True))
    return sum(hits) / truth.size


def spread(values: list[float], digits: int = 2) -> str:
    """The median, least and greatest of the rounds."""
    middle, *ends = (
        f"{one:.{digits}f}" for one in (statistics.median(values), min(values), max(values))
    )
    return f"{middle} ({'–'.join(ends)})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path, help="made by ingest.py")
    parser.add_argument("--queries", type=int, default=200, help="in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--without", nargs="*", default=[], choices=list(CONTENDERS))
    add_output_options(parser)
    args = parser.parse_args()

    rows = json.loads((args.folder / "ingest.json").read_text())["rows"]
    names = [name for name in CONTENDERS if name not in args.without]
    if "hnswlib" in names and importlib.util.find_spec("hnswlib") is None:
        names.remove("hnswlib")
    asked = queries(args.queries)
    truths = {None: nearest(rows, asked, K), SHARE: nearest(rows, asked, K, SHARE)}
    figures: dict[str, Any] = {"rows": rows, "contenders": {}}
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(name, args.folder, rows)) for name in names}
        for name, worker in workers.items():
            found = {only: worker.round(asked, 2, only).found for only in truths}
            figures["contenders"][name] = {
                "recall": recall(found[None], truths[None]),
                "recall_filtered": recall(found[SHARE], truths[SHARE]),
            }
        for only in truths:
            for clients in args.clients if only is None else args.clients[:1]:
                rounds: dict[str, list[Round]] = {name: [] for name in names}
                for turn in range(args.rounds):
                    order = names[turn % len(names) :] + names[: turn % len(names)]
                    for name in order:
                        rounds[name].append(workers[name].round(asked, clients, only))
                key = f"{clients} client{'s' * (clients > 1)}" + ", filter of 1 %" * bool(only)
                for name in names:
                    figures["contenders"][name][key] = _summary(rounds[name], rounds[names[0]])
        for name, worker in workers.items():
            figures["contenders"][name]["resident_mb"] = worker.resident_mb()
    _show(figures, args.markdown)
    write(args.out, figures)


def _summary(rounds: list[Round], first: list[Round]) -> dict[str, list[float]]:
    p50 = [float(np.median(one.seconds)) * 1000 for one in rounds]
    return {
        "p50_ms": p50,
        "p99_ms": [float(np.quantile(one.seconds, 0.99)) * 1000 for one in rounds],
        "cpu_ms": [one.cpu / len(one.seconds) * 1000 for one in rounds],
        "per_second": [len(one.seconds) / one.wall for one in rounds],
        "p50_ratio": [
            float(np.median(ours.seconds)) * 1000 / its
            for ours, its in zip(first, p50, strict=True)
        ],
        "cpu_ratio": [ours.cpu / its.cpu for ours, its in zip(first, rounds, strict=True)],
    }


def _show(figures: dict[str, Any], markdown: bool) -> None:
    by_name = figures["contenders"]
    keys = [key for key in by_name["cliptune"] if "client" in key]
    for key in keys:
        rows = [
            [
                name,
                spread(one[key]["p50_ms"]),
                spread(one[key]["p99_ms"], 1),
                spread(one[key]["per_second"], 0),
                spread(one[key]["p50_ratio"]),
                spread(one[key]["cpu_ms"], 1),
                spread(one[key]["cpu_ratio"]),
            ]
            for name, one in by_name.items()
        ]
        header = ["", "p50, ms", "p99, ms", "queries/s", "p50 ratio", "CPU, ms", "CPU ratio"]
        show(f"{figures['rows']:,} documents, {key}", header, rows, markdown)
    rows = [
        [
            name,
            f"{one['recall']:.3f}",
            f"{one['recall_filtered']:.3f}",
            f"{one['resident_mb']:,}",
        ]
        for name, one in by_name.items()
    ]
    header = ["", f"recall@{K}", "of a filter of 1 %", "memory, MB"]
    show(f"{figures['rows']:,} documents", header, rows, markdown)


if __name__ == "__main__":
    main()

"""A million embeddings in cliptune's index and in its peers: built, found, filtered, how fast.

    scripts/install-peers ann
    python benchmarks/index/kinds.py KINDS --rows 1000000 --products ../shared/fashion_large
    python benchmarks/index/million.py KINDS OUT --rows 1000000 --peers .peers/ann/bin/python

cliptune is measured on each kind of embeddings, the peers on the pictures with titles as queries.
Each store is a process of its own, one after the other (see `stores`), and has `--minutes` to be
filled, built and asked. What is in OUT already is not measured again, so that a run that was cut
short goes on. `MILVUS_URI` says where Milvus is; without, it is left out. OUT has a JSON of each
store, and `table.md` of all.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from kinds import KINDS, nearest_rows, queries_of, rows_of
from stores import SHARES, STORES, K

PEERS_KIND = "real"
ASKED = 500
HEADER = [
    "store",
    "embeddings",
    "built, s",
    "CPU, s",
    "building, MB",
    "recall@10",
    "p50 / p99, ms",
    "a second, 8 clients",
    *(f"filter of {share}: recall, p50 ms" for share in SHARES),
]


def keep_truth(kinds: Path, kind: str, count: int) -> None:
    """By brute force, what is nearest to each query, once and for all."""
    path = kinds / f"{kind}-truth-{count}.npz"
    if path.exists():
        return
    rows, queries = rows_of(kinds, kind, count), queries_of(kinds, kind, ASKED)
    numbers = np.arange(count)
    truth = {"all": nearest_rows(rows, queries, K)}
    for every in SHARES.values():
        truth[str(every)] = numbers[1::every][nearest_rows(rows[1::every], queries[:100], K)]
    np.savez(path, **truth)


def table(out: Path) -> str:
    """What there is, as Markdown."""
    lines = [HEADER, ["---", "---", *["--:"] * (len(HEADER) - 2)]]
    for path in sorted(out.glob("*.json")):
        one = json.loads(path.read_text())
        name = f"{one['store']} ({one['settings']})"
        lines.append(_line(name, one, one.get("searches")))
        if tuned := one.get("tuned_searches"):
            chosen = f"nprobes {one['tuned']['nprobes']}, refine {one['tuned']['refine_factor']}"
            lines.append(_line(f"the same, tuned ({chosen})", one, tuned))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _line(name: str, one: dict[str, Any], searches: dict[str, Any] | None) -> list[str]:
    if not searches:
        ended = one.get("ended", "not finished")
        return [name, one["kind"], f"{ended}", *[""] * (len(HEADER) - 3)]
    alone, many = searches["1 client"], searches["8 clients"]
    return [
        name,
        one["kind"],
        f"{one['build_s']:.0f}",
        f"{one['build_cpu_s']:.0f}",
        f"{one['build_peak_mb']:,}",
        f"{alone['recall']:.3f}",
        f"{alone['p50_ms']:.1f} / {alone['p99_ms']:.1f}",
        f"{many['per_second']:.0f}",
        *(
            f"{s['recall']:.3f}, {s['p50_ms']:.1f}"
            for s in (searches[f"filter of {share}"] for share in SHARES)
        ),
    ]


def main() -> None:
    """Measure what isn't measured yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("kinds", type=Path, help="made by kinds.py")
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--stores", nargs="*", default=list(STORES), choices=list(STORES))
    parser.add_argument("--peers", default=sys.executable, help="their environment's Python")
    parser.add_argument("--minutes", type=float, default=8, help="for each store")
    parser.add_argument("--kind", nargs="*", default=KINDS, choices=KINDS, help="for cliptune")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    trials = [("cliptune", kind) for kind in args.kind if "cliptune" in args.stores]
    trials += [(name, PEERS_KIND) for name in args.stores if name != "cliptune"]
    for name, kind in trials:
        out = args.out / f"{name}-{kind}.json"
        if out.exists() or (name == "Milvus" and "MILVUS_URI" not in os.environ):
            continue
        keep_truth(args.kinds, kind, args.rows)
        folder = args.out / "store"
        shutil.rmtree(folder, ignore_errors=True)
        python = sys.executable if name == "cliptune" else args.peers
        command = [python, str(Path(__file__).with_name("stores.py")), name]
        command += [str(args.kinds), kind, str(args.rows), str(folder), str(out)]
        print(f"{name}, {kind}", flush=True)
        try:
            subprocess.run(command, check=True, timeout=60 * args.minutes)
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
            if not out.exists():
                raise
            timed_out = isinstance(error, subprocess.TimeoutExpired)
            ended = f"not built in {args.minutes:.0f} minutes" if timed_out else "failed"
            out.write_text(json.dumps({**json.loads(out.read_text()), "ended": ended}, indent=2))
        shutil.rmtree(folder, ignore_errors=True)
        (args.out / "table.md").write_text(table(args.out))
    print(table(args.out))


if __name__ == "__main__":
    main()

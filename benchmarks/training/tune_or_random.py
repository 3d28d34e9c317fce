"""What `cliptune tune` finds in some minutes, and what random search does in as many.

    python benchmarks/training/tune_or_random.py ../shared/fashion_large figures.jsonl \\
        --products 1000 --minutes 15

Random search draws from the same ranges, after the same first trial at the defaults, and gives no
trial up: Optuna's `RandomSampler` without pruning. Both choose by the same validation part; what
they chose, the best trial alone and what the soup and WiSE-FT made of the trials, searches the test
part of `products.py`. The curve is the validation metric of the best trial so far, by minutes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
from products import documents, read_products, split_products
from recipe import PerQuery, measure
from results import show

from cliptune.evaluation.bootstrap import compare_means
from cliptune.models.loading import load_model
from cliptune.training import TrainingOptions
from cliptune.training.run_logger import StandardRunLogger
from cliptune.tuning import TuneOptions
from cliptune.tuning.tune import tune

WAYS = ("tune", "random")


@contextmanager
def searching(way: str) -> Iterator[None]:
    """By random search, or as cliptune does."""
    with ExitStack() as stack:
        if way == "random":
            sampler = patch(
                "cliptune.tuning.search.TPESampler", lambda seed, **_: RandomSampler(seed)
            )
            pruner = patch(
                "cliptune.tuning.search.SuccessiveHalvingPruner", lambda **_: NopPruner()
            )
            for one in (sampler, pruner):
                stack.enter_context(one)
        yield


def curve(trials: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """Minutes, and the metric of the best complete trial until then, wherever it rises."""
    minutes, best, points = 0.0, 0.0, []
    for trial in trials:
        minutes += trial["seconds"] / 60
        if trial["state"] == "complete" and trial["value"] > best:
            best = trial["value"]
            points.append((round(minutes, 1), round(best, 4)))
    return points


def main() -> None:
    """Search, and print what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="with parquet files of products")
    parser.add_argument("out", type=Path, help="the JSON lines of finished searches")
    parser.add_argument("--products", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    args = parser.parse_args()
    split = split_products(read_products(args.folder))
    docs = documents(split.catalogue(args.products))
    base, asked = TrainingOptions(seed=args.seed), TuneOptions(minutes=args.minutes)
    rows, found = [], dict[str, PerQuery]()
    for way in args.ways:
        with tempfile.TemporaryDirectory() as scratch, searching(way):
            run_dir = Path(scratch)
            tune(base, asked, [], docs, None, run_dir, StandardRunLogger())
            record = json.loads((run_dir / "tune" / "tune.json").read_text())
            trials = record["results"]
            complete = [one for one in trials if one["state"] == "complete"]
            best = max(complete, key=lambda one: (one["value"], -one["number"]))
            folders = {
                "defaults": run_dir / "tune" / "trials" / "0000" / "artifact",
                "best trial": run_dir / "tune" / "trials" / f"{best['number']:04d}" / "artifact",
                "soup and alpha": run_dir / "artifact",
            }
            for name, folder in folders.items():
                found[f"{way}: {name}"] = measure(load_model(folder), split.test)
        line = {
            "way": way,
            "products": args.products,
            "minutes": args.minutes,
            "seed": args.seed,
            "trials": len(trials),
            "given_up": len(trials) - len(complete),
            "curve": curve(trials),
            "best": best,
        }
        line["test"] = {
            name: float(np.mean(values["reciprocal_rank"]))
            for name, values in found.items()
            if name.startswith(way)
        }
        with args.out.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
    first = {
        name: np.asarray(values) for name, values in found[f"{args.ways[0]}: defaults"].items()
    }
    for name, values in found.items():
        change = compare_means(first, {k: np.asarray(v) for k, v in values.items()})
        gain = change["reciprocal_rank"].difference
        mean = float(np.mean(values["reciprocal_rank"]))
        rows.append(
            [name, f"{mean:.4f}", f"{gain.mean:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})"]
        )
    show("Test products", ["", "MRR", "against the defaults"], rows, markdown=True)


if __name__ == "__main__":
    main()

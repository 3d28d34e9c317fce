"""What fine-tuning on a few kinds of products does to all other kinds.

    python benchmarks/training/other_types.py ../shared/fashion_large --products 500 --markdown

The built-in model is trained, at its defaults, on products of some article types alone: the first
ones of the training part whose types a seed has drawn, half of all. Then it searches test products
of these types and of the others, each among its own. So does its mixture with the model before
(WiSE-FT), by alpha. Shown are means over the seeds, and the difference to the model before with its
interval (95 %, paired bootstrap over the queries of all seeds).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from products import Product, documents, read_products, split_products
from recipe import PerQuery, measure
from results import add_output_options, show, write

from cliptune.evaluation.bootstrap import compare_means
from cliptune.models.loading import load_model
from cliptune.models.wise_ft import mix_models
from cliptune.training import TrainingOptions, train
from cliptune.training.run_logger import StandardRunLogger

ALPHAS = (0.3, 0.5, 0.7, 1.0)
METRIC, BEFORE = "reciprocal_rank", "before"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path, help="with parquet files of products")
    parser.add_argument("--products", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--options", type=json.loads, default={}, help="others than the defaults")
    add_output_options(parser)
    args = parser.parse_args()
    split = split_products(read_products(args.folder))
    types = sorted({product.article_type for product in split.training})
    found: dict[tuple[str, str], list[PerQuery]] = defaultdict(list)
    for seed in args.seeds:
        drawn = set(np.random.default_rng(seed).permutation(types)[: len(types) // 2].tolist())
        chosen = [one for one in split.training if one.article_type in drawn][: args.products]
        sides: dict[str, Sequence[Product]] = {
            "its types": [one for one in split.test if one.article_type in drawn],
            "other types": [one for one in split.test if one.article_type not in drawn],
        }
        before = load_model("builtin")
        with tempfile.TemporaryDirectory() as scratch:
            options = TrainingOptions.parse({**args.options, "seed": seed})
            train(options, documents(chosen), None, [], Path(scratch), StandardRunLogger())
            tuned = load_model(Path(scratch) / "artifact")
        for side, products in sides.items():
            found[BEFORE, side].append(measure(before, products))
            for alpha in ALPHAS:
                mixed = mix_models(before, tuned, alpha)
                found[f"alpha {alpha:g}", side].append(measure(mixed, products))
    rows = []
    for (name, side), runs in found.items():
        values = np.concatenate([run[METRIC] for run in runs])
        base = np.concatenate([run[METRIC] for run in found[BEFORE, side]])
        gain = compare_means({METRIC: base}, {METRIC: values})[METRIC].difference
        each = [float(np.mean(run[METRIC])) for run in runs]
        told = "" if name == BEFORE else f"{gain.mean:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})"
        rows.append([name, side, f"{values.mean():.4f}", ", ".join(f"{e:.4f}" for e in each), told])
    title = f"{args.products} products of half of the types"
    header = ["", "searched", "MRR", "of each seed", "against before"]
    show(title, header, rows, args.markdown)
    write(args.out, {"rows": rows})


if __name__ == "__main__":
    main()

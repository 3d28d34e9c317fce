"""What mined wrong answers gain: the same training with and without them, seed by seed.

    python benchmarks/training/mined_negatives.py ../shared/fashion_large mined.jsonl \\
        --products 2000 --seeds 1 2 3 \\
        --try 'mined={}' --try 'mined by titles={"direction": "titles"}'
    python benchmarks/training/recipe.py table mined.jsonl

Trains the built-in model on a small catalogue as `recipe.py` does, mines the same catalogue with
what came out by options of `MiningOptions`, and trains the built-in model anew, from the same seed
with the same options. Runs are kept and measured as `recipe.py`'s, whose `default` this one's is.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from docarray import DocList
from products import documents, read_products, split_products
from recipe import Bench, variant

from cliptune.curation.embedded import embed_pairs
from cliptune.curation.mining_options import MiningOptions
from cliptune.curation.negatives import mine, with_negatives
from cliptune.documents import ClipDoc
from cliptune.inference.engines import both_towers
from cliptune.models.loading import ClipModel, load_model
from cliptune.training import TrainingOptions, train
from cliptune.training.run_logger import StandardRunLogger


def trained(docs: DocList[ClipDoc], seed: int, options: dict[str, Any]) -> ClipModel:
    """The built-in model after training on `docs`."""
    with tempfile.TemporaryDirectory() as scratch:
        settings = TrainingOptions.parse({**options, "seed": seed})
        train(settings, docs, None, [], Path(scratch), StandardRunLogger())
        return load_model(Path(scratch) / "artifact")


def mined_by(model: ClipModel, docs: DocList[ClipDoc], options: MiningOptions) -> DocList[ClipDoc]:
    """`docs` with wrong answers that `model` finds."""
    pairs = embed_pairs(docs, *both_towers(model))
    found = mine(pairs, options)
    print(f"{found.n_found} wrong answers of {len(pairs)} pairs, left out {dict(found.left_out)}")
    return with_negatives(pairs, found)


def main() -> None:
    """Train what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path, help="with parquet files of products")
    parser.add_argument("out", type=Path, help="the JSON lines of finished runs")
    parser.add_argument("--products", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--try", type=variant, action="append", dest="variants", required=True)
    args = parser.parse_args()
    variants = [(name, MiningOptions.parse(options)) for name, options in args.variants]

    split = split_products(read_products(args.folder))
    bench = Bench(split, args.out)
    docs = documents(split.catalogue(args.products))
    options = {"epochs": args.epochs}
    for seed in args.seeds:
        names = ["default", *(name for name, _ in variants)]
        if bench.done.issuperset((name, args.products, seed) for name in names):
            continue
        before = trained(docs, seed, options)
        bench.keep("default", args.products, seed, options, before)
        for name, how in variants:
            if (name, args.products, seed) not in bench.done:
                model = trained(mined_by(before, docs, how), seed, options)
                bench.keep(name, args.products, seed, {**options, "mining": asdict(how)}, model)


if __name__ == "__main__":
    main()

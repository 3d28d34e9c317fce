"""What is found by the first numbers of embeddings, with and without Matryoshka training.

    python benchmarks/training/matryoshka.py ../shared/fashion_large --products 2000 --markdown

The built-in model is trained on a part of the products (split by title, `products.py`), once as by
default and once with `matryoshka`; titles of the test part search its pictures by whole embeddings
by their beginnings, and by both as int8 and as signs.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from docarray import DocList
from products import documents, read_products, split_products
from results import add_output_options, show, write

from cliptune.documents import ClipDoc
from cliptune.evaluation.search_task import SearchTask
from cliptune.evaluation.shortening import measure_shortened
from cliptune.inference.engines import both_towers
from cliptune.training import TrainingOptions, train
from cliptune.training.run_logger import StandardRunLogger

LENGTHS = [16, 32, 64, 128]
METRICS = {"reciprocal_rank": "MRR", "recall_at_k_textbook": "recall@20"}


def main() -> None:
    """Train twice, and print what each length finds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of products in parquet")
    parser.add_argument("--products", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=5)
    add_output_options(parser)
    args = parser.parse_args()
    split = split_products(read_products(args.folder))
    docs = documents(split.test)
    queries = DocList[ClipDoc]({str(doc.text).casefold(): doc for doc in docs}.values())
    figures: dict[str, Any] = {}
    for name, lengths in (("plain", []), ("matryoshka", LENGTHS)):
        options = TrainingOptions.parse({"epochs": args.epochs, "matryoshka": lengths})
        with tempfile.TemporaryDirectory() as scratch:
            catalogue = documents(split.catalogue(args.products))
            train(options, catalogue, None, [], Path(scratch), StandardRunLogger())
            towers = both_towers(Path(scratch) / "artifact")
            task = SearchTask.prepare(*towers, queries, docs)
            measured = measure_shortened(task, task.embed(*towers), LENGTHS, limit=20)
        figures[name] = {
            f"{length} {kind}": {metric: one.metrics[metric] for metric in METRICS}
            for (length, kind), one in measured.items()
        }
    header = ["numbers", *(f"{name}, {m}" for name in figures for m in METRICS.values())]
    rows = [
        [form, *(f"{figures[name][form][m]:.3f}" for name in figures for m in METRICS)]
        for form in figures["plain"]
    ]
    show(f"{args.products:,} products, {len(docs):,} searched", header, rows, args.markdown)
    write(args.out, figures)


if __name__ == "__main__":
    main()

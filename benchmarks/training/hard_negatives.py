"""When `sampler='hard_negatives'` helps: against random batches, by batch size, over several seeds.

    python benchmarks/training/hard_negatives.py ../shared/fashion --seeds 1 2 3
    python benchmarks/training/hard_negatives.py --seeds 1 2 3    # on the built-in catalogue

Splits the products by title as fashion.py does, trains the same number of epochs from the same
seed with both samplers, and searches the held-out pictures with their titles. The last but one
column compares the two samplers seed by seed, so that what a split is like does not count.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from docarray import DocList
from fashion import measure, split_by_title
from results import add_output_options, show, write

from cliptune.data.source import load_documents
from cliptune.data.tables.reader import read_csv
from cliptune.documents import ClipDoc
from cliptune.training import TrainingOptions, train
from cliptune.training.run_logger import StandardRunLogger

METRICS = {
    "reciprocal_rank": "MRR",
    "hit_at_k": "hit@20",
    "recall_at_k": "recall@20",
    "ndcg_at_k": "nDCG@20",
}
SAMPLERS = ("random", "hard_negatives")


def trained(
    training: DocList[ClipDoc], held_out: DocList[ClipDoc], options: dict[str, Any]
) -> dict[str, float]:
    """The metrics on `held_out` after training with `options`, and the seconds an epoch took."""
    with tempfile.TemporaryDirectory() as scratch:
        settings = TrainingOptions.parse(options)
        outcome = train(settings, training, None, [], Path(scratch), StandardRunLogger())
        metrics = measure(Path(scratch) / "artifact", held_out)
    seconds = statistics.mean(epoch["seconds"] for epoch in outcome.history)
    return {**{name: metrics[name] for name in METRICS}, "seconds": seconds}


def products(folder: Path | None) -> DocList[ClipDoc]:
    """The products in `folder`, or those of the built-in catalogue."""
    if folder is None:
        return load_documents("catalogue-train")
    columns = {"text_column": "productDisplayName", "image_template": "images/{id}.jpg"}
    return read_csv(folder / "products.csv", columns)


def spread(values: list[float], form: str = ".4f") -> str:
    """Mean ± standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):{form}} ± {deviation:{form.lstrip('+')}}"


def main() -> None:
    """Run all seeds, batch sizes and samplers, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument(
        "folder", type=Path, nargs="?", help="with products.csv and images/<id>.jpg"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--loss", default="CLIPLoss")
    parser.add_argument("--held-out", type=float, default=0.25)
    add_output_options(parser)
    args = parser.parse_args()

    docs = products(args.folder)
    runs: dict[tuple[int, str], list[dict[str, float]]] = {
        (size, sampler): [] for size in args.batch_sizes for sampler in SAMPLERS
    }
    for seed in args.seeds:
        training, held_out = split_by_title(docs, args.held_out, seed)
        for (size, sampler), found in runs.items():
            options = {"epochs": args.epochs, "seed": seed, "batch_size": size}
            options |= {"sampler": sampler, "loss": args.loss}
            found.append(trained(training, held_out, options))
            # After each run: the whole takes long, and may be cut short.
            write(args.out, {f"{size}, {sampler}": runs[size, sampler] for size, sampler in runs})

    rows = []
    for (size, sampler), found in runs.items():
        values = {name: [run[name] for run in found] for name in (*METRICS, "seconds")}
        cells = [spread(values[name]) for name in METRICS]
        at_random = [run["reciprocal_rank"] for run in runs[size, "random"]]
        gains = [a - b for a, b in zip(values["reciprocal_rank"], at_random, strict=True)]
        gain = "" if sampler == "random" else spread(gains, "+.4f")
        seconds = f"{statistics.mean(values['seconds']):.1f}"
        rows.append([f"{size}, {sampler}", *cells, gain, seconds])
    header = ["batch, sampler", *METRICS.values(), "MRR's gain by seed", "s an epoch"]
    title = (
        f"{len(args.seeds)} seeds, {args.epochs} epochs, {args.loss}, "
        f"{len(training)} training and {len(held_out)} evaluation pictures"
    )
    show(title, header, rows, args.markdown)


if __name__ == "__main__":
    main()

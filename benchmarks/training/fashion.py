"""Before and after fine-tuning on real product pictures, over several seeds.

    python benchmarks/training/fashion.py ../shared/fashion --seeds 1 2 3

Splits the products by title (no title is on both sides), fine-tunes on one part and searches the
other with its titles, whose pictures are the right answers. Prints each metric's mean and standard
deviation over the seeds: before, after, and mixed by WiSE-FT.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from docarray import DocList
from rich.console import Console
from rich.table import Table

from cliptune.data.tables.reader import read_csv
from cliptune.documents import ClipDoc
from cliptune.evaluation.retrieval import evaluate
from cliptune.inference import get_tower
from cliptune.models.loading import load_model
from cliptune.models.wise_ft import interpolate
from cliptune.training import TrainingOptions, train
from cliptune.training.run_logger import StandardRunLogger

SHOWN = (
    "precision_at_k",
    "hit_at_k",
    "average_precision",
    "reciprocal_rank",
    "dcg_at_k",
    "recall_at_k",
    "ndcg_at_k",
)


def split_by_title(
    docs: DocList[ClipDoc], part: float, seed: int
) -> tuple[DocList[ClipDoc], DocList[ClipDoc]]:
    """`part` of the titles with all their pictures aside: (training, evaluation)."""
    titles = sorted({str(doc.text) for doc in docs})
    order = np.random.default_rng(seed).permutation(len(titles))
    aside = {titles[i] for i in order[: round(part * len(titles))]}
    training = DocList[ClipDoc]([doc for doc in docs if doc.text not in aside])
    return training, DocList[ClipDoc]([doc for doc in docs if doc.text in aside])


def measure(
    model_name: str | Path, docs: DocList[ClipDoc], alpha: float | None = None
) -> dict[str, float]:
    """The metrics of a model (mixed with its base by `alpha`) on held-out products."""
    model = load_model(model_name)
    if alpha is not None:
        base = load_model(model.base).clip.state_dict()
        model.clip.load_state_dict(interpolate(base, model.clip.state_dict(), alpha))
    queries = DocList[ClipDoc](
        [ClipDoc(text=title, label=title) for title in sorted({str(doc.text) for doc in docs})]
    )
    towers = get_tower(model, "clip-text"), get_tower(model, "clip-vision")
    return evaluate(*towers, queries, docs, limit=20).metrics


def main() -> None:
    """Run all seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="with products.csv and images/<id>.jpg")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=None)
    parser.add_argument("--held-out", type=float, default=0.25)
    args = parser.parse_args()
    options = {"text_column": "productDisplayName", "image_template": "images/{id}.jpg"}
    docs = read_csv(args.folder / "products.csv", options)
    results: dict[str, list[dict[str, float]]] = {"before": [], "after": [], "WiSE-FT 0.5": []}
    seconds = []
    for seed in args.seeds:
        training, held_out = split_by_title(docs, args.held_out, seed)
        with tempfile.TemporaryDirectory() as scratch:
            started = time.monotonic()
            settings = TrainingOptions.parse(
                {
                    "epochs": args.epochs,
                    "seed": seed,
                    "batch_size": args.batch_size,
                    "learning_rate": args.learning_rate,
                }
            )
            train(settings, training, None, [], Path(scratch), StandardRunLogger())
            seconds.append(time.monotonic() - started)
            artifact = Path(scratch) / "artifact"
            results["before"].append(measure("builtin", held_out))
            results["after"].append(measure(artifact, held_out))
            results["WiSE-FT 0.5"].append(measure(artifact, held_out, 0.5))
    table = Table("metric (k = 20)", *results, "gain", title=f"{len(args.seeds)} seeds")
    for name in SHOWN:
        cells, means = [], []
        for runs in results.values():
            values = [run[name] for run in runs]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            means.append(statistics.mean(values))
            cells.append(f"{means[-1]:.4f} ± {spread:.4f}")
        table.add_row(name, *cells, f"x {means[1] / max(means[0], 1e-9):.2f}")
    console = Console(width=110)
    console.print(table)
    console.print(
        f"{len(training)} training and {len(held_out)} evaluation pictures, {args.epochs} epochs, "
        f"training took {statistics.mean(seconds):.0f} s a seed"
    )


if __name__ == "__main__":
    main()

"""What each part of the training recipe is worth: an ablation on catalogues of several sizes.

    python benchmarks/training/recipe.py train ../shared/fashion_large runs.jsonl \\
        --products 2000 --seeds 1 --try default --try 'batch 64={"batch_size": 64}'
    python benchmarks/training/recipe.py open-clip ../shared/fashion_large runs.jsonl \\
        --products 6000 --seeds 1 --learning-rates 5e-4 1e-3 2e-3
    python benchmarks/training/recipe.py table runs.jsonl --against default

`products.py` splits the products by title. Each run trains the built-in model on a small catalogue
with options of `TrainingOptions`, all others as they are by default, and searches the test
pictures with the test titles, and the validation pictures with theirs. It is kept as one line of
JSON as soon as it is done, with each query's metrics: what is there already is not trained again,
so that a benchmark can be stopped and gone on with. Decoded pictures are kept in the cache.

Choices are made by the validation part; the table shows the test part. An interval is a paired
bootstrap over queries of the mean over seeds (95 %).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from docarray import DocList
from numpy.typing import NDArray
from products import Product, Split, documents, read_products, split_products
from programs import Task, open_clip_train
from results import show

from cliptune.data.equivalence import KeyedDocs, same_labels
from cliptune.documents import ClipDoc
from cliptune.evaluation.bootstrap import compare_means
from cliptune.evaluation.metrics import per_query_metrics
from cliptune.evaluation.retrieval import evaluate, text_keys_of
from cliptune.inference import get_tower
from cliptune.models.loading import ClipModel, load_model
from cliptune.training import TrainingOptions, train
from cliptune.training.callbacks import Callback
from cliptune.training.run_logger import StandardRunLogger

METRICS = {
    "reciprocal_rank": "MRR",
    "recall_at_k_textbook": "recall@20",
    "ndcg_at_k_textbook": "nDCG@20",
}
LIMIT = 20
BEFORE = "before training"
PerQuery = dict[str, list[float]]


@dataclass(frozen=True)
class Run:
    """One training and what it found, a line of the file."""

    name: str
    products: int
    seed: int
    options: dict[str, Any]
    validation: PerQuery
    test: PerQuery

    @property
    def key(self) -> tuple[str, int, int]:
        """What no other run of the file shares."""
        return self.name, self.products, self.seed


class Bench:
    """The data, and the file of finished runs."""

    def __init__(self, split: Split, out: Path) -> None:
        """Go on with the runs in `out`, if there are some."""
        self.split, self.out = split, out
        self.done = {run.key for run in read_runs(out)}

    def before(self) -> None:
        """Measure the model that all runs start from."""
        if (BEFORE, 0, 0) not in self.done:
            self.keep(BEFORE, 0, 0, {}, load_model("builtin"))

    def run(
        self,
        name: str,
        products: int,
        seed: int,
        options: dict[str, Any],
        callbacks: Sequence[Callback] = (),
        more: Iterable[ClipDoc] = (),
    ) -> None:
        """Train on the first `products` of the training part, unless that was done before.

        `more` documents are trained on beside them.
        """
        if (name, products, seed) in self.done:
            return
        settings = TrainingOptions.parse({**options, "seed": seed})
        docs = documents(self.split.catalogue(products))
        docs.extend(more)
        with tempfile.TemporaryDirectory() as scratch:
            train(settings, docs, None, callbacks, Path(scratch), StandardRunLogger())
            model = load_model(Path(scratch) / "artifact")
        self.keep(name, products, seed, options, model)

    def open_clip(self, products: int, seed: int, epochs: int, rate: float, size: int) -> None:
        """Train with `open_clip_train` at the peak `rate` and batch `size`, likewise."""
        options = {"epochs": epochs, "learning_rate": rate, "batch_size": size}
        name = f"open_clip_train {rate:g}, batch {size}"
        if (name, products, seed) in self.done:
            return
        with tempfile.TemporaryDirectory() as scratch:
            pictures, folder = Path(scratch) / "pictures", Path(scratch) / "run"
            pictures.mkdir()
            folder.mkdir()
            docs = with_files(self.split.catalogue(products), pictures)
            done = open_clip_train(Task(docs, epochs, size, seed), folder, rate, workers=1)
            model = load_model(done.model)
        self.keep(name, products, seed, options, model)

    def keep(
        self, name: str, products: int, seed: int, options: dict[str, Any], model: ClipModel
    ) -> None:
        """Measure what came out of a run, and write it down, unless that was done before."""
        if (name, products, seed) in self.done:
            return
        sides = (measure(model, side) for side in (self.split.validation, self.split.test))
        run = Run(name, products, seed, options, *sides)
        with self.out.open("a") as file:
            file.write(json.dumps(asdict(run)) + "\n")
        self.done.add(run.key)
        print(f"{run.name}, {run.products} products, seed {run.seed}: {summary(run)}", flush=True)


def measure(model: ClipModel, products: Sequence[Product]) -> PerQuery:
    """`METRICS` for each title that searches the pictures of `products`; its own are right."""
    towers = get_tower(model, "clip-text"), get_tower(model, "clip-vision")
    keyed = KeyedDocs.of(documents(products), text_keys_of(*towers))
    labels = [str(label) for label in same_labels(keyed)[0]]
    docs = keyed.labelled(labels)
    queries = DocList[ClipDoc]({str(doc.text).casefold(): doc for doc in docs}.values())
    found = evaluate(*towers, queries, docs, limit=LIMIT)
    counts = Counter(labels)
    right = [counts[str(doc.label)] for doc in queries]
    values = per_query_metrics(found.hits, right, limit=LIMIT)
    return {name: values[name].round(4).tolist() for name in METRICS}


def with_files(products: Sequence[Product], folder: Path) -> DocList[ClipDoc]:
    """The products with their pictures as files in `folder`."""
    docs = DocList[ClipDoc]()
    for doc in documents(products):
        path = folder / f"{doc.id}.jpg"
        path.write_bytes(doc.image or b"")
        docs.append(ClipDoc(id=doc.id, text=doc.text, uri=str(path)))
    return docs


def read_runs(path: Path) -> Iterator[Run]:
    """The finished runs in `path`."""
    if path.exists():
        for line in path.read_text().splitlines():
            yield Run(**json.loads(line))


def summary(run: Run) -> str:
    """The means of a run."""
    parts = {"validation": run.validation, "test": run.test}
    return ", ".join(
        f"{label} {np.mean(values[name]):.4f} ({part})"
        for part, values in parts.items()
        for name, label in METRICS.items()
    )


def mean_over_seeds(runs: Sequence[Run]) -> dict[str, NDArray[np.float64]]:
    """Each metric on the test part, for each query the mean over seeds."""
    return {name: np.mean([run.test[name] for run in runs], axis=0) for name in METRICS}


def table(runs: Sequence[Run], against: str) -> list[list[str]]:
    """A row for each variant and size: its means, and its difference to the variant `against`."""
    groups: dict[tuple[int, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.products, run.name].append(run)
    rows = []
    for (products, name), found in sorted(groups.items(), key=lambda item: item[0][0]):
        of_seed = {run.seed: run for run in groups.get((products, against), [])}
        shared = [run for run in found if run.seed in of_seed]
        validation = np.mean([run.validation["reciprocal_rank"] for run in found])
        test = mean_over_seeds(found)
        cells = [f"{test[metric].mean():.4f}" for metric in METRICS]
        gain = ""
        if shared and name != against:
            base = mean_over_seeds([of_seed[run.seed] for run in shared])
            change = compare_means(base, mean_over_seeds(shared))["reciprocal_rank"]
            difference = change.difference
            gain = (
                f"{difference.mean:+.4f} ({difference.low:+.4f} to {difference.high:+.4f}), "
                f"× {change.after.mean / change.before.mean:.2f}"
            )
        rows.append([name, str(products), str(len(found)), f"{validation:.4f}", *cells, gain])
    return rows


def variant(text: str) -> tuple[str, dict[str, Any]]:
    """`NAME` or `NAME={…}`: a variant's name and its options."""
    name, _, options = text.partition("=")
    return name.strip(), json.loads(options or "{}")


def main() -> None:
    """Train, or show what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train and measure what is not done yet")
    training.add_argument("folder", type=Path, help="with parquet files of products")
    training.add_argument("out", type=Path, help="the JSON lines of finished runs")
    training.add_argument("--products", type=int, nargs="+", default=[2000])
    training.add_argument("--seeds", type=int, nargs="+", default=[1])
    training.add_argument("--try", type=variant, action="append", dest="variants", required=True)
    theirs = commands.add_parser("open-clip", help="the same with open_clip_train")
    theirs.add_argument("folder", type=Path, help="with parquet files of products")
    theirs.add_argument("out", type=Path, help="the JSON lines of finished runs")
    theirs.add_argument("--products", type=int, nargs="+", default=[6000])
    theirs.add_argument("--seeds", type=int, nargs="+", default=[1])
    theirs.add_argument("--epochs", type=int, default=5)
    theirs.add_argument("--learning-rates", type=float, nargs="+", default=[1e-3])
    theirs.add_argument("--batch-sizes", type=int, nargs="+", default=[128])
    shown = commands.add_parser("table", help="print the Markdown table")
    shown.add_argument("out", type=Path)
    shown.add_argument("--against", default="default")
    args = parser.parse_args()

    if args.command == "table":
        header = ["variant", "products", "seeds", "MRR (validation)", *METRICS.values()]
        rows = table(list(read_runs(args.out)), args.against)
        show("Test products", [*header, f"MRR against {args.against!r}"], rows, markdown=True)
        return
    bench = Bench(split_products(read_products(args.folder)), args.out)
    bench.before()
    for products, seed in product(args.products, args.seeds):
        if args.command == "train":
            for name, options in args.variants:
                bench.run(name, products, seed, options)
        else:
            for rate, size in product(args.learning_rates, args.batch_sizes):
                bench.open_clip(products, seed, args.epochs, rate, size)


if __name__ == "__main__":
    main()

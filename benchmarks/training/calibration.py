"""What a cosine means: the logistic curve beside isotonic regression, on queries of neither.

    python benchmarks/training/calibration.py ../shared/fashion_large --products 6000 --epochs 3

The built-in model is trained on a part of the products (split by title, `products.py`). Titles of
the rest search the rest's pictures; those of one title are right. Curves are made of the results of
one half of the queries and measured on the other half's. Printed is, for each way and number of
queries to learn from, the expected calibration error, the Brier score, and what `min_relevance=0.5`
shows; then what becomes of a curve where it is used on an index of another size. scikit-learn does
the isotonic regression. Embeddings are kept in `--cache`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from docarray import DocList
from numpy.typing import NDArray
from products import documents, read_products, split_products
from results import show
from sklearn.isotonic import IsotonicRegression

from cliptune.documents import ClipDoc
from cliptune.evaluation.calibration import fit_logistic, reliability
from cliptune.evaluation.retrieval import Evaluation, evaluate_embeddings
from cliptune.inference import get_tower
from cliptune.models.loading import load_model
from cliptune.training import TrainingOptions, train
from cliptune.training.run_logger import StandardRunLogger

LIMIT = 20
Floats = NDArray[np.float64]
Curve = Callable[[Floats], Floats]


def embed(folder: Path, products: int, epochs: int, cache: Path) -> dict[str, Any]:
    """Train, and embed what was not trained on: queries, pictures, and their labels."""
    if cache.is_file():
        return dict(np.load(cache))
    split = split_products(read_products(folder))
    options = TrainingOptions.parse({"epochs": epochs})
    with tempfile.TemporaryDirectory() as scratch:
        docs = documents(split.catalogue(products))
        train(options, docs, None, [], Path(scratch), StandardRunLogger())
        model = load_model(Path(scratch) / "artifact")
    rest = documents([*split.validation, *split.test])
    labels = [str(doc.text).casefold() for doc in rest]
    queries = DocList[ClipDoc](dict(zip(labels, rest, strict=True)).values())
    pictures = [doc.image for doc in rest]
    made = {
        "queries": get_tower(model, "clip-text").encode([str(doc.text) for doc in queries]),
        "query_labels": np.array([str(doc.text).casefold() for doc in queries]),
        "index": get_tower(model, "clip-vision").encode(pictures),
        "index_labels": np.array(labels),
    }
    np.savez(cache, allow_pickle=False, **made)
    return made


def search(data: dict[str, Any], queries: NDArray[np.int64], rows: NDArray[np.int64]) -> Evaluation:
    """What these queries find among these pictures."""
    return evaluate_embeddings(
        data["queries"][queries],
        data["query_labels"][queries],
        data["index"][rows],
        data["index_labels"][rows],
        limit=LIMIT,
    )


def results(found: Evaluation) -> tuple[Floats, NDArray[np.bool_]]:
    """All results: their cosines, and whether they are right."""
    there = found.ids >= 0
    return found.scores[there].astype(np.float64), found.hits[there]


def logistic(cosines: Floats, hits: NDArray[np.bool_]) -> Curve:
    """As cliptune does it."""
    slope, intercept = fit_logistic(cosines, hits)
    return lambda x: 1 / (1 + np.exp(-(slope * x + intercept)))


def isotonic(cosines: Floats, hits: NDArray[np.bool_]) -> Curve:
    """By scikit-learn."""
    fitted = IsotonicRegression(out_of_bounds="clip").fit(cosines, hits)
    return lambda x: np.asarray(fitted.predict(x), dtype=np.float64)


def row(curve: Curve, found: Evaluation) -> list[str]:
    """A curve's figures on results that it was not made of."""
    cosines, hits = results(found)
    said = curve(cosines)
    _, error = reliability(said, hits)
    shown = said >= 0.5
    right = f"{hits[shown].mean():.3f}" if shown.any() else "–"
    kept = f"{(hits & shown).sum() / hits.sum():.3f}"
    return [f"{error:.4f}", f"{((said - hits) ** 2).mean():.4f}", right, kept]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path, help="with parquet files of products")
    parser.add_argument("--products", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path("calibration.npz"))
    args = parser.parse_args()

    data = embed(args.folder, args.products, args.epochs, args.cache)
    draw = np.random.default_rng(0)
    queries = draw.permutation(len(data["queries"]))
    half = len(queries) // 2
    everything = np.arange(len(data["index"]))
    test = search(data, queries[half:], everything)
    hits = results(test)[1]
    print(
        f"{len(queries)} queries, {len(everything)} pictures, the best {LIMIT}: {hits.mean():.3f} "
        f"of the results are right; MRR {test.metrics['reciprocal_rank']:.3f}"
    )
    rows = []
    for count in (200, 500, half):
        made = results(search(data, queries[:count], everything))
        for name, way in (("logistic", logistic), ("isotonic", isotonic)):
            rows.append([name, str(count), str(int(made[1].sum())), *row(way(*made), test)])
    figures = ["ECE", "Brier", "right of shown", "right kept"]
    show("On held-out queries", ["curve", "queries", "right", *figures], rows, markdown=True)

    # A part of the pictures, and of the queries those whose answers are among them.
    rows = []
    for part in (8, 4, 2, 1):
        labels = data["index_labels"]
        kept = np.flatnonzero(np.isin(labels, draw.permutation(np.unique(labels))[::part]))
        asked = np.flatnonzero(np.isin(data["query_labels"], labels[kept]))
        asked = np.intersect1d(asked, queries[:half])
        curve = logistic(*results(search(data, asked, kept)))
        own = np.intersect1d(
            np.flatnonzero(np.isin(data["query_labels"], labels[kept])), queries[half:]
        )
        rows.append([str(len(kept)), row(curve, search(data, own, kept))[0], *row(curve, test)])
    show(
        "Made on a smaller index, used on all of it",
        ["pictures", "ECE there", *figures],
        rows,
        markdown=True,
    )


if __name__ == "__main__":
    main()

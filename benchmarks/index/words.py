"""What is found by meaning, by words, and by both: recall, nDCG and time, on real products.

    cliptune fit TRAIN --out artifact      # the first two of fashion_large's tables
    python benchmarks/index/words.py ../shared/fashion_large --model artifact --markdown

The documents are the tables from the third on, which the model has not seen, found by their
pictures' embeddings and by the words of their titles (and tags, in the second table). Three kinds
of queries are drawn from them: whole titles (right: the products of that title), a brand with a
type, "Puma casual shoes" (right: titles that begin so, of that article type), and attributes,
"black sports shoes women" (right: products with that colour, usage, and audience in the title).
A kind's queries have at most 50 right answers. recall@10 is of the ten at most that could be found.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from docarray import DocList

from cliptune.documents import ClipDoc
from cliptune.index import Index, open_index
from cliptune.inference import get_tower

sys.path.append(str(Path(__file__).parents[1] / "training"))
from results import add_output_options, show, write

K = 10
TAGS = ("master_category", "sub_category", "article_type", "colour", "usage")
Row = dict[str, Any]
WAYS: dict[str, dict[str, Any]] = {
    "meaning": {},
    "words": {"texts": True, "alpha": 0.0},
    "both, rank fusion": {"texts": True},
    "both, alpha 0.3": {"texts": True, "alpha": 0.3},
    "both, alpha 0.5": {"texts": True, "alpha": 0.5},
    "both, alpha 0.7": {"texts": True, "alpha": 0.7},
}


def by_brand(row: Row) -> str:
    """The first word of a title, and the type."""
    return f"{row['title'].split()[0]} {row['article_type']}".lower()


def by_attributes(row: Row) -> str | None:
    """Colour, usage, type, and for whom, as a customer might type them."""
    audience = next((w for w in ("Women", "Men", "Boys", "Girls") if w in row["title"]), None)
    if audience is None or not row["colour"] or not row["usage"]:
        return None
    return f"{row['colour']} {row['usage']} {row['article_type']} {audience}".lower()


KINDS: dict[str, Callable[[Row], str | None]] = {
    "whole titles": lambda row: row["title"],
    "brand and type": by_brand,
    "attributes": by_attributes,
}


def queries(rows: list[Row], kind: Callable[[Row], str | None], count: int) -> dict[str, set[str]]:
    """Queries with the ids that are right answers, drawn evenly over the distinct ones."""
    right: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if text := kind(row):
            right[text].add(row["id"])
    fit = sorted(text for text, ids in right.items() if len(ids) <= 50)
    drawn = np.random.default_rng(0).permutation(len(fit))[:count]
    return {fit[at]: right[fit[at]] for at in drawn}


def scores(found: list[str], right: set[str]) -> tuple[float, float]:
    """recall@K and nDCG@K of one query."""
    hits = np.array([identity in right for identity in found[:K]], float)
    most = min(K, len(right))
    discounts = 1 / np.log2(np.arange(2, K + 2))
    return hits.sum() / most, float(hits @ discounts[: len(hits)] / discounts[:most].sum())


def measure(index: Index, digest: str, asked: dict[str, set[str]], embedded: np.ndarray) -> Any:
    """By way: recall, nDCG, and the median milliseconds of a query."""
    figures = {}
    for way, options in WAYS.items():
        taken, got = [], []
        for (text, right), query in zip(asked.items(), embedded, strict=True):
            given = {**options, "texts": [text]} if options else {}
            began = time.perf_counter()
            [matches] = index.search(query[None], digest, limit=K, **given)
            taken.append(time.perf_counter() - began)
            got.append(scores([str(match.id) for match in matches], right))
        recall, ndcg = np.mean(got, axis=0)
        figures[way] = [float(recall), float(ndcg), statistics.median(taken) * 1000]
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("tables", type=Path, help="the folder of fashion_large")
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--queries", type=int, default=300, help="of each kind")
    add_output_options(parser)
    args = parser.parse_args()

    files = sorted(args.tables.glob("*.parquet"))[2:]
    rows: list[Row] = [row for path in files for row in pq.read_table(path).to_pylist()]
    texts, pictures = (get_tower(args.model, kind) for kind in ("clip-text", "clip-vision"))
    embeddings = pictures.encode([row["image"]["bytes"] for row in rows])
    asked = {name: queries(rows, kind, args.queries) for name, kind in KINDS.items()}
    figures: dict[str, Any] = {"documents": len(rows), "tables": {}}
    for what, tags in (("titles", ()), ("titles and tags", TAGS)):
        with tempfile.TemporaryDirectory() as folder, open_index(folder, fsync=False) as index:
            index.add(
                DocList[ClipDoc](
                    ClipDoc(
                        id=f"product-{row['id']}",
                        text=row["title"],
                        tags={name: row[name] for name in tags},
                        embedding=embedding,
                        model_digest=pictures.digest,
                    )
                    for row, embedding in zip(rows, embeddings, strict=True)
                )
            )
            index.optimize()
            for kind, given in asked.items():
                named = {text: {f"product-{one}" for one in right} for text, right in given.items()}
                embedded = texts.encode(list(named))
                by_way = measure(index, pictures.digest, named, embedded)
                figures["tables"][f"{kind}; words of {what}"] = by_way
                table = [
                    [way, f"{recall:.3f}", f"{ndcg:.3f}", f"{taken:.1f}"]
                    for way, (recall, ndcg, taken) in by_way.items()
                ]
                header = ["", f"recall@{K}", f"nDCG@{K}", "p50, ms"]
                title = f"{len(given)} {kind}, {len(rows):,} documents, words of {what}"
                show(title, header, table, args.markdown)
    write(args.out, figures)


if __name__ == "__main__":
    main()

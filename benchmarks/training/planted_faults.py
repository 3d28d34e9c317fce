"""How many swapped titles and labels `cliptune data suspects` finds, and how often it is wrong.

    python benchmarks/training/planted_faults.py ../shared/fashion_large --products 6000

Of products that no training here sees (the validation and test parts of `products.py`) some titles
change places with each other, and some labels (the article type), at random: some of them fit
their new picture, too. Precision is the part of the suspects that were swapped, recall the part of
the swapped that are suspected. What is wrong in the data itself counts as a mistake.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from products import documents, read_products, split_products
from results import show

from cliptune.curation.embedded import EmbeddedPairs, embed_pairs
from cliptune.curation.suspects import BY_LABEL, BY_TITLE, SuspectOptions, find_suspects
from cliptune.inference.engines import both_towers

SEED = 0


def swapped(count: int, part: float, random: np.random.Generator) -> NDArray[np.int64]:
    """[count]: whose value each row has now: `part` of them another one's."""
    rows = random.choice(count, round(part * count), replace=False)
    places = np.arange(count)
    places[rows] = np.roll(rows, 1)
    return places


def plant(pairs: EmbeddedPairs, types: Sequence[str], part: float) -> dict[str, set[int]]:
    """Swap titles and labels; returns by reason the pairs that have another one now."""
    random = np.random.default_rng(SEED)
    titles, labels = (swapped(len(pairs), part, random) for _ in range(2))
    wrong = {
        BY_TITLE: set(np.flatnonzero(pairs.title_of[titles] != pairs.title_of).tolist()),
        BY_LABEL: {n for n, other in enumerate(labels) if types[n] != types[other]},
    }
    texts = [doc.text for doc in pairs.docs]
    pairs.title_of[:] = pairs.title_of[titles]
    for doc, title, label in zip(pairs.docs, titles, labels, strict=True):
        doc.text, doc.label = texts[title], types[label]
    return wrong


def main() -> None:
    """Plant, look, count."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path, help="with parquet files of products")
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--products", type=int, default=6000)
    parser.add_argument("--part", type=float, default=0.05, help="that is swapped, of each")
    parser.add_argument("--most", type=int, nargs="+", default=[60, 300, 6000])
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args()

    split = split_products(read_products(args.folder))
    products = [*split.test, *split.validation][: args.products]
    pairs = embed_pairs(documents(products), *both_towers(args.model))
    wrong = plant(pairs, [products[row].article_type for row in pairs.rows], args.part)
    rows = []
    for most in args.most:
        found = find_suspects(pairs, SuspectOptions(most=most))
        for reason, planted in wrong.items():
            suspected = {one.position for one in found if one.reason == reason}
            right = len(suspected & planted)
            rows.append(
                [f"{reason}s, at most {most}", str(len(planted)), str(len(suspected)),
                 f"{right / max(1, len(suspected)):.2f}", f"{right / max(1, len(planted)):.2f}"]
            )  # fmt: skip
    title = f"{len(pairs)} products, {args.model}, {args.part:.0%} swapped"
    show(title, ["", "swapped", "suspected", "precision", "recall"], rows, args.markdown)


if __name__ == "__main__":
    main()

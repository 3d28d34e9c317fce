"""24,000 real products from parquet files, split by title into training, validation and test.

The split is the same for all who measure: titles are shuffled with a fixed seed, then test and
validation each take titles with all their products until they have enough. Small catalogues are
the first products of the training part, so that a smaller one lies within each larger one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from docarray import DocList

from cliptune.documents import ClipDoc

SPLIT_SEED = 0
TEST, VALIDATION = 4_000, 2_000
"""Products in each part; the rest, about 18,000 of 24,000, is for training."""


@dataclass(frozen=True)
class Product:
    """One row of the table."""

    doc: ClipDoc
    article_type: str
    colour: str


@dataclass(frozen=True)
class Split:
    """The three parts; no title is in two of them."""

    training: list[Product]
    validation: list[Product]
    test: list[Product]

    def catalogue(self, count: int) -> list[Product]:
        """The first `count` training products."""
        if count > len(self.training):
            raise ValueError(f"{count} products asked for, and there are {len(self.training)}")
        return self.training[:count]


def read_products(folder: Path) -> list[Product]:
    """The products in the parquet files of `folder`, in their order."""
    columns = ["id", "title", "article_type", "colour", "image"]
    return [
        Product(
            ClipDoc(id=row["id"], text=row["title"], image=row["image"]["bytes"]),
            row["article_type"],
            row["colour"],
        )
        for path in sorted(folder.glob("*.parquet"))
        for row in pq.read_table(path, columns=columns).to_pylist()
    ]


def split_products(products: list[Product]) -> Split:
    """Split by title, upper and lower case alike."""
    of_title: dict[str, list[Product]] = defaultdict(list)
    for product in products:
        of_title[" ".join(str(product.doc.text).casefold().split())].append(product)
    titles = sorted(of_title)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(titles))
    shuffled = [product for i in order for product in of_title[titles[i]]]
    # A part ends where a title ends.
    starts = np.cumsum([0, *(len(of_title[titles[i]]) for i in order)])
    first = int(starts[np.searchsorted(starts, TEST)])
    second = int(starts[np.searchsorted(starts, TEST + VALIDATION)])
    return Split(shuffled[second:], shuffled[first:second], shuffled[:first])


def documents(products: Sequence[Product]) -> DocList[ClipDoc]:
    """Titles and pictures, without any other column."""
    return DocList[ClipDoc]([product.doc for product in products])

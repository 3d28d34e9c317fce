"""Documents to index by the million: clustered embeddings, titles and tags, made block by block.

Nothing is kept: any block is drawn again from its number, so that a million documents take the
memory of one block, and every store is given the same ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from docarray import DocList

from cliptune.documents import ClipDoc

DIM = 512
BLOCK = 5_000
"""Documents in a block."""
CLUSTERS = 2_000
SPREAD = 0.9
"""Standard deviation within a cluster, of one between the centres: the cosine of two documents is
about 0.55 within a cluster and about 0 ± 0.04 across them, as far apart as CLIP's groups are."""
SHARES = 100
"""The tag `share` takes so many values: a filter on one of them leaves 1 %."""
DIGEST = hashlib.sha256(b"drawn, by no model").hexdigest()
_COLOURS = ("red", "blue", "green", "black", "white", "yellow", "grey", "brown")
_THINGS = ("rain boots", "summer dress", "wool coat", "running shoes", "leather bag", "scarf")


def _centres() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((CLUSTERS, DIM), dtype=np.float32)


def _near(rng: np.random.Generator, centres: np.ndarray, count: int) -> np.ndarray:
    vectors = rng.standard_normal((count, DIM), dtype=np.float32)
    vectors *= SPREAD
    vectors += centres[rng.integers(0, CLUSTERS, count)]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def blocks(rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """(number of its first document, float32 [BLOCK, DIM] of unit length) up to `rows`."""
    centres = _centres()
    for start in range(0, rows, BLOCK):
        vectors = _near(np.random.default_rng([1, start]), centres, BLOCK)
        yield start, vectors[: rows - start]


def queries(count: int) -> np.ndarray:
    """float32 [count, DIM] of unit length, from the same clusters, none of them a document."""
    return _near(np.random.default_rng(2), _centres(), count)


def identifier(number: int) -> str:
    """The id of a document."""
    return f"p{number:08d}"


def title(number: int) -> str:
    """The title of a document."""
    return f"{_COLOURS[number % 8]} {_THINGS[number % 6]} no. {number}"


def share(number: int) -> int:
    """The value of the tag `share`: spread evenly, whatever the cluster."""
    return number * 7919 % SHARES


def documents(start: int, vectors: np.ndarray) -> DocList[ClipDoc]:
    """Documents of the embeddings `vectors`, numbered from `start`."""
    return DocList[ClipDoc](
        ClipDoc(
            id=identifier(number),
            text=title(number),
            uri=f"pictures/{number % 1000:03d}/{number}.jpg",
            tags={
                "price": number % 20_000 / 100,
                "brand": f"brand {number % 50}",
                "sizes": ["S", "M", "L"][: 1 + number % 3],
                "share": share(number),
            },
            embedding=vector,
            model_digest=DIGEST,
        )
        for number, vector in enumerate(vectors, start)
    )


def nearest(rows: int, asked: np.ndarray, k: int, only_share: int | None = None) -> np.ndarray:
    """By brute force, the numbers of the `k` documents nearest to each query: int64 [Q, k].

    With `only_share`, among the documents with this `share` alone.
    """
    scores = np.full((len(asked), 0), 0, np.float32)
    numbers = np.zeros((len(asked), 0), np.int64)
    for start, vectors in blocks(rows):
        among = np.arange(start, start + len(vectors))
        if only_share is not None:
            kept = among * 7919 % SHARES == only_share
            among, vectors = among[kept], vectors[kept]
        scores = np.concatenate([scores, asked @ vectors.T], axis=1)
        numbers = np.concatenate(
            [numbers, np.broadcast_to(among, (len(asked), len(among)))], axis=1
        )
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores = np.take_along_axis(scores, best, axis=1)
        numbers = np.take_along_axis(numbers, best, axis=1)
    return numbers

"""Pairs with embeddings that are made up, so that what is found can be known beforehand."""

from __future__ import annotations

import numpy as np
from docarray import DocList
from numpy.typing import NDArray

from cliptune.curation.embedded import EmbeddedPairs
from cliptune.documents import ClipDoc


def unit(values: NDArray) -> NDArray[np.float32]:
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


def random_pairs(
    n_titles: int = 60,
    n_pictures: int = 90,
    dim: int = 16,
    seed: int = 0,
    noise: float = 0.7,
    n_groups: int | None = None,
) -> EmbeddedPairs:
    """Pictures near their title, several of some titles; `n_groups` labels, or one a title."""
    random = np.random.default_rng(seed)
    titles = unit(random.standard_normal((n_titles, dim)))
    title_of = np.concatenate(
        [np.arange(n_titles), random.integers(0, n_titles, n_pictures - n_titles)]
    )
    pictures = unit(titles[title_of] + noise * unit(random.standard_normal((n_pictures, dim))))
    groups = title_of if n_groups is None else title_of % n_groups
    docs = DocList[ClipDoc](
        [ClipDoc(id=f"p{n}", text=f"title {title}") for n, title in enumerate(title_of)]
    )
    return EmbeddedPairs(
        docs, list(range(n_pictures)), groups, title_of, np.arange(n_pictures), titles, pictures
    )

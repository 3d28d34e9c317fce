"""Stores under test, and documents to put into them."""

from __future__ import annotations

from typing import Any

import numpy as np
from docarray import DocList

from cliptune.documents import ClipDoc

DIGEST = "a" * 64
OTHER_DIGEST = "b" * 64
DIM = 8


def vector(seed: int, dim: int = DIM) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(dim).astype(np.float32)


def doc(id: str, seed: int | None = None, **fields: Any) -> ClipDoc:
    """A document whose embedding follows from its id, or from `seed`."""
    if "embedding" not in fields:
        number = int.from_bytes(id.encode()[:8], "big") if seed is None else seed
        fields["embedding"] = vector(number)
    return ClipDoc(id=id, **{"model_digest": DIGEST, **fields})


def docs(*given: ClipDoc) -> DocList[ClipDoc]:
    return DocList[ClipDoc](given)


def cosine(queries: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
    """The reference: float64 [Q, N]."""
    q, e = queries.astype(np.float64), embeddings.astype(np.float64)
    q /= np.linalg.norm(q, axis=1, keepdims=True)
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    return q @ e.T

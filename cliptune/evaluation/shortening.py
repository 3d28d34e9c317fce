"""What is still found by embeddings of fewer bytes: their first numbers, integers, signs.

See `cliptune.models.shorten` and `cliptune.quantization`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack, get_args

import numpy as np
from numpy.typing import NDArray

from cliptune.evaluation.retrieval import Evaluation
from cliptune.evaluation.search_task import Embedded, SearchTask
from cliptune.evaluation.topk import Embeddings, SearchOptions, top_k
from cliptune.inference.towers import first_numbers
from cliptune.models.shorten import check_dimensions
from cliptune.quantization import OutputDtype, dequantize_embeddings, quantize_embeddings

CANDIDATES = 4
"""How many times k documents that signs find are put in order by the query's floats."""
_QUERIES_AT_ONCE = 64


def default_lengths(dimensions: int) -> list[int]:
    """Halves of `dimensions` down to an eighth, longest first."""
    return [dimensions // part for part in (2, 4, 8) if dimensions // part]


def bytes_of(dimensions: int, output_dtype: OutputDtype) -> int:
    """The bytes that an embedding of `dimensions` numbers takes."""
    return quantize_embeddings(np.zeros(dimensions, np.float32), output_dtype).nbytes


def measure_shortened(
    task: SearchTask, embedded: Embedded, lengths: Sequence[int], *, limit: int
) -> dict[tuple[int, OutputDtype], Evaluation]:
    """The evaluation by whole embeddings, and by shorter ones, longest first.

    Queries are floats. `int8` is compared with them by cosine, `ubinary` as `top_k_by_signs` does.

    Args:
        task: the search.
        embedded: its queries and what they search.
        lengths: numbers of embeddings that are kept, each in every type.
        limit: k, results that count.

    Raises:
        BadInput: a length is greater than that of the embeddings.
    """
    whole = embedded[0].shape[1]
    chosen = sorted({whole, *(check_dimensions(length, whole) for length in lengths)}, reverse=True)
    measured = {}
    for length in chosen:
        queries, index = (first_numbers(one, length) for one in embedded)
        for output_dtype in get_args(OutputDtype):
            stored = dequantize_embeddings(quantize_embeddings(index, output_dtype), length)
            search = top_k_by_signs if output_dtype == "ubinary" else top_k
            measured[length, output_dtype] = task.measure(
                queries, stored, limit=limit, search=search
            )
    return measured


def top_k_by_signs(
    query_emb: Embeddings,
    index_emb: Embeddings,
    k: int,
    **options: Unpack[SearchOptions],
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The nearest documents as signs find them, in the order of the queries' floats.

    `CANDIDATES` times k documents of the least Hamming distance between signs are kept; among them
    the best are those of the greatest cosine between a query's floats and a document's signs
    (Yamada et al., 2021). Arguments and what is returned are those of `top_k`; of `index_emb`
    [N, D] only the signs count.
    """
    queries = np.asarray(query_emb, np.float32)
    stored = _signs(index_emb)
    # Of signs, the least Hamming distance is the greatest cosine.
    found, _ = top_k(_signs(queries), stored, CANDIDATES * k, **options)
    lengths = np.linalg.norm(queries, axis=1, keepdims=True) * np.sqrt(queries.shape[1])
    directions = queries / lengths
    scores = np.full(found.shape, -np.inf, np.float32)
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        rows = slice(start, start + _QUERIES_AT_ONCE)
        cosines = np.einsum("qd,qcd->qc", directions[rows], stored[found[rows]], optimize=True)
        scores[rows] = np.where(found[rows] < 0, -np.inf, cosines)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(found, order, 1), np.take_along_axis(scores, order, 1)


def _signs(embeddings: Embeddings) -> NDArray[np.float32]:
    return np.where(np.asarray(embeddings) > 0, np.float32(1), np.float32(-1))

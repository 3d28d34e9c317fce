"""What is still found by the first numbers of embeddings (see `cliptune.models.shorten`)."""

from __future__ import annotations

from collections.abc import Sequence

from cliptune.evaluation.retrieval import Evaluation
from cliptune.evaluation.search_task import Embedded, SearchTask
from cliptune.inference.towers import first_numbers
from cliptune.models.shorten import check_dimensions


def default_lengths(dimensions: int) -> list[int]:
    """Halves of `dimensions` down to an eighth, longest first."""
    return [dimensions // part for part in (2, 4, 8) if dimensions // part]


def measure_lengths(
    task: SearchTask, embedded: Embedded, lengths: Sequence[int], *, limit: int
) -> dict[int, Evaluation]:
    """The evaluation by whole embeddings, and by their first numbers, longest first.

    Args:
        task: the search.
        embedded: its queries and what they search.
        lengths: numbers of embeddings that are kept.
        limit: k, results that count.

    Raises:
        BadInput: a length is greater than that of the embeddings.
    """
    whole = embedded[0].shape[1]
    chosen = sorted({whole, *(check_dimensions(length, whole) for length in lengths)}, reverse=True)
    return {
        length: task.measure(*(first_numbers(one, length) for one in embedded), limit=limit)
        for length in chosen
    }

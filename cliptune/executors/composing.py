"""Queries as the index is asked: of one embedding each, whatever they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cliptune.documents import QueryDoc, QueryPart
from cliptune.errors import BadInput
from cliptune.protocol.limits import name_of_document
from cliptune.protocol.queries import words_of

if TYPE_CHECKING:  # importing it imports LanceDB, which must not happen before Jina's fork
    from cliptune.index import Index

Stored = dict[str, NDArray[np.float32]]
_NOTHING = 1e-4
"""Of a sum's length, relative to the greatest that its weights allow: float32's rounding is far
below, and what is left of embeddings that cancel out is noise."""


@dataclass(frozen=True)
class ModelQueries:
    """The queries of a request that one model has embedded."""

    model_digest: str
    positions: list[int]
    """Their places in the request."""
    embeddings: NDArray[np.float32]
    """float32 [Q, D]"""
    named: list[frozenset[str]]
    """For each query the ids of stored documents that it is made of."""
    texts: list[str]
    """For each query its words: see `queries.words_of`."""


def compose(index: Index, docs: Sequence[QueryDoc]) -> list[ModelQueries]:
    """The queries, model by model.

    There are several models only for a moment, where one encoder has switched to another model
    before the other.

    Raises:
        BadInput: a query has no embedding, an id that isn't there, or parts that cancel out.
        ModelMismatch: the index holds embeddings of another model.
    """
    by_model: dict[str, list[int]] = {}
    for position, doc in enumerate(docs):
        if doc.model_digest is None or (doc.embedding is None and not doc.parts):
            raise BadInput(f"{name_of_document(position, doc)} has neither a text nor a picture")
        by_model.setdefault(doc.model_digest, []).append(position)
    return [_of_model(index, docs, *one) for one in by_model.items()]


def _of_model(
    index: Index, docs: Sequence[QueryDoc], digest: str, positions: list[int]
) -> ModelQueries:
    named = [_ids_of(docs[at], name_of_document(at, docs[at])) for at in positions]
    wanted = sorted(frozenset().union(*named))
    stored = index.embeddings(wanted, digest) if wanted else {}
    embeddings = [_embedding(docs[at], name_of_document(at, docs[at]), stored) for at in positions]
    texts = [words_of(docs[at]) for at in positions]
    return ModelQueries(digest, positions, np.stack(embeddings), named, texts)


def _ids_of(doc: QueryDoc, called: str) -> frozenset[str]:
    from cliptune.index.checks import check_id

    ids = set()
    for number, part in enumerate(doc.parts):
        if part.like is not None:
            try:
                ids.add(check_id(part.like))
            except BadInput as error:
                raise BadInput(f"{called}: part {number}: {error}") from None
    return frozenset(ids)


def _embedding(doc: QueryDoc, called: str, stored: Stored) -> NDArray[np.float32]:
    if not doc.parts:
        return np.asarray(doc.embedding)
    parts = [
        _part_embedding(part, f"{called}: part {number}", stored)
        for number, part in enumerate(doc.parts)
    ]
    try:
        return combine(np.stack(parts), np.array([part.weight for part in doc.parts]))
    except BadInput as error:
        raise BadInput(f"{called}: {error}") from None


def _part_embedding(part: QueryPart, called: str, stored: Stored) -> NDArray[np.float32]:
    if part.like is not None:
        if (embedding := stored.get(part.like)) is None:
            raise BadInput(f"{called}: there is no document {part.like[:100]!r} in the index")
        return embedding
    if part.embedding is None:
        raise BadInput(f"{called} has neither a text nor a picture")
    return np.asarray(part.embedding)


def combine(embeddings: NDArray[np.floating], weights: NDArray[np.floating]) -> NDArray[np.float32]:
    """The unit vector along the weighted sum of the embeddings' unit vectors: float32 [D].

    Args:
        embeddings: float [P, D], of any lengths but zero.
        weights: float [P]: how much each counts; below 0, away from it.

    Raises:
        BadInput: the parts cancel out: the sum has no direction.
    """
    units = np.asarray(embeddings, np.float64)
    units = units / np.linalg.norm(units, axis=1, keepdims=True)
    total = np.asarray(weights, np.float64) @ units
    length = float(np.linalg.norm(total))
    if length <= _NOTHING * float(np.abs(weights).sum()):
        raise BadInput("its parts cancel out: nothing is left to search for")
    return np.asarray(total / length, np.float32)

"""Queries of several parts: what may stand in them."""

from __future__ import annotations

from collections.abc import Iterable

from cliptune.documents import QueryDoc, QueryPart
from cliptune.errors import BadInput
from cliptune.protocol.limits import has_image, has_text, name_of_document

MAX_WEIGHT = 100.0
"""The most that a part counts, and the least below 0."""


def check_queries(docs: Iterable[QueryDoc]) -> None:
    """Refuse queries that mean nothing, before anything of them is embedded.

    Raises:
        BadInput: see `check_parts`; the query is named.
    """
    for position, doc in enumerate(docs):
        if doc.parts:
            try:
                check_parts(doc)
            except BadInput as error:
                raise BadInput(f"{name_of_document(position, doc)}: {error}") from None


def check_parts(doc: QueryDoc) -> None:
    """Refuse a query whose parts mean nothing.

    Raises:
        BadInput: it has parts and a content of its own, or weights that are all 0; a part has not
            exactly one content, or a weight out of range.
    """
    if has_text(doc) or has_image(doc):
        raise BadInput("it has parts, and a text or picture of its own: make that a part, too")
    for number, part in enumerate(doc.parts):
        _check_part(part, f"part {number}")
    if not any(part.weight for part in doc.parts):
        raise BadInput("the weights of its parts are all 0")


def _check_part(part: QueryPart, called: str) -> None:
    contents = [part.like is not None, has_text(part), has_image(part)]
    if sum(contents) != 1:
        raise BadInput(
            f"{called}: expected one of a text, a picture, or the id of a stored document "
            f"(`like`), got {'none' if not any(contents) else 'several: make them several parts'}"
        )
    if not -MAX_WEIGHT <= part.weight <= MAX_WEIGHT:  # so NaN is refused
        raise BadInput(
            f"{called}: weight: expected {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}, got {part.weight!r}"
        )


def words_of(doc: QueryDoc) -> str:
    """The words that are looked for: a query's text, or those of its parts that count above 0."""
    return " ".join(
        str(one.text)
        for one in (doc, *(part for part in doc.parts if part.weight > 0))
        if has_text(one)
    )

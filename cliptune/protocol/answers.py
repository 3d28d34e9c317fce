"""What HTTP answers: from an endpoint's documents to JSON, and what the reference says of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import orjson
from docarray import BaseDoc
from pydantic import BaseModel, Field

from cliptune.documents import SearchResult
from cliptune.protocol.documents import Report, TrainResult
from cliptune.protocol.status import FlowStatus


class FilterWarnings(BaseModel):
    """The answer, with `warnings` beside it."""

    warnings: list[str] = Field(
        description="Sentences about what of the filter can never hold: tags that no document "
        "has, or never of the type compared with, with near matches. Or that the index is empty. "
        "Empty, if there is nothing to say."
    )


class ValueCount(BaseModel):
    """A value, and how many documents have it."""

    value: str | float | bool
    count: int


class RangeCount(BaseModel):
    """How many documents have a number of at least `from` and below `to`."""

    from_: float | None = Field(alias="from", description="Null: whatever is below `to`.")
    to: float | None = Field(description="Null: whatever is not below `from`.")
    count: int


class FacetAnswer(BaseModel):
    """How often the values of a tag occur in what the filter leaves, whatever is searched for."""

    documents: int = Field(description="Documents that have a value.")
    distinct: int = Field(description="Distinct values that they have.")
    values: list[ValueCount] | None = Field(
        None,
        description="The most frequent values, most frequent first. Texts of more than 200 "
        "characters are not listed.",
    )
    ranges: list[RangeCount] | None = Field(None, description="Of numbers, instead of values.")
    min: float | None = Field(None, description="The least number.")
    max: float | None = Field(None, description="The greatest number.")


class SearchAnswer(FilterWarnings):
    """The answer, with `warnings` beside it, and `facets` if they are asked for."""

    facets: dict[str, FacetAnswer] | None = Field(None, description="By tag.")


class TagAnswer(BaseModel):
    """A tag of the documents in the index."""

    name: str = Field(description="As filters have it: `size.width` is a tag in a tag.")
    types: list[Literal["number", "text", "boolean"]]
    documents: int = Field(description="How many documents, of those looked at, have it.")
    coverage: float = Field(description="Their share, 0 to 1.")
    distinct: int = Field(description="Distinct values that they have.")
    examples: list[ValueCount] = Field(description="The most frequent values, at most 5.")
    min: float | None = Field(None, description="The least number.")
    max: float | None = Field(None, description="The greatest number.")


class TagsAnswer(BaseModel):
    """The tags of the documents in the index, those that most documents have first."""

    documents: int = Field(description="How many documents the index holds.")
    looked_at: int = Field(
        description="Of how many of them this is told: of all, but in Milvus of 20,000."
    )
    left_out: int = Field(description="How many tags there are besides: 500 are told of.")
    tags: list[TagAnswer]


def documents(docs: Sequence[BaseDoc]) -> object:
    """The documents themselves."""
    return {"data": docs}


def stored(docs: Sequence[BaseDoc]) -> object:
    """The documents, and how many were stored."""
    return {"indexed": len(docs), "data": docs}


def results(docs: Sequence[BaseDoc]) -> object:
    """What was found, and once what holds of all queries: warnings and facets."""
    # All queries of a request have one filter; what is said of it is said once.
    said = [one for doc in docs if isinstance(doc, SearchResult) for one in doc.warnings]
    answer: dict[str, object] = {"data": docs, "warnings": list(dict.fromkeys(said))}
    counted = [one.facets for one in docs if isinstance(one, SearchResult) and one.facets]
    return answer | {"facets": counted[0]} if counted else answer


def ids(docs: Sequence[BaseDoc]) -> object:
    """The ids alone."""
    return {"ids": [str(doc.id) for doc in docs]}


def report(docs: Sequence[BaseDoc]) -> object:
    """What the last executor reports."""
    reports = [doc.values for doc in docs if isinstance(doc, Report)]
    return reports[-1] if reports else {}


def status(docs: Sequence[BaseDoc]) -> object:
    """The status of the Flow, made of what its executors report."""
    return FlowStatus.of(doc for doc in docs if isinstance(doc, Report)).to_json()


def result(docs: Sequence[BaseDoc]) -> object:
    """The Trainer's result, which is JSON already."""
    return orjson.Fragment(docs[0].result) if isinstance(docs[0], TrainResult) else None

"""What each call of a client asks, and what it makes of the answers: for threads and event loops.

`Client` and `AsyncClient` have no more to do than to make a `Call`, or a `BatchedCall`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, TypedDict

import numpy as np
from docarray import DocList
from numpy.typing import NDArray

from cliptune.client import inputs, messages
from cliptune.client.batching import Ask, BatchAnswer, BatchedCall, Sending, SendingOptions, rows_of
from cliptune.client.inputs import Content, Filter, Item
from cliptune.client.messages import Call, Json
from cliptune.documents import ClipDoc, RankDoc, SearchResult
from cliptune.errors import BadInput, shown
from cliptune.feedback.records import EVENTS, Event
from cliptune.protocol.endpoints import (
    CLEAR,
    DELETE,
    ENCODE,
    FEEDBACK,
    GET,
    INDEX,
    RANK,
    SEARCH,
    UPDATE,
)

log = logging.getLogger("cliptune")
Rows = NDArray[Any]
Query = Content | ClipDoc
Weighted = Mapping[Any, float]
"""Texts and pictures (see `inputs.to_doc`) with what each counts."""
Some = Iterable[object] | AsyncIterable[object]


@dataclass(frozen=True)
class Matching:
    """What a deletion would do."""

    documents: int
    """How many documents it would delete."""
    warnings: list[str]
    """What of the filter can never hold."""


def encode(
    data: Some, batch_size: int, options: SendingOptions
) -> BatchedCall[ClipDoc, Rows | DocList[ClipDoc] | None]:
    """`Client.encode`."""
    sending = Sending(batch_size, **options)
    kept: list[ClipDoc] = []
    as_documents = False

    def take(answered: BatchAnswer[ClipDoc]) -> None:
        nonlocal as_documents
        for item in answered.items:
            if (answer := answered.answers.get(item.position)) is not None:
                item.doc.embedding, item.doc.model_digest = answer.embedding, answer.model_digest
            if item.position == 0:
                as_documents = item.is_document
        if sending.on_done is None:
            kept.extend(item.doc for item in answered.items)

    def result() -> Rows | DocList[ClipDoc] | None:
        if sending.on_done is not None:
            return None
        if isinstance(data, DocList):
            return data
        return DocList[ClipDoc](kept) if as_documents else rows_of(kept)

    return BatchedCall(ENCODE, data, inputs.to_encode, sending, take, result)


def rank(docs: Some, options: SendingOptions) -> BatchedCall[RankDoc, DocList[RankDoc] | None]:
    """`Client.rank`."""
    sending = Sending(**options)
    ranked = DocList[RankDoc]()

    def take(answered: BatchAnswer[RankDoc]) -> None:
        if sending.on_done is None:
            ranked.extend(answered.in_order())

    def result() -> DocList[RankDoc] | None:
        return ranked if sending.on_done is None else None

    return BatchedCall(RANK, docs, inputs.to_rank, sending, take, result)


def index(docs: Some, batch_size: int, options: SendingOptions) -> BatchedCall[ClipDoc, int]:
    """`Client.index`."""
    stored = 0

    def take(answered: BatchAnswer[ClipDoc]) -> None:
        nonlocal stored
        stored += len(answered.answers)

    options.setdefault("prefetch", 1)
    sending = Sending(batch_size, **options)
    return BatchedCall(INDEX, docs, inputs.to_store, sending, take, lambda: stored)


class SearchOptions(SendingOptions, total=False):
    """What `search` may be told besides: parameters of the endpoint, and for several queries how
    they are sent.
    """

    offset: int
    """How many of the best to leave out, for paging."""
    filter: Filter | None
    """Over tags: `price < 30 and brand == 'Nordvik'`."""
    score_threshold: float | None
    """Only matches of at least this cosine similarity."""
    min_relevance: float | None
    """Only matches that are relevant with at least this probability, in [0, 1]: of texts, where the
    model served is calibrated."""
    exact: bool
    """Compare with every document, without the ANN index."""
    model: str | None
    """Of a `cliptune swap`: `current` (as without), `previous` or `next`."""
    hybrid: bool
    """Let the query's words count too; a document whose id or code it is comes first."""
    alpha: float | None
    """What meaning counts beside words, from 0 (words alone) to 1; without: 0.3."""
    fusion: Literal["scores", "ranks"]
    """By what the rankings of meaning and words become one; `ranks`: reciprocal rank fusion."""
    like: object
    """Ids of stored documents: to be like these, too. They are no matches."""
    unlike: object
    """Ids of stored documents: rather not to be like these."""
    include_total: bool
    """Say in `total` of each result how many documents the filter leaves, and with `group_by` in
    `groups` how many groups they make."""
    record: bool
    """False: this search may not be recorded, where the server records searches."""
    group_by: str | None
    """A tag: of all documents with one value the best is a match, and `more` says how many more
    there are."""
    sort_by: str | None
    """Tags: `price`, `rating desc, price`."""
    formula: str | None
    """Of a new score: `score + 0.1 * log(1 + default(sales, 0))`."""
    diversity: float | None
    """0 to 1: similar matches apart."""
    candidates: int | None
    """How many of the nearest are put in order by one of these three; None: 200."""
    facets: Sequence[str] | Mapping[str, Mapping[str, object]] | None
    """Tags whose values are counted in what the filter leaves, for `facets` of each result:
    `["brand"]`, `{"brand": {"limit": 20}, "price": {"ranges": [20, 50]}}`."""


def search(
    query: object, limit: int, options: SearchOptions
) -> BatchedCall[SearchResult, SearchResult | DocList[SearchResult]]:
    """`Client.search`; parameters that are None or as by default are left out.

    Raises:
        BadInput: it is neither a query nor several.
    """
    sending: dict[str, Any] = dict(options)
    like, unlike = sending.pop("like", None), sending.pop("unlike", None)
    if isinstance(query, Mapping) or like is not None or unlike is not None:
        query = inputs.composed(query, like, unlike)
    one = inputs.is_single(query) or isinstance(query, np.ndarray)
    if isinstance(query, str):  # alone it is what somebody has typed
        query = ClipDoc(text=str(query))
    given = [query] if one else query
    if not isinstance(given, Iterable | AsyncIterable):
        raise BadInput(f"query is a {type(query).__name__}: a text, a picture or a ClipDoc")
    asked = {name: sending.pop(name, None) for name in SEARCH.parameters.model_fields}
    chosen = {
        name: value
        for name, value in asked.items()
        if value is not None and value != SEARCH.parameters.model_fields[name].default
    }
    if "facets" in chosen:
        chosen["facets"] = inputs.plain(chosen["facets"])
    sending["parameters"] = {"limit": limit, **chosen, **(sending.get("parameters") or {})}
    results = DocList[SearchResult]()

    def take(answered: BatchAnswer[SearchResult]) -> None:
        results.extend(answered.in_order())

    def result() -> SearchResult | DocList[SearchResult]:
        return results[0] if one else results

    return BatchedCall(SEARCH, given, inputs.to_query, Sending(**sending), take, result)


def feedback(search: object, event: Event, chosen: object) -> Call[int]:
    """`Client.feedback`.

    Raises:
        BadInput: the search was not recorded, or there is no such event.
    """
    search_id = search.search_id if isinstance(search, SearchResult) else search
    if not isinstance(search_id, str):
        raise BadInput(
            f"search is {shown(search_id)}: give a search's answer, or its search_id; a server "
            "that records no searches gives none"
        )
    if event not in EVENTS:
        raise BadInput(f"event is {shown(event)}: use {', '.join(EVENTS)}")
    parameters: Json = {"search_id": search_id, "event": event, "ids": inputs.id_list(chosen)}
    return messages.report(FEEDBACK, lambda report: _count(report, "recorded"), parameters)


class Updated(TypedDict):
    """What `Client.update` did."""

    updated: int
    """How many of the documents were there."""
    missing: list[str]
    """The ids that weren't."""


def update(batch: list[Item]) -> Call[Updated]:
    """One request of `Client.update`."""
    sent = [item.sent for item in batch if item.sent is not None]
    return messages.report(
        UPDATE,
        lambda report: Updated(
            updated=_count(report, "updated"), missing=_texts(report, "missing")
        ),
        docs=sent,
    )


def joined(total: Updated, more: Updated) -> Updated:
    """What two requests did together."""
    return Updated(
        updated=total["updated"] + more["updated"], missing=total["missing"] + more["missing"]
    )


async def get(
    ask: Ask, wanted: object, include_embedding: bool, include_image: bool, max_docs: int
) -> DocList[ClipDoc]:
    """`Client.get`."""
    stored = DocList[ClipDoc]()
    rest = iter(inputs.id_list(wanted))
    parameters = {
        "include_embedding": bool(include_embedding),
        "include_image": bool(include_image),
    }
    while part := [ClipDoc(id=one) for one in islice(rest, max_docs)]:
        stored.extend(await ask(messages.documents(GET, part, parameters)))
    return stored


def delete(chosen: object, filter: Filter | None) -> Call[int]:
    """`Client.delete`."""

    def read(report: Json) -> int:
        for sentence in _texts(report, "warnings"):
            log.warning("%s: %s", filter, sentence)
        return _count(report, "deleted")

    return messages.report(DELETE, read, _chosen(chosen, filter), repeatable=False)


def matching(chosen: object, filter: Filter | None) -> Call[Matching]:
    """`Client.matching`."""
    return messages.report(
        DELETE,
        lambda report: Matching(_count(report, "matched"), _texts(report, "warnings")),
        {**_chosen(chosen, filter), "dry_run": True},
    )


def clear() -> Call[int]:
    """`Client.clear`."""
    return messages.report(CLEAR, lambda report: _count(report, "deleted"), repeatable=False)


def page_of_ids(after: str | None, limit: int) -> Call[list[str]]:
    """One page of `Client.ids`."""
    return messages.ids({"limit": limit} | ({} if after is None else {"after": after}))


def _chosen(chosen: object, filter: Filter | None) -> Json:
    parameters: Json = {}
    if chosen is not None:
        parameters["ids"] = inputs.id_list(chosen)
    if filter is not None:
        parameters["filter"] = inputs.plain(filter)
    return parameters


def _count(report: Json, name: str) -> int:
    value = report[name]
    return int(value) if isinstance(value, int | float) else 0


def _texts(report: Json, name: str) -> list[str]:
    value = report.get(name)
    return [str(one) for one in value] if isinstance(value, list) else []

"""What the indexer executor records of searches, where it is told to."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime

from docarray import DocList

from cliptune.documents import ClipDoc, QueryDoc, QueryPart, SearchResult
from cliptune.errors import NotReady, Overloaded
from cliptune.feedback.log import Outcome, SearchLog
from cliptune.feedback.records import MAX_TEXT, Asked, Feedback, Search, Shown
from cliptune.observability import metrics
from cliptune.protocol.limits import has_text
from cliptune.protocol.parameters import FeedbackParameters, SearchParameters
from cliptune.settings import Settings

logger = logging.getLogger("cliptune")


def recorder(settings: Settings) -> SearchLog | None:
    """The log of searches; None: nothing is recorded.

    Raises:
        BadInput: nothing can be written into the folder.
    """
    if settings.record_searches is None:
        return None

    def count(outcome: Outcome, lines: int) -> None:
        metrics.RECORDED.labels(outcome).inc(lines)

    return SearchLog(settings.record_searches, settings.record_days, count)


def record(
    log: SearchLog,
    docs: Iterable[QueryDoc],
    results: DocList[SearchResult],
    parameters: SearchParameters,
) -> None:
    """Record each query with its answer, which gets the `search_id`; not if too many wait.

    Of a query, and of each part of one, its text is kept, the id of the document that it is to be
    like, or that it was a picture: no id of its own, no tags, nothing of the picture.
    A search is answered whatever becomes of its record.
    """
    try:
        _record(log, docs, results, parameters)
    except Exception:
        logger.exception("a search could not be recorded")
        metrics.RECORDED.labels("failed").inc()


def _record(
    log: SearchLog,
    docs: Iterable[QueryDoc],
    results: DocList[SearchResult],
    parameters: SearchParameters,
) -> None:
    asked = parameters.model_dump(mode="json", exclude_defaults=True)
    now = datetime.now(UTC)
    for doc, result in zip(docs, results, strict=True):
        shown = [
            Shown(rank=rank, id=str(match.id), score=match.score, relevance=match.relevance)
            for rank, match in enumerate(result.matches, parameters.offset + 1)
        ]
        search = Search(
            id=secrets.token_hex(16),
            at=now,
            model=str(doc.model_digest),
            query=[_asked(part) for part in doc.parts or [doc]],
            parameters=asked,
            shown=shown,
        )
        if log.record(search):
            result.search_id = search.id


def _asked(part: ClipDoc) -> Asked:
    weight = part.weight if isinstance(part, QueryPart) else None
    if has_text(part):
        return Asked(text=str(part.text)[:MAX_TEXT], weight=weight)
    if isinstance(part, QueryPart) and part.like is not None:
        return Asked(like=part.like, weight=weight)
    return Asked(picture=True, weight=weight)


def take_feedback(log: SearchLog | None, parameters: FeedbackParameters) -> dict[str, object]:
    """Record what somebody did; returns `recorded`, of how many documents.

    Raises:
        NotReady: this server records nothing.
        Overloaded: too many lines wait to be written.
    """
    if log is None:
        raise NotReady(
            "this server records no searches, so no feedback: CLIPTUNE_RECORD_SEARCHES, or "
            "`cliptune serve --record-searches FOLDER`, says where to"
        )
    ids = list(dict.fromkeys(parameters.ids))
    taken = log.record(
        Feedback(
            search=parameters.search_id,
            at=datetime.now(UTC),
            event=parameters.event,
            ids=ids,
        )
    )
    if not taken:
        raise Overloaded("too much waits to be recorded")
    return {"recorded": len(ids)}

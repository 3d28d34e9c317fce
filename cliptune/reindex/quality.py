"""Whether another model finds as well as the current one: the same queries put to both indexes."""

from __future__ import annotations

import heapq
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from docarray import DocList
from numpy.typing import NDArray

from cliptune.data.equivalence import KeyedDocs, same_labels
from cliptune.data.validation import QUERY, complete_only, is_blank, texts_of
from cliptune.documents import ClipDoc, Match
from cliptune.errors import BadInput, CliptuneError
from cliptune.evaluation.bootstrap import Change, compare_means
from cliptune.evaluation.metrics import per_query_metrics
from cliptune.index.base import Index
from cliptune.models.tokenizers import token_keys

if TYPE_CHECKING:
    from cliptune.inference import TextTower

K = 20
"""Answers of a query that count."""
METRICS = ("hit_at_k", "reciprocal_rank")
_DRAWN = 3
"""So many times the titles asked for are drawn: some are equal."""
_QUERIES_AT_ONCE = 100


class WorseModel(CliptuneError):
    """The other model finds clearly less; the message has the figures."""

    http_status = 409


@dataclass(frozen=True)
class Query:
    """A text, and which answers are right."""

    text: str
    label: str | None = None
    """Of the right answers; None: of documents that are the same as the one it was taken from."""
    image_digest: str | None = None
    """Of that document's picture."""


@dataclass(frozen=True)
class Quality:
    """What two models find for the same queries in the same documents."""

    changes: Mapping[str, Change]
    """`hit_at_k` and `reciprocal_rank`, both of the first `K` answers."""
    shared: float
    """The mean part of a query's first `K` answers that both models give."""
    queries: int
    tolerance: float

    @property
    def is_worse(self) -> bool:
        """The rule: with 95 % confidence, the reciprocal rank falls by more than `tolerance`."""
        return self.changes["reciprocal_rank"].difference.high < -self.tolerance

    def check(self) -> None:
        """Raise `WorseModel` if the rule says so."""
        if self.is_worse:
            change = self.changes["reciprocal_rank"]
            raise WorseModel(
                f"the new model finds clearly less: over {self.queries} queries the reciprocal "
                f"rank goes from {change.before.mean:.4f} to {change.after.mean:.4f}, by "
                f"{change.difference.low:+.4f} to {change.difference.high:+.4f} with 95 % "
                f"confidence, and {-self.tolerance:+.4f} is allowed. The index is as it was. "
                "--force switches nevertheless, --discard removes what was prepared"
            )


def titles(index: Index, count: int, seed: int = 0) -> list[Query]:
    """Up to `count` titles of stored documents as queries, drawn uniformly, each once."""
    random_ = random.Random(seed)
    titled = (
        Query(doc.text, doc.label, doc.image_digest)
        for batch in index.scan(batch_size=1000)
        for doc in batch
        if doc.text is not None and not is_blank(doc.text)
    )
    drawn = heapq.nlargest(_DRAWN * count, titled, key=lambda _: random_.random())
    return list({query.text: query for query in drawn}.values())[:count]


def given(docs: DocList[ClipDoc]) -> list[Query]:
    """Documents with texts as queries; answers of their label are right, or else of their text.

    Those without a text are left out and logged.

    Raises:
        BadData: most have none.
    """
    kept = complete_only(docs, QUERY, "queries")
    return [Query(text, doc.label) for text, doc in zip(texts_of(kept), kept, strict=True)]


def compare(
    queries: list[Query],
    before: tuple[Index, TextTower],
    after: tuple[Index, TextTower],
    *,
    tolerance: float = 0.01,
) -> Quality:
    """Put `queries` to two indexes, each by its own model.

    A document is a right answer if its label is the query's; those without one are right where
    they are the same, as in training and evaluation (`cliptune.data.equivalence`): by the tokens of
    the model before, for both models.

    Raises:
        BadInput: there are no queries, or `tolerance` is out of range.
    """
    if not 0 <= tolerance < 1:
        raise BadInput(f"tolerance is {tolerance}: use a part of 1, such as 0.01")
    if not queries:
        raise BadInput("no queries")
    answers = [_answers(queries, *one) for one in (before, after)]
    labels, label_of = _labels(queries, answers, before)
    values = [_values(labels, label_of, ranked) for ranked in answers]
    shared = [
        len({m.id for m in ours} & {m.id for m in theirs}) / max(1, len(ours))
        for ours, theirs in zip(*answers, strict=True)
    ]
    return Quality(compare_means(*values), float(np.mean(shared)), len(queries), tolerance)


def _answers(queries: list[Query], index: Index, tower: TextTower) -> list[DocList[Match]]:
    embeddings = tower.encode([query.text for query in queries])
    answers: list[DocList[Match]] = []
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        part = embeddings[start : start + _QUERIES_AT_ONCE]
        answers += index.search(part, tower.digest, limit=K)
    return answers


def _labels(
    queries: list[Query], answers: list[list[DocList[Match]]], before: tuple[Index, TextTower]
) -> tuple[list[str | None], dict[str, str | None]]:
    """The queries' labels, and those of all answers by their ids (both indexes hold the same)."""
    index, tower = before
    ids = {str(match.id) for ranked in answers for matches in ranked for match in matches}
    docs = index.get(ids) if ids else DocList[ClipDoc]()
    asked = DocList[ClipDoc](
        [ClipDoc(text=q.text, label=q.label, image_digest=q.image_digest) for q in queries]
    )
    keys = token_keys(tower.tokenizer, tower.context_length)
    tables = [
        KeyedDocs.of(each, keys, [doc.image_digest for doc in each]) for each in (asked, docs)
    ]
    of_queries, of_docs = same_labels(*tables)
    return of_queries, {str(doc.id): label for doc, label in zip(docs, of_docs, strict=True)}


def _values(
    labels: list[str | None], label_of: dict[str, str | None], answers: list[DocList[Match]]
) -> dict[str, NDArray[np.float64]]:
    right = np.zeros((len(labels), K), dtype=bool)
    for row, (label, matches) in enumerate(zip(labels, answers, strict=True)):
        for column, match in enumerate(matches):
            right[row, column] = label_of.get(str(match.id)) == label
    # Hit and reciprocal rank do not depend on how many right answers there are in all.
    metrics = per_query_metrics(right, right.sum(axis=1))
    return {name: metrics[name] for name in METRICS}

"""Evaluation of a search: embeddings and labels, or two towers and documents, to metrics."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypedDict, Unpack

import numpy as np
import torch
from docarray import DocList
from numpy.typing import NDArray

from cliptune.data.equivalence import KeyedDocs, TextKeys, word_keys
from cliptune.data.validation import texts_of
from cliptune.documents import ClipDoc
from cliptune.errors import BadData, BadImage, BadInput
from cliptune.evaluation.grades import Grades
from cliptune.evaluation.metrics import means, per_query_metrics
from cliptune.evaluation.relevance import Answers, decide_answers
from cliptune.evaluation.topk import Embeddings, SearchOptions, check_distance, top_k
from cliptune.inference.encode import pictures_of
from cliptune.models.artifact import VISION_TOWER
from cliptune.models.tokenizers import token_keys

__all__ = ["Evaluation", "Tower", "evaluate", "evaluate_embeddings", "top_k"]

SAMPLED_QUERIES = 20


class Tower(Protocol):
    """What `evaluate` asks of a tower; `cliptune.inference` has the real ones."""

    name: str
    """`clip-text` reads the documents' text, `clip-vision` their picture."""

    def encode(self, inputs: Any, /) -> NDArray[np.float32]:
        """Texts or encoded pictures, N of them, to float32 [N, D]."""


class Search(Protocol):
    """What finds the nearest embeddings, as `top_k` does and says."""

    def __call__(
        self,
        query_emb: Embeddings,
        index_emb: Embeddings,
        k: int,
        **options: Unpack[SearchOptions],
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Positions and cosines, [Q, min(k, N)]."""
        ...


class ExampleDocument(TypedDict):
    """A document of a sample, ready for JSON."""

    position: int
    id: str
    text: str | None
    label: str | None


class ExampleMatch(ExampleDocument):
    """A document that a sample query found."""

    score: float
    hit: bool


class ExampleQuery(ExampleDocument):
    """A sample query with what it found, best first."""

    matches: list[ExampleMatch]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a search over an index found for labelled queries."""

    by_query: dict[str, NDArray[np.float64]] = field(repr=False)
    """[Q]: each query's metrics by name: see `cliptune.evaluation.metrics`."""
    n_queries: int
    n_index: int
    limit: int
    """k: how many results of each query count."""
    n_without_answers: int
    """Queries without a relevant document in the index. They count as 0 in every metric, so
    no model reaches 1 where there are some."""
    ids: NDArray[np.int64] = field(repr=False)
    """[Q, min(limit, N)], positions in the index, best first; -1 where there are no more."""
    scores: NDArray[np.float32] = field(repr=False)
    """Cosines, as `ids`; -inf beside -1."""
    hits: NDArray[np.bool_] = field(repr=False)
    """Whether the index document has the query's label, as `ids`."""
    query_rows: list[int] | None = None
    """[Q]: where each query stands among the documents that were given, where several are one
    query because they grade the answers to one text; None: each is a query."""
    n_given: int | None = None
    """How many index documents were given, where some are not searched because others are the
    same; None: all `n_index` are searched."""

    @property
    def metrics(self) -> dict[str, float]:
        """Means over the queries by name."""
        return means(self.by_query)

    def counts(self) -> dict[str, int]:
        """What figures must be read with: `n_queries`, `n_index` and `n_without_answers`."""
        return {
            "n_queries": self.n_queries,
            "n_index": self.n_index,
            "n_without_answers": self.n_without_answers,
        }

    def asked(self, query_docs: Sequence[ClipDoc]) -> Sequence[ClipDoc]:
        """Of the documents that were given as queries those that were asked, [Q]."""
        if self.query_rows is None or len(query_docs) <= max(self.query_rows):
            return query_docs
        return [query_docs[row] for row in self.query_rows]

    def examples(
        self,
        query_docs: Sequence[ClipDoc],
        index_docs: Sequence[ClipDoc],
        k: int = 5,
        queries: Iterable[int] | None = None,
    ) -> list[ExampleQuery]:
        """Sample results.

        Args:
            query_docs: the documents that were evaluated, in their order.
            index_docs: likewise, all that were given.
            k: results of each query, at most `limit`.
            queries: positions of the queries to show; by default at most 20, spread evenly.

        Raises:
            BadInput: other documents than those evaluated, or no such query.
        """
        query_docs = self.asked(query_docs)
        for role, docs, n in (
            ("query", query_docs, self.n_queries),
            ("index", index_docs, self.n_index if self.n_given is None else self.n_given),
        ):
            if len(docs) != n:
                raise BadInput(f"{n} {role} documents were evaluated, {len(docs)} are given")
        if queries is None:
            count = min(SAMPLED_QUERIES, self.n_queries)
            queries = np.linspace(0, self.n_queries - 1, count).round().astype(int).tolist()
        examples = []
        for position in queries:
            if not 0 <= position < self.n_queries:
                raise BadInput(f"there is no query {position}, they are 0 to {self.n_queries - 1}")
            matches = [
                ExampleMatch(
                    **_shown(int(answer), index_docs[int(answer)]),
                    score=round(float(score), 6),
                    hit=bool(hit),
                )
                for answer, score, hit in zip(
                    self.ids[position][:k],
                    self.scores[position][:k],
                    self.hits[position][:k],
                    strict=True,
                )
                if answer >= 0
            ]
            shown = _shown(int(position), query_docs[position])
            examples.append(ExampleQuery(**shown, matches=matches))
        return examples


def evaluate_embeddings(
    query_emb: Embeddings,
    query_labels: Sequence[Hashable],
    index_emb: Embeddings,
    index_labels: Sequence[Hashable],
    *,
    limit: int = 20,
    distance: str = "cosine",
    query_ids: Sequence[Hashable] | None = None,
    index_ids: Sequence[Hashable] | None = None,
    exclude_self: bool = True,
    chunk: int = 16384,
    device: str | torch.device | None = None,
    grades: Sequence[Mapping[int, int]] | None = None,
    search: Search = top_k,
) -> Evaluation:
    """Search the index with every query and measure how well the labels agree.

    Args:
        query_emb: floats [Q, D], as `top_k` takes them.
        query_labels: Q labels; an index document with an equal one is relevant.
        index_emb: floats [N, D].
        index_labels: N labels.
        limit: k.
        distance: `cosine`.
        query_ids: with `index_ids` and `exclude_self`, a query does not retrieve the index
            documents that have its id. Without both lists of ids nothing is left out.
        index_ids: see `query_ids`.
        exclude_self: see `query_ids`.
        chunk: index rows scored at once; bounds the memory.
        device: where to search; by default where the embeddings are.
        grades: for each query the grades of its right answers by their positions in the index, in
            the labels' place (see `per_query_metrics`).
        search: what finds the nearest.

    Raises:
        BadInput: lengths that do not fit, a label that is None, and what `top_k` refuses.
        BadData: no queries, no index, not one query with a relevant document in the index, or
            one label on everything.
    """
    check_distance(distance)
    if limit < 1:
        raise BadInput(f"limit is {limit}, it must be at least 1")
    n_queries, n_index = len(query_emb), len(index_emb)
    _check_length("query_labels", query_labels, n_queries)
    _check_length("index_labels", index_labels, n_index)
    for role, n in (("query", n_queries), ("index", n_index)):
        if not n:
            raise BadData(f"there are no {role} documents to evaluate with")

    codes: dict[Hashable, int] = {}
    query_codes = _codes("query_labels", query_labels, codes)
    index_codes = _codes("index_labels", index_labels, codes)
    if len(codes) == 1 and n_index > 1 and grades is None:
        raise BadData(
            f"all queries and all {n_index} index documents have the label {index_labels[0]!r}: "
            "every answer would be right, since that makes everything relevant (is it the wrong "
            "column?)"
        )

    exclude = None
    if exclude_self and query_ids is not None and index_ids is not None:
        _check_length("query_ids", query_ids, n_queries)
        _check_length("index_ids", index_ids, n_index)
        exclude = _same_ids(query_ids, index_ids)

    graded = None
    n_relevant = np.bincount(index_codes, minlength=len(codes))[query_codes]
    excluded = np.zeros(n_queries, dtype=np.int64)
    if grades is not None:
        graded = Grades(grades, exclude)
        n_relevant = graded.n_relevant
    elif exclude is not None:
        same_label = index_codes[exclude] == query_codes[:, None]
        excluded = ((exclude >= 0) & same_label).sum(axis=1)
    without_answers = n_relevant == excluded
    if without_answers.all():
        if graded is not None:
            raise BadData(
                "no query has a right answer in the index: none of the pictures with a grade above "
                "0 is searched (they are told by their bytes)"
            )
        raise BadData(_no_answers(query_labels, index_labels, bool(n_relevant.any())))

    ids, scores = search(
        query_emb, index_emb, limit, distance=distance, exclude=exclude, chunk=chunk, device=device
    )
    hits = (index_codes[ids] == query_codes[:, None]) & (ids >= 0)
    gains = best_gains = None
    if graded is not None:
        gains, best_gains = graded.gains_of(ids), graded.best_gains(limit)
        hits = gains > 0
    return Evaluation(
        by_query=per_query_metrics(
            hits,
            n_relevant,
            (ids >= 0).sum(axis=1),
            excluded=excluded,
            limit=limit,
            gains=gains,
            best_gains=best_gains,
        ),
        n_queries=n_queries,
        n_index=n_index,
        limit=limit,
        n_without_answers=int(without_answers.sum()),
        ids=ids,
        scores=scores,
        hits=hits,
    )


def evaluate(
    query_tower: Tower,
    index_tower: Tower,
    query_docs: DocList[ClipDoc],
    index_docs: DocList[ClipDoc] | None = None,
    *,
    limit: int = 20,
    exclude_self: bool = True,
    distance: str = "cosine",
    allow_files: bool = True,
    device: str | torch.device | None = None,
) -> Evaluation:
    """Encode the queries with one tower, the index with another, and measure the search.

    Text-to-image search has a text tower for the queries and a vision tower for the index; a
    tower's name says which part of the documents it reads. Documents without a label of their own
    get one by what a model sees of them, decided once for both sides (`cliptune.data.equivalence`):
    texts are the same by the tokens of the towers given, or by their words if neither has a
    tokenizer.

    Args:
        query_tower: as `cliptune.inference.get_tower` gives it.
        index_tower: likewise; it may be the same.
        query_docs: with texts (or pictures, for a vision tower).
        index_docs: what is searched. None, or `query_docs` themselves: the documents of
            `query_docs`, each picture (or text, by a text tower) once.
        limit: k.
        exclude_self: a query does not find the index document with its own id. It counts only
            where one tower encodes both sides: a title should find its own picture.
        distance: `cosine`.
        allow_files: read pictures from local paths too, not only from the documents.
        device: where to search.

    Raises:
        BadInput: a document lacks what its tower reads; the message names it.
        BadImage: a picture can't be decoded.
        BadData: see `evaluate_embeddings`.
    """
    check_distance(distance)
    keys = text_keys_of(query_tower, index_tower)
    queries = KeyedDocs.of(query_docs, keys, allow_files=allow_files)
    index_docs = query_docs if index_docs is None else index_docs
    is_given = index_docs is not query_docs
    index = KeyedDocs.of(index_docs, keys, allow_files=allow_files) if is_given else queries
    # What lacks a text or a picture is named by what reads it.
    query_emb = _encode(query_tower, query_docs, "query", allow_files)
    answers = decide_answers(queries, index, each_once_for=None if is_given else index_tower.name)
    evaluation = measure(
        answers,
        query_emb if answers.query_rows is None else query_emb[answers.query_rows],
        _encode(index_tower, answers.index, "index", allow_files),
        limit=limit,
        exclude_self=exclude_self and query_tower.name == index_tower.name,
        distance=distance,
        device=device,
    )
    rows = np.array([*answers.index_rows, -1])  # -1 stays
    return replace(
        evaluation,
        ids=rows[evaluation.ids],
        n_given=len(index.docs),
        query_rows=answers.query_rows,
    )


def measure(
    answers: Answers,
    query_emb: Embeddings,
    index_emb: Embeddings,
    *,
    limit: int = 20,
    exclude_self: bool = False,
    distance: str = "cosine",
    device: str | torch.device | None = None,
    search: Search = top_k,
) -> Evaluation:
    """`evaluate_embeddings` of the queries and the index of `answers`, embedded."""
    return evaluate_embeddings(
        query_emb,
        answers.query_labels,
        index_emb,
        answers.index_labels,
        limit=limit,
        distance=distance,
        query_ids=answers.own or [doc.id for doc in answers.queries],
        index_ids=range(len(answers.index)) if answers.own else [d.id for d in answers.index],
        exclude_self=exclude_self,
        device=device,
        grades=answers.grades,
        search=search,
    )


def text_keys_of(*towers: Tower) -> TextKeys:
    """When texts are the same: by the tokenizer of the first tower that has one, else by words."""
    for tower in towers:
        tokenizer = getattr(tower, "tokenizer", None)
        if tokenizer is not None:
            return token_keys(tokenizer, tower.context_length)  # type: ignore[attr-defined]
    return word_keys


def _encode(
    tower: Tower, docs: DocList[ClipDoc], role: str, allow_files: bool
) -> NDArray[np.float32]:
    """The embeddings [N, D] of what `tower` reads of `docs`; errors name `role` and document."""
    try:
        if tower.name == VISION_TOWER:
            return tower.encode(pictures_of(docs, allow_files=allow_files))
        return tower.encode(texts_of(docs))
    except (BadImage, BadInput) as error:
        raise type(error)(f"{role}: {error}") from error


def _check_length(name: str, values: Sequence[Hashable], n: int) -> None:
    if len(values) != n:
        raise BadInput(f"{name} has {len(values)} entries for {n} embeddings")


def _codes(name: str, labels: Sequence[Hashable], codes: dict[Hashable, int]) -> NDArray[np.int64]:
    """Labels as small integers, equal where the labels are; new ones join `codes`."""
    values = labels.tolist() if isinstance(labels, np.ndarray) else labels
    missing = [position for position, label in enumerate(values) if label is None]
    if missing:
        raise BadInput(f"{name} holds None at {len(missing)} positions, the first is {missing[0]}")
    coded = (codes.setdefault(label, len(codes)) for label in values)
    return np.fromiter(coded, dtype=np.int64, count=len(values))


def _same_ids(
    query_ids: Sequence[Hashable], index_ids: Sequence[Hashable]
) -> NDArray[np.int64] | None:
    """[Q, m]: the positions in the index of each query's own id, filled up with -1."""
    asked = {name for name in query_ids if name is not None}
    places: dict[Hashable, list[int]] = {}
    for position, name in enumerate(index_ids):
        if name in asked:
            places.setdefault(name, []).append(position)
    if not places:
        return None
    same = np.full((len(query_ids), max(map(len, places.values()))), -1, dtype=np.int64)
    for row, name in enumerate(query_ids):
        own = places.get(name, [])
        same[row, : len(own)] = own
    return same


def _no_answers(
    query_labels: Sequence[Hashable], index_labels: Sequence[Hashable], only_self: bool
) -> str:
    if only_self:
        return (
            "the only relevant document of every query is the query itself, which exclude_self "
            "leaves out: give the index other documents, or set exclude_self=False"
        )
    shown = [list(dict.fromkeys(labels))[:3] for labels in (query_labels, index_labels)]
    return (
        "no query has a relevant document in the index: queries have labels such as "
        f"{shown[0]}, index documents {shown[1]}"
    )


def _shown(position: int, doc: ClipDoc) -> ExampleDocument:
    return {"position": position, "id": str(doc.id), "text": doc.text, "label": doc.label}

"""What is right in a search, decided once for the queries and what they search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from docarray import DocList

from cliptune.data.equivalence import KeyedDocs, same_labels
from cliptune.documents import HIGHEST_GRADE, ClipDoc
from cliptune.errors import BadInput
from cliptune.models.artifact import VISION_TOWER


@dataclass(frozen=True)
class Answers:
    """Queries and the documents that they search; equal labels are right answers, or grades say."""

    queries: DocList[ClipDoc]
    """With their labels: their own, or those that they were given."""
    index: DocList[ClipDoc]
    """Those that are searched, likewise."""
    index_rows: list[int]
    """[N]: where they stand among the documents that were given."""
    own: list[int] | None = None
    """[Q]: where each query itself stands in `index`, if the queries search one another."""
    query_rows: list[int] | None = None
    """[Q]: where they stand among the documents that were given; None: they are all of these."""
    grades: list[dict[int, int]] | None = None
    """[Q]: by the position of a right answer in `index` its grade, from 1 on; what isn't named is
    wrong. None: labels decide."""

    @property
    def query_labels(self) -> list[str]:
        """[Q]."""
        return [str(doc.label) for doc in self.queries]

    @property
    def index_labels(self) -> list[str]:
        """[N]."""
        return [str(doc.label) for doc in self.index]

    def right(self, query: int) -> list[int]:
        """The positions in `index` of the right answers to a query, the best ones first."""
        if self.grades is not None:
            graded = self.grades[query]
            return sorted(graded, key=lambda position: (-graded[position], position))
        label = self.queries[query].label
        return [position for position, doc in enumerate(self.index) if doc.label == label]


def decide_answers(
    queries: KeyedDocs, index: KeyedDocs, *, each_once_for: str | None = None, role: str = ""
) -> Answers:
    """Say which documents of `index` are right answers to which of `queries`.

    Args:
        queries: the queries.
        index: what they search; it may be the queries themselves.
        each_once_for: the tower that encodes the index, where no index was given but the queries'
            own documents are searched: what that tower sees several times, such as the one
            picture of five captions, is searched once (but for each label that it has).
        role: named in errors, such as `in-domain `.

    If one of the queries has a grade, they are judgements: each says of its text how right its
    picture is (3 where it doesn't say), by the picture's bytes. Each text is asked once, all
    pictures are searched once, and what isn't judged is wrong; labels count for nothing.

    Raises:
        BadInput: a document has neither a label nor a text nor a picture; the message names it.
        BadInput: of judgements, one has no text.
    """
    if any(doc.grade is not None for doc in queries.docs):
        return _decide_by_grades(queries, index, role)
    query_labels, index_labels = same_labels(queries, index)
    labelled = index.labelled(_complete(index, index_labels, f"{role}index"))
    rows, places = list(range(len(labelled))), list(range(len(labelled)))
    if each_once_for is not None:
        seen = index.pictures if each_once_for == VISION_TOWER else index.texts
        rows, places = _each_once(seen, index_labels)
    return Answers(
        queries.labelled(_complete(queries, query_labels, f"{role}queries")),
        DocList[ClipDoc]([labelled[row] for row in rows]),
        rows,
        places if index is queries else None,
    )


def _decide_by_grades(queries: KeyedDocs, index: KeyedDocs, role: str) -> Answers:
    asked: dict[bytes, int] = {}
    query_rows: list[int] = []
    judged: list[dict[str, int]] = []
    for row, (doc, text, picture) in enumerate(
        zip(queries.docs, queries.texts, queries.pictures, strict=True)
    ):
        if text is None:
            raise BadInput(f"{role}queries: document {row} (id {doc.id}) has a grade and no text")
        if text not in asked:
            asked[text] = len(asked)
            query_rows.append(row)
            judged.append({})
        grade = HIGHEST_GRADE if doc.grade is None else doc.grade
        if picture is not None:
            of_text = judged[asked[text]]
            of_text[picture] = max(grade, of_text.get(picture, 0))
    rows, _ = _each_once(index.pictures, [None] * len(index.docs))
    places: dict[str | None, int] = {index.pictures[row]: place for place, row in enumerate(rows)}
    grades = [
        {
            places[picture]: grade
            for picture, grade in of_text.items()
            if grade and picture in places
        }
        for of_text in judged
    ]
    texts = [str(queries.docs[row].text) for row in query_rows]
    names = [index.docs[row].label or str(index.docs[row].id) for row in rows]
    return Answers(
        queries.subset(query_rows).labelled(texts),
        index.subset(rows).labelled(names),
        rows,
        query_rows=query_rows,
        grades=grades,
    )


def _each_once(
    seen: Sequence[object | None], labels: Sequence[str | None]
) -> tuple[list[int], list[int]]:
    """The first row of everything that is seen, and for each row its place among these."""
    rows: list[int] = []
    places: list[int] = []
    place_of: dict[object, int] = {}
    for row, (what, label) in enumerate(zip(seen, labels, strict=True)):
        key = row if what is None else (what, label)
        if key not in place_of:
            place_of[key] = len(rows)
            rows.append(row)
        places.append(place_of[key])
    return rows, places


def _complete(table: KeyedDocs, labels: Sequence[str | None], role: str) -> list[str]:
    complete = []
    for position, (doc, label) in enumerate(zip(table.docs, labels, strict=True)):
        if label is None:
            raise BadInput(
                f"{role}: document {position} (id {doc.id}) has neither a label nor a text nor a "
                "picture that can be read"
            )
        complete.append(label)
    return complete

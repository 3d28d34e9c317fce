"""What is right in a search, decided once for the queries and what they search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from docarray import DocList

from cliptune.data.equivalence import KeyedDocs, same_labels
from cliptune.documents import ClipDoc
from cliptune.errors import BadInput
from cliptune.models.artifact import VISION_TOWER


@dataclass(frozen=True)
class Answers:
    """Queries and the documents that they search; equal labels are right answers."""

    queries: DocList[ClipDoc]
    """With their labels: their own, or those that they were given."""
    index: DocList[ClipDoc]
    """Those that are searched, likewise."""
    index_rows: list[int]
    """[N]: where they stand among the documents that were given."""
    own: list[int] | None = None
    """[Q]: where each query itself stands in `index`, if the queries search one another."""

    @property
    def query_labels(self) -> list[str]:
        """[Q]."""
        return [str(doc.label) for doc in self.queries]

    @property
    def index_labels(self) -> list[str]:
        """[N]."""
        return [str(doc.label) for doc in self.index]


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

    Raises:
        BadInput: a document has neither a label nor a text nor a picture; the message names it.
    """
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

"""One tag's values over many documents, as arrays that can be counted quickly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cliptune.index.tags import value_of, values_at

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Column:
    """The values that stand at one tag's path, in `documents` documents.

    A document has each of its values once: of a list every element, of 1 and 1.0 one of them.
    """

    documents: int
    """How many documents there are, with a value or without."""
    terms: pa.Array
    """The distinct values, as `tags.term` writes them; some may occur in no document."""
    rows: NDArray[np.int64]
    """[E] Of each occurrence the document's number."""
    codes: NDArray[np.int64]
    """[E] And its value's place in `terms`."""

    @classmethod
    def of(cls, all_tags: Iterable[Mapping[str, object]], path: str) -> Column:
        """The column of documents with these tags."""
        import pyarrow as pa

        distinct: dict[str, int] = {}
        rows: list[int] = []
        codes: list[int] = []
        documents = 0
        for documents, tags in enumerate(all_tags, 1):
            for one in values_at(tags, path):
                rows.append(documents - 1)
                codes.append(distinct.setdefault(one, len(distinct)))
        terms = pa.array(distinct, pa.string())
        return cls(documents, terms, np.array(rows, np.int64), np.array(codes, np.int64))

    def among(self, chosen: NDArray[np.bool_]) -> Column:
        """The column of the documents that are `chosen`, bool [documents]."""
        kept = chosen[self.rows]
        count = int(np.count_nonzero(chosen))
        made = Column(count, self.terms, self.rows[kept], self.codes[kept])
        made.__dict__.update({k: v for k, v in self.__dict__.items() if k in _OF_TERMS})
        return made

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """int64 [V] In how many documents each value occurs."""
        return np.bincount(self.codes, minlength=len(self.terms))

    @cached_property
    def having(self) -> int:
        """How many documents have a value."""
        return int(np.count_nonzero(np.bincount(self.rows)))

    @cached_property
    def numbers(self) -> NDArray[np.float64]:
        """float64 [V] The values that are numbers; NaN for the others."""
        values = (value_of(one) for one in self.terms.to_pylist())
        return np.array([one if isinstance(one, float) else np.nan for one in values], np.float64)

    @cached_property
    def place(self) -> dict[str, int]:
        """The place in `terms` of each value."""
        return {one: place for place, one in enumerate(self.terms.to_pylist())}

    def sizes(self, values: Iterable[str]) -> list[int]:
        """In how many documents each of these values, given as its `tags.term`, occurs."""
        places = map(self.place.get, values)
        return [0 if place is None else int(self.counts[place]) for place in places]

    def groups(self) -> int:
        """How many groups the documents make: see `ranking.groups`."""
        single = np.bincount(self.rows)[self.rows] == 1
        values = np.count_nonzero(np.bincount(self.codes[single]))
        return int(values) + self.documents - int(np.count_nonzero(single))


_OF_TERMS = ("numbers", "place")

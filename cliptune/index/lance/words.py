"""The words of a Lance table: its full-text index, and searches by it.

The index is Lance's own (BM25; English stems, accents folded), made when a table is first opened.
Documents that it doesn't cover yet are read through at each search, so that it is never behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cliptune.index.lance.rows import SHOWN_COLUMNS, embeddings_in, to_match
from cliptune.index.lance.scores import scores_of, unit_queries, unit_rows
from cliptune.index.lance.search import to_sql
from cliptune.index.words import WordMatch, first_words, is_code

if TYPE_CHECKING:
    from lancedb.query import FullTextQuery
    from lancedb.table import Table

    from cliptune.index.filters.language import Node

COLUMN = "words"
UNINDEXED = 10_000
"""With more documents outside the index than that, `optimize` is due: reading through them takes
as long as the rest of a search."""


class WordSearcher:
    """Searches by words of one table under one filter."""

    def __init__(self, table: Table, where: Node | None) -> None:
        """Search what `where` leaves."""
        self._table = table
        self._where = None if where is None else to_sql(where)

    def best(self, text: str, query: np.ndarray, k: int) -> list[WordMatch]:
        """The `k` documents that fit a text best, with their cosines to a query float32 [D].

        One with any of the words is found, and where there is none, one with a word that differs
        from them by a letter, but not in the first one. Of a code (see `is_code`) all parts count.
        """
        from lancedb.query import FullTextOperator, MatchQuery

        words = first_words(text)
        operator = FullTextOperator.AND if is_code(text) else FullTextOperator.OR
        # Its type hides that all but the first two have defaults.
        fitting = MatchQuery(words, COLUMN, operator=operator)  # type: ignore[call-arg]
        matches = self._ask(fitting, query, k)
        if not matches and not is_code(text):
            near = MatchQuery(  # type: ignore[call-arg]
                words, COLUMN, fuzziness=1, prefix_length=1, max_expansions=10
            )
            matches = self._ask(near, query, k)
        return matches

    def _ask(self, words: FullTextQuery, query: np.ndarray, k: int) -> list[WordMatch]:
        search = self._table.search(words, query_type="fts")
        search = search.select([*SHOWN_COLUMNS, "embedding", "_score"]).limit(k)
        if self._where is not None:
            search = search.where(self._where, prefilter=True)
        table = search.to_arrow()
        [unit] = unit_queries(query[None])
        embeddings = embeddings_in(table["embedding"].combine_chunks())
        cosines = scores_of(unit, unit_rows(embeddings)).tolist()
        rows = table.drop_columns(["embedding"]).to_pylist()
        matches = [
            WordMatch(to_match(row, cosine), row["_score"])
            for row, cosine in zip(rows, cosines, strict=True)
        ]
        return sorted(matches, key=lambda one: (-one.bm25, str(one.match.id).encode()))


def uncovered(table: Table) -> int:
    """How many rows the full-text index doesn't cover."""
    words = (index for index in table.list_indices() if index.columns == [COLUMN])
    return sum(int(index.num_unindexed_rows or 0) for index in words)

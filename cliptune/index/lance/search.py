"""What is asked of a Lance table: filters as SQL, and the nearest neighbours.

Nothing of a filter reaches the SQL but string literals and numbers that this module writes:
column names are its own, tags' names and values are data. Every leaf is true or false, never
NULL, so that SQL's logic is the filter's.

Of the neighbours no match is left out, and ties are in the order of their ids.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cliptune.documents import Match
from cliptune.index.filters.language import And, Compare, Field, In, Node, Not, Or, Scalar
from cliptune.index.lance.rows import SHOWN_COLUMNS, MatchRow, embeddings_in, to_match
from cliptune.index.lance.scores import scores_of, unit_queries, unit_rows
from cliptune.index.tags import term

if TYPE_CHECKING:
    from lancedb.query import LanceVectorQueryBuilder

    from cliptune.index.lance.ann import AnnSearch
    from cliptune.index.lance.state import TableState

_QUERIES_A_CALL = 64
_SLACK = 8
_FEW = 2_000
"""Rows whose embeddings are read faster than the codes of all partitions are."""


class _Found:
    """The rows that a table gives for one query."""

    def __init__(self, table: pa.Table) -> None:
        """Take them with their embeddings and distances."""
        self.rows: list[MatchRow] = table.select(SHOWN_COLUMNS).to_pylist()
        self.embeddings = embeddings_in(table["embedding"].combine_chunks())
        """[N, D], as they are stored."""
        self._distances = table["_distance"].to_numpy()

    def __len__(self) -> int:
        return len(self.rows)

    def ends_in_tie(self, k: int) -> bool:
        """Whether the last of at least `k` is as near as the `k`-th."""
        distances = np.sort(self._distances)
        return bool(distances[-1] == distances[k - 1])


class Searcher:
    """Searches of one table under one filter."""

    def __init__(self, state: TableState, where: Node | None, ann: AnnSearch | None) -> None:
        """Search what `where` leaves, through the ANN index; without `ann` all embeddings."""
        self._state = state
        self._where = None if where is None else to_sql(where)
        self._ann = ann

    def nearest(self, queries: np.ndarray, k: int) -> list[list[Match]]:
        """The `k` best matches of each query in float32 [Q, D], best first, ties by id."""
        matches: list[list[Match]] = []
        unit = unit_queries(queries)
        for start in range(0, len(queries), _QUERIES_A_CALL):
            group = slice(start, start + _QUERIES_A_CALL)
            found = self._ask(queries[group], k + _SLACK, self._chosen)
            for one, query, rows in zip(queries[group], unit[group], found, strict=True):
                best = self._complete(one, rows, k)
                scores = scores_of(query, unit_rows(best.embeddings)).tolist()
                scored = zip(scores, best.rows, strict=True)
                ranked = sorted(scored, key=lambda pair: (-pair[0], pair[1]["id"]))[:k]
                matches.append([to_match(row, score) for score, row in ranked])
        return matches

    def _ask(self, queries: np.ndarray, k: int, ann: AnnSearch | None) -> list[_Found]:
        """About the `k` best rows of each query, nearest first."""
        single = len(queries) == 1
        search = self._state.table.search(
            queries[0] if single else queries, vector_column_name="embedding"
        )
        search = cast("LanceVectorQueryBuilder", search)  # as those of vectors are
        columns = [*SHOWN_COLUMNS, "embedding", "_distance"]
        search = search.distance_type("cosine").select(columns).limit(k)
        if self._where is not None:
            search = search.where(self._where, prefilter=True)
        search = search.bypass_vector_index() if ann is None else ann.apply(search, k, self._left)
        rows = search.to_arrow()
        if single:
            return [_Found(rows)]
        return [_Found(rows.filter(pc.field("query_index") == i)) for i in range(len(queries))]

    def _complete(self, query: np.ndarray, found: _Found, k: int) -> _Found:
        """What was found for `query` [D], asked for again where some of the `k` may be missing."""
        asked, ann = k + _SLACK, self._chosen
        # An ANN search can run dry under a filter: in the partitions nearest to the query there
        # may be little that it leaves, and in an earlier cliptune's graph paths end.
        while ann is not None and len(found) < min(asked, self._left):
            ann = None if ann == ann.everywhere else ann.everywhere
            [found] = self._ask(query[None], asked, ann)
        while len(found) >= asked and found.ends_in_tie(k):
            # Which of many equals come first is up to the ids: all of them must be seen.
            asked *= 8
            [found] = self._ask(query[None], asked, ann)
        return found

    @property
    def _chosen(self) -> AnnSearch | None:
        """How the ANN index is searched; None: where a filter leaves few rows, they are read."""
        return None if self._where is not None and self._left <= _FEW else self._ann

    @cached_property
    def _left(self) -> int:
        """How many rows the filter leaves."""
        return self._state.left_by(self._where)


def literal(text: str) -> str:
    """An SQL string literal: the quote is doubled, and there are no other escapes."""
    return "'" + text.replace("'", "''") + "'"


def to_sql(node: Node, negated: bool = False) -> str:
    """The SQL condition of a filter's tree, or of its negation.

    Negations move to the leaves by De Morgan's laws: LanceDB's planner takes exponential time
    over nested NOTs.
    """
    if isinstance(node, Not):
        return to_sql(node.item, not negated)
    if isinstance(node, And | Or):
        if not node.items:
            return "true" if isinstance(node, And) != negated else "false"
        word = " AND " if isinstance(node, And) != negated else " OR "
        return "(" + word.join(to_sql(item, negated) for item in node.items) + ")"
    sql = _among(node.field, node.values) if isinstance(node, In) else _compare(node)
    return f"(NOT {sql})" if negated else sql


def _compare(node: Compare) -> str:
    if node.op == "==":
        return _among(node.field, (node.value,))
    value = node.value
    if node.field.builtin:
        if not isinstance(value, str):
            return "false"
        return f"coalesce({node.field.name} {node.op} {literal(value)}, false)"
    if isinstance(value, str):
        kind, operand = "string", literal(value)
    else:
        kind, operand = "number", _number(value)
    bound = f"{kind}_{'min' if node.op in ('<', '<=') else 'max'}"
    path = literal(node.field.name)
    position = f"CAST(array_position({kind}_paths, {path}) AS BIGINT)"
    return f"coalesce(array_element({bound}, {position}) {node.op} {operand}, false)"


def _number(value: Scalar) -> str:
    assert isinstance(value, int | float)  # noqa: S101
    return f"CAST('{float(value)!r}' AS DOUBLE)"


def _among(field: Field, values: tuple[Scalar, ...]) -> str:
    given = [value for value in values if value is not None]
    parts: list[str] = []
    if len(given) < len(values):
        parts.append(_missing(field))
    if field.builtin:
        texts = list(dict.fromkeys(literal(value) for value in given if isinstance(value, str)))
        if texts:
            among = f"{field.name} IN ({', '.join(texts)})"
            parts.append(among if field.name == "id" else f"coalesce({among}, false)")
    elif given:
        terms = list(dict.fromkeys(literal(term(field.name, value)) for value in given))
        if len(terms) == 1:
            parts.append(f"array_has(terms, {terms[0]})")
        else:
            parts.append(f"array_has_any(terms, [{', '.join(terms)}])")
    return f"({' OR '.join(parts)})" if len(parts) > 1 else parts[0] if parts else "false"


def _missing(field: Field) -> str:
    if field.builtin:
        return "false" if field.name == "id" else f"({field.name} IS NULL)"
    return f"(NOT array_has(terms, {literal(term(field.name))}))"

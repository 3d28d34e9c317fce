"""What is asked of a Milvus collection: filters as its expressions, and the nearest neighbours.

Nothing of a filter reaches an expression but hexadecimal digits and numbers that this module
writes, over the columns that `rows` fills. Negations move to the leaves by De Morgan's laws, and a
leaf that may have no value stands beside a term that says so: what `not` means of a missing JSON
value differs between versions of Milvus.

Of the neighbours no match is left out, and ties are in the order of their ids.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cliptune.documents import Match
from cliptune.errors import BadFilter
from cliptune.index.filters.language import And, Compare, Field, In, Node, Not, Or, Scalar
from cliptune.index.milvus.collection import (
    EVERYTHING,
    Collection,
    among_keys,
    both,
    quoted,
)
from cliptune.index.milvus.rows import (
    ORDER_BYTES,
    field_key,
    hex_of,
    ordered_key,
    term_key,
    to_match,
)
from cliptune.index.tags import term

MAX_K = 16_384
"""Milvus' limit on the matches of one query."""
_SLACK = 8
_ROWS_A_CALL = 20_000
_QUERIES_A_CALL = 64
_BYTES_A_PAGE = 8 << 20
NOTHING = 'id == ""'
_OPPOSITE = {"<": ">=", "<=": ">", ">": "<=", ">=": "<"}


@dataclass(frozen=True)
class Searcher:
    """Searches of one collection for what `where` leaves, with at least `ef` candidates."""

    collection: Collection
    where: str | None
    ef: int

    def nearest(self, queries: np.ndarray, k: int) -> list[list[Match]]:
        """The `k` best matches of each query in float32 [Q, D], best first, ties by id."""
        matches: list[list[Match]] = []
        asked = min(k + _SLACK, MAX_K)
        step = max(1, min(_QUERIES_A_CALL, _ROWS_A_CALL // asked))
        for start in range(0, len(queries), step):
            group = queries[start : start + step]
            for query, hits in zip(group, self._ask(group, asked), strict=True):
                matches.append(self._settle(query, hits, k, asked))
        return matches

    def exact(self, queries: np.ndarray, k: int) -> list[list[Match]]:
        """As `nearest`, by comparing with every embedding that the filter leaves.

        They are all sent here: Milvus itself can't be told to leave its graphs aside.
        """
        units = queries.astype(np.float64)
        units /= np.linalg.norm(units, axis=1, keepdims=True)
        best: list[tuple[np.ndarray, np.ndarray]] = [
            (np.empty(0, np.float32), np.empty(0, object)) for _ in queries
        ]
        rows = max(64, min(4000, _BYTES_A_PAGE // (4 * queries.shape[1])))
        for page in self.collection.pages(self.where, ["embedding"], rows):
            embeddings = np.asarray([entity["embedding"] for entity in page], np.float64)
            embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
            keys = np.array([entity["id"] for entity in page], object)
            for position, unit in enumerate(units):
                # Rounding makes equal embeddings' scores equal whatever their place in the page.
                scores = np.concatenate([best[position][0], (embeddings @ unit).astype(np.float32)])
                joined = np.concatenate([best[position][1], keys])
                kept = np.argsort(-scores, kind="stable")[:k]  # pages come in order of ids
                best[position] = scores[kept], joined[kept]
        wanted = list(dict.fromkeys(key for _, keys in best for key in keys))
        there = self.collection.by_key(wanted, ["document"])
        return [
            [
                to_match(there[key], float(score))
                for score, key in zip(scores, keys, strict=True)
                if key in there
            ]
            for scores, keys in best
        ]

    def _ask(self, queries: np.ndarray, k: int, also: str | None = None) -> list[list[Match]]:
        where = both(self.where, also) if also else self.where
        answers = self.collection.search(queries, k, where, max(self.ef, 2 * k))
        return [[to_match(hit["entity"], hit["distance"]) for hit in hits] for hits in answers]

    def _settle(self, query: np.ndarray, hits: list[Match], k: int, asked: int) -> list[Match]:
        """The `k` best, after asking for more where some may be missing."""
        if len(hits) < asked and self.collection.count(self.where, wait=False) > len(hits):
            # A graph search can run dry under a filter that leaves little.
            return self.exact(query[None], k)[0]
        while len(hits) >= asked and _ends_in_tie(hits, k) and asked < MAX_K:
            # Which of many equals come first is up to the ids: all of them must be seen.
            asked = min(8 * asked, MAX_K)
            [hits] = self._ask(query[None], asked)
        if len(hits) >= asked and _ends_in_tie(hits, k):
            hits = self._first_of_many_equals(query, hits, k)
        return sorted(hits, key=_order)[:k]

    def _first_of_many_equals(self, query: np.ndarray, hits: list[Match], k: int) -> list[Match]:
        """The hits with the first ids, where more are equal than Milvus ranks.

        The k-th id seen so far bounds the ids that still matter, so a search among those up to it
        finds nearer ones or shows that there are none.
        """
        while True:
            best = sorted(hits, key=_order)[:k]
            [among] = self._ask(query[None], MAX_K, f"id <= {quoted(hex_of(str(best[-1].id)))}")
            known = {str(hit.id): hit for hit in [*best, *among]}
            hits = sorted(known.values(), key=_order)
            if [hit.id for hit in hits[:k]] == [hit.id for hit in best]:
                return hits


def _order(match: Match) -> tuple[float, bytes]:
    """Best first, ties by id."""
    return -match.score, str(match.id).encode()


def _ends_in_tie(hits: list[Match], k: int) -> bool:
    scores = sorted((hit.score for hit in hits), reverse=True)
    return scores[-1] == scores[k - 1]


def to_expression(node: Node, negated: bool = False) -> str:
    """The expression of a filter's tree, or of its negation.

    Raises `BadFilter` for an order's comparison with a string of more than 512 bytes.
    """
    if isinstance(node, Not):
        return to_expression(node.item, not negated)
    if isinstance(node, And | Or):
        if not node.items:
            return EVERYTHING if isinstance(node, And) != negated else NOTHING
        word = " and " if isinstance(node, And) != negated else " or "
        return "(" + word.join(to_expression(item, negated) for item in node.items) + ")"
    if isinstance(node, In):
        return _among(node.field, node.values, negated)
    if node.op == "==":
        return _among(node.field, (node.value,), negated)
    return _ordered(node, negated)


def _ordered(node: Compare, negated: bool) -> str:
    op = _OPPOSITE[node.op] if negated else node.op
    value, name = node.value, node.field.name
    if isinstance(value, str) and len(value.encode()) > ORDER_BYTES:
        raise BadFilter(
            f"filter: {node.field} {node.op} a string of {len(value.encode())} bytes; Milvus' "
            f"indexes compare the order with up to {ORDER_BYTES}"
        )
    if node.field.builtin:
        if not isinstance(value, str):
            return EVERYTHING if negated else NOTHING
        if name == "id":
            return f"id {op} {quoted(hex_of(value))}"
        there, compared = field_key(name), f"{name}_order {op} {quoted(hex_of(value))}"
    else:
        there = ordered_key("string" if isinstance(value, str) else "number", name)
        bound = "low" if node.op in ("<", "<=") else "high"
        compared = f'{bound}["{there}"] {op} {_literal(value)}'
    if negated:
        return f"({_has([there], True)} or {compared})"
    return f"({_has([there])} and {compared})"


def _among(field: Field, values: tuple[Scalar, ...], negated: bool) -> str:
    given = [value for value in values if value is not None]
    parts: list[str] = []
    if len(given) < len(values) and not (field.builtin and field.name == "id"):
        there = field_key(field.name) if field.builtin else term_key(term(field.name))
        parts.append(_has([there], not negated))
    if field.builtin:
        texts = list(dict.fromkeys(value for value in given if isinstance(value, str)))
        if texts and field.name == "id":
            parts.append(
                f"{'not ' if negated else ''}({among_keys([hex_of(text) for text in texts])})"
            )
        elif texts:
            parts.append(_has([field_key(field.name, text) for text in texts], negated))
    elif given:
        terms = dict.fromkeys(term_key(term(field.name, value)) for value in given)
        parts.append(_has(list(terms), negated))
    if not parts:
        return EVERYTHING if negated else NOTHING
    return f"({(' and ' if negated else ' or ').join(parts)})"


def _has(terms: list[str], negated: bool = False) -> str:
    """The document has one of the terms, or with `negated` none of them."""
    listed = ", ".join(map(quoted, terms))
    condition = (
        f"array_contains(terms, {listed})"
        if len(terms) == 1
        else f"array_contains_any(terms, [{listed}])"
    )
    return f"(not {condition})" if negated else condition


def _literal(value: Scalar) -> str:
    if isinstance(value, str):
        return quoted(hex_of(value))
    assert isinstance(value, int | float)  # noqa: S101
    return repr(float(value))

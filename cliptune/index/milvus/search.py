"""Nearest neighbours from a Milvus collection, with ties in order and no match left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cliptune.documents import Match
from cliptune.index.milvus.expression import both, up_to_id
from cliptune.index.milvus.rows import to_match

if TYPE_CHECKING:
    from cliptune.index.milvus.collection import Collection

MAX_K = 16_384
"""Milvus' limit on the matches of one query."""
_SLACK = 8
_ROWS_A_CALL = 20_000
_QUERIES_A_CALL = 64
_BYTES_A_PAGE = 8 << 20


@dataclass
class _Hit:
    score: float
    match: Match

    @property
    def order(self) -> tuple[float, bytes]:
        """Best first, ties by id."""
        return -self.score, str(self.match.id).encode()


class Searcher:
    """Searches of one collection under one filter."""

    def __init__(self, collection: Collection, where: str | None, ef: int) -> None:
        """Search what `where` leaves, with at least `ef` candidates."""
        self.collection = collection
        self.where = where
        self.ef = ef

    def nearest(self, queries: np.ndarray, k: int) -> list[list[Match]]:
        """The `k` best matches of each query in float32 [Q, D], best first, ties by id."""
        found: list[list[Match]] = []
        asked = min(k + _SLACK, MAX_K)
        step = max(1, min(_QUERIES_A_CALL, _ROWS_A_CALL // asked))
        for start in range(0, len(queries), step):
            group = queries[start : start + step]
            for query, hits in zip(group, self._ask(group, asked), strict=True):
                found.append(self._settle(query, hits, k, asked))
        return found

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

    def _ask(self, queries: np.ndarray, k: int, also: str | None = None) -> list[list[_Hit]]:
        where = both(self.where, also) if also else self.where
        answers = self.collection.search(queries, k, where, max(self.ef, 2 * k))
        return [[_hit(one) for one in hits] for hits in answers]

    def _settle(self, query: np.ndarray, hits: list[_Hit], k: int, asked: int) -> list[Match]:
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
        return [hit.match for hit in sorted(hits, key=lambda hit: hit.order)[:k]]

    def _first_of_many_equals(self, query: np.ndarray, hits: list[_Hit], k: int) -> list[_Hit]:
        """The hits with the first ids, where more are equal than Milvus ranks.

        The k-th id seen so far bounds the ids that still matter, so a search among those up to it
        finds nearer ones or shows that there are none.
        """
        while True:
            best = sorted(hits, key=lambda hit: hit.order)[:k]
            [among] = self._ask(query[None], MAX_K, up_to_id(str(best[-1].match.id)))
            known = {str(hit.match.id): hit for hit in [*best, *among]}
            hits = sorted(known.values(), key=lambda hit: hit.order)
            if [hit.match.id for hit in hits[:k]] == [hit.match.id for hit in best]:
                return hits


def _hit(one: dict[str, Any]) -> _Hit:
    match = to_match(one["entity"], one["distance"])
    return _Hit(match.score, match)


def _ends_in_tie(hits: list[_Hit], k: int) -> bool:
    scores = sorted((hit.score for hit in hits), reverse=True)
    return bool(scores[-1] == scores[k - 1])

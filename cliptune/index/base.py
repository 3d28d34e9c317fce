"""The index: embedded documents that are found again by what a query's embedding is near to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from typing import Literal, NamedTuple, Self

import numpy as np
from docarray import DocList

from cliptune.documents import ClipDoc, Match
from cliptune.errors import BadInput
from cliptune.index.checks import (
    check_digests,
    check_docs,
    check_ids,
    check_queries,
    check_scan,
    check_window,
    check_without,
)
from cliptune.index.filters.language import Filter, Node
from cliptune.index.filters.parser import parse_filter
from cliptune.index.filters.warnings import FilterWarnings, Version
from cliptune.index.metadata import EmbeddingSpace, Storage, TunedSearch
from cliptune.index.tags import names_in, texts_in

SAMPLE = 2000
"""Documents that are read for near matches of a tag's name."""


@dataclass(frozen=True)
class IndexStatus:
    """What an index holds and how it answers."""

    rows: int
    """Documents in the index."""
    dim: int | None
    """Length of the embeddings; None until the first documents came."""
    model_digest: str | None
    """The model whose embeddings these are; None until the first documents came."""
    state: Literal["flat", "building", "ready"]
    """'flat': searched exhaustively; 'building': `optimize` is at work; 'ready': through an ANN
    index."""
    unindexed_rows: int
    """Documents outside the ANN index: they are searched too, exhaustively."""
    optimize_due: bool
    """Whether `optimize` would make searches noticeably faster."""
    uri: str
    """Where the index is."""
    store: str
    """The store's name: 'lance' or 'milvus'."""
    storage: Storage = "float32"
    """How the embeddings are kept."""

    def to_dict(self) -> dict[str, str | int | bool | None]:
        """The fields as a dict, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Search:
    """A search as a store is asked for it."""

    embeddings: np.ndarray
    model_digest: str
    limit: int
    """So many matches a query, those included that paging will leave out."""
    where: Node | None
    exact: bool

    def queries(self, space: EmbeddingSpace | None) -> np.ndarray:
        """The embeddings as float32 [Q, D], checked against the index's (None: it is empty)."""
        return check_queries(self.embeddings, self.model_digest, space)


class Parts(NamedTuple):
    """What besides the rest a store is to read of documents: both may be large."""

    embedding: bool
    image: bool


class Index(ABC):
    """Documents with embeddings of one model, kept durably, searched by cosine similarity.

    ::

        with open_index("~/shop-index") as index:
            index.add(docs)  # ClipDocs with id, embedding and model_digest
            [matches] = index.search(
                tower.encode(["red rain boots"]), tower.digest, limit=20, filter="price < 30"
            )
            index.delete(ids=["1234"])

    **One model.** The first documents stamp the index with their `model_digest` and dimension.
    Documents and queries of another model raise `ModelMismatch`: their similarities would be
    meaningless. The stamp stays until `clear`, even when all documents have been deleted.

    **What is kept** of a document: id, text, uri, label, tags (exactly, as JSON has them), the
    embedding (as float32, or as the store's `storage` option says), its picture's SHA-256, and its
    picture's bytes if the store was opened with `store_images`.

    **Ids** are 1 to 512 bytes of UTF-8 without NUL; an `add` replaces the document of the same id.

    **Filters** (`filter=`) are expressions or mappings over tags and fields: see `filters`.

    **Threads and processes.** One object may be used by many threads. Stores that are folders may
    be open in several processes; a write is seen by the others' next call. An object must not
    be carried through a fork: open it in the process that uses it.

    All methods raise `BadInput` for wrong arguments and `Unavailable` if the store can't answer.

    A store implements the methods of the same names with an underscore, which get arguments that
    have been checked.
    """

    def add(self, docs: DocList[ClipDoc]) -> int:
        """Insert `docs`, replacing those whose ids are there; durable when it returns.

        All of the batch is written or nothing is; only in Milvus, a batch whose `add` raised
        `Unavailable` may be there in part: repeat it. Of several documents with one id in a batch
        the last is kept, as if they had been added one after the other. Transactions cost about
        15 ms: add batches of hundreds, not single documents, where you can.

        A document without the picture's bytes keeps the `image_digest` that it has.

        Returns: the number of documents written.
        Raises: `BadInput` naming position and id for a missing or malformed id, embedding
        (float [D], finite, not all zero, of the index's D), digest or tag; `ModelMismatch`.
        """
        self._check_open()
        check_docs(docs)
        return self._add(docs) if len(docs) else 0

    def search(
        self,
        embeddings: np.ndarray,
        model_digest: str,
        *,
        limit: int = 10,
        offset: int = 0,
        filter: Filter | None = None,
        score_threshold: float | None = None,
        exact: bool = False,
        without: Sequence[Collection[str]] = (),
    ) -> list[DocList[Match]]:
        """The nearest documents of each query.

        Args:
            embeddings: float [Q, D], of any length but zero.
            model_digest: of the model that made them; another than the index's raises
                `ModelMismatch`.
            limit: at most so many matches a query, after leaving out the `offset` best.
                offset + limit is at most 10,000.
            offset: how many of the best to leave out, for paging.
            filter: only documents that it holds for are considered (before the search, so
                `limit` is reached if there are so many).
            score_threshold: only matches of at least this score.
            exact: compare with every document, even if there is an ANN index. In Milvus this
                reads every embedding over the network: for checks, not for serving.
            without: for each query the ids of documents that are no matches of it, at most 1,000:
                those that it was made of. Empty: none, for no query.

        Returns: for each query its matches, best first, ties by id; scores are cosines in
        [-1, 1]. An index without documents gives no matches.
        """
        check_window(limit, offset, score_threshold)
        left_out = check_without(without, len(embeddings))
        asked = offset + limit + max(map(len, left_out), default=0) if limit else 0
        search = Search(embeddings, model_digest, asked, parse_filter(filter), exact)
        least = -np.inf if score_threshold is None else score_threshold
        return [
            DocList[Match](match for match in matches if match.score >= least)
            for matches in self._ranked(search, left_out, slice(offset, offset + limit))
        ]

    def _ranked(
        self, search: Search, without: Sequence[frozenset[str]], window: slice
    ) -> Iterator[list[Match]]:
        """Each query's matches in a window, best first."""
        for position, matches in enumerate(self._search(search)):
            ids = without[position] if without else frozenset()
            yield [match for match in matches if match.id not in ids][window]

    def embeddings(self, ids: Iterable[str], model_digest: str) -> dict[str, np.ndarray]:
        """The stored embeddings with these ids, float32 [D] each; ids that aren't there are left
        out.

        Raises:
            ModelMismatch: the index holds embeddings of another model than `model_digest`.
        """
        stored = self._get(check_ids(ids), Parts(embedding=True, image=False))
        check_digests(stored, model_digest)
        return {str(doc.id): np.asarray(doc.embedding) for doc in stored}

    def delete(self, *, ids: Iterable[str] | None = None, filter: Filter | None = None) -> int:
        """Delete the documents with these ids, or those a filter holds for, or (both) that do both.

        Returns: how many were deleted; ids that aren't there count nothing. An empty filter
        raises `BadInput`: `clear` deletes everything.
        """
        where = parse_filter(filter)
        if ids is None and where is None:
            raise BadInput("delete: give ids or a filter; clear() deletes everything")
        return self._delete(None if ids is None else check_ids(ids), where)

    def get(
        self,
        ids: Iterable[str],
        *,
        include_embedding: bool = False,
        include_image: bool = False,
    ) -> DocList[ClipDoc]:
        """The documents with these ids, in the order asked for; ids that aren't there are left out.

        With `include_embedding` they have `embedding` (float32 [D]) and `model_digest`, with
        `include_image` the stored picture's bytes.
        """
        return self._get(check_ids(ids), Parts(include_embedding, include_image))

    def scan(
        self,
        *,
        after: str | None = None,
        batch_size: int = 1000,
        include_embedding: bool = False,
        include_image: bool = False,
    ) -> Iterator[DocList[ClipDoc]]:
        """All documents in batches, in ascending order of their ids (as UTF-8), as `get` has them.

        Args:
            after: leave out the documents up to this id: a scan goes on where another one ended.
            batch_size: documents in a batch; keep it small where pictures are included.
            include_embedding, include_image: as `get` has them.

        A folder's index gives the documents as they were when the scan began. Others give each
        document as it is when its batch is read.
        """
        check_scan(after, batch_size)
        self._check_open()
        return self._scan(after, batch_size, Parts(include_embedding, include_image))

    def count(self, filter: Filter | None = None) -> int:
        """How many documents there are, or how many a filter holds for."""
        return self._count(parse_filter(filter))

    def warnings(self, filter: Filter | None, *, found: bool) -> list[str]:
        """Sentences about what of a filter can never hold, for who has written it.

        Tags that no document has, or never of the type that they are compared with, with near
        matches; where nothing was found also values that occur in another case. Or that the index
        is empty. It is cheap for filters that find something: see `filter_warnings`.

        Args:
            filter: as `search`, `delete` and `count` take it.
            found: whether it held for any document.
        """
        return self._filter_warnings.of(filter, found=found)

    @cached_property
    def _filter_warnings(self) -> FilterWarnings:
        return FilterWarnings(self)

    def version(self) -> Version:
        """Which state the index is in."""
        return Version(self.status().uri, None)

    def tag_names(self) -> frozenset[str]:
        """The tags' paths (`size.width`) that documents have, for near matches.

        Those of some thousand documents, where the store has no quicker way to all of them.
        """
        return names_in(doc.tags for doc in self._some())

    def tag_values(self, path: str) -> frozenset[str]:
        """Texts that stand at a tag's path, for near matches; of how many documents, as above."""
        return texts_in((doc.tags for doc in self._some()), path)

    def _some(self) -> Iterator[ClipDoc]:
        docs = (doc for batch in self.scan(batch_size=1000) for doc in batch)
        return islice(docs, SAMPLE)

    @abstractmethod
    def clear(self) -> None:
        """Delete everything, the stamp included: the next `add` may be of another model."""

    @abstractmethod
    def status(self) -> IndexStatus:
        """Rows, dimension, digest and state."""

    @abstractmethod
    def optimize(self) -> IndexStatus:
        """Build or refresh the ANN index and tidy the storage; searches and writes go on meanwhile.

        Call it after loading much, and when `status().optimize_due` says so.
        """

    def tune(
        self,
        queries: np.ndarray | None = None,
        model_digest: str | None = None,
        *,
        recall: float = 0.98,
        progress: Callable[[int, int], None] = lambda done, most: None,
    ) -> TunedSearch:
        """Choose how the ANN index is searched by what it finds, and keep that with the index.

        It is the fastest way that finds the share `recall` of each query's ten nearest, compared
        with an exact search; or the one that finds most, where none does. The same holds for all
        processes that have the index open, until the index has twice the documents.

        Args:
            queries: float [Q, D] of queries as they will be asked, some hundred; None: of
                documents. Titles lie elsewhere than pictures do, and are harder to answer.
            model_digest: of the model that made the queries.
            recall: more than 0 and at most 1.
            progress: is told of each setting tried: how many so far, and of how many at most.

        Raises:
            BadInput: it has no ANN index, or is no folder; a value is out of range.
            ModelMismatch: the queries are another model's.
        """
        raise BadInput(
            f"{self.status().uri}: only a folder's index is tuned; of a collection in Milvus say "
            "how many candidates a search has, `?ef=` in its address"
        )

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections; any later call raises `BadInput`."""

    @abstractmethod
    def _check_open(self) -> None: ...

    @abstractmethod
    def _add(self, docs: DocList[ClipDoc]) -> int: ...

    @abstractmethod
    def _search(self, search: Search) -> list[list[Match]]: ...

    @abstractmethod
    def _delete(self, ids: list[str] | None, where: Node | None) -> int: ...

    @abstractmethod
    def _get(self, ids: list[str], parts: Parts) -> DocList[ClipDoc]: ...

    @abstractmethod
    def _scan(
        self, after: str | None, batch_size: int, parts: Parts
    ) -> Iterator[DocList[ClipDoc]]: ...

    @abstractmethod
    def _count(self, where: Node | None) -> int: ...

    def __enter__(self) -> Self:
        """The index itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the index."""
        self.close()
